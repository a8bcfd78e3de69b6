"""Asks the app what a kubelet wants to know of it, and answers on the sidecar's status port (15020).

A kubelet has no certificate of the mesh. So the injector leads its probes here (`pymesh.app_probes`), and this asks the
app as inbound traffic is handed to it: at the pod's own address, from 127.0.0.6, which the redirect leaves alone. An
app that listens on loopback only fails its probes, as it does without a mesh. Whatever is asked stands in the
configuration; nothing of a request but its path counts. Source: Kubernetes, "Configure Liveness, Readiness and Startup
Probes" and its prober (redirects, status codes).
"""

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

import h11
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from pymesh import names
from pymesh.app_probes import MAX_TIMEOUT, OWN_PORTS, VARIABLE, AppProbe, Check, GrpcCheck, HttpCheck, TcpCheck, parse
from pymesh.errors import ConfigError
from pymesh.grpc.status import RpcError
from pymesh_proxy.admin import CONNECTION_TIMEOUT, Answer, HttpPort, Page, Query, text
from pymesh_proxy.control.channel import Channel, ClientLink
from pymesh_proxy.control.target import Target
from pymesh_proxy.options import Options
from pymesh_proxy.transport.accept import listen

log = logging.getLogger("pymesh.probes")

# As a kubelet: bytes of an answer's body that are read, and redirects to the same host that are followed.
MAX_BODY: Final = 10 * 1024
MAX_REDIRECTS: Final = 10
# Characters in the log of what was said by others about a probe that failed.
MAX_DETAIL: Final = 200
# Many apps know a probe by the first word, and do not log it.
USER_AGENT: Final = "kube-probe/1 (pymesh-proxy)"

_HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
_SERVING: Final = 1
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# Characters of a path and query that stand for themselves: RFC 3986, 3.3 and 3.4, and escapes that are there already.
_AS_THEY_ARE: Final = "/?:@!$&'()*+,;=%-._~"


class ProbeError(Exception):
    """The app does not pass; the text says why, in words of ours: whoever reaches the pod is told.

    Attributes:
        status: what the app answered itself, if it did.
        detail: what it or a library said of it, which may be anything: for the log alone.
    """

    def __init__(self, why: str, status: int = 503, detail: object = "") -> None:
        self.status = status
        self.detail = str(detail)
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class _HttpAnswer:
    status: int
    location: str


class AppHealth:
    """The probes of one pod's app, whose `address` is the pod's own."""

    def __init__(self, probes: Mapping[str, AppProbe], address: str) -> None:
        self._probes = probes
        self._address = address
        self._source = names.INBOUND_SOURCE_V6 if ":" in address else names.INBOUND_SOURCE_V4
        self._passed: dict[str, bool] = {}

    @property
    def patience(self) -> float:
        """Seconds that a connection to the status port may have to last."""
        longest = max((probe.timeout for probe in self._probes.values()), default=0)
        return max(CONNECTION_TIMEOUT, longest + 5.0)

    def pages(self) -> Mapping[str, Page]:
        """What there is to ask."""
        return {path: Page(partial(self._answer, path), "asks the app") for path in self._probes}

    async def _answer(self, path: str, _: Query) -> Answer:
        probe = self._probes[path]
        try:
            async with asyncio.timeout(probe.timeout):
                await self._ask(probe.check)
        except TimeoutError:
            return self._failed(path, ProbeError(f"no answer within {probe.timeout} s"))
        except ProbeError as error:
            return self._failed(path, error)
        except ssl.SSLError as error:  # its errno is a number of OpenSSL's
            return self._failed(path, ProbeError("no TLS", detail=error))
        except OSError as error:
            # asyncio's own text for a failed connect does not say what failed.
            return self._failed(path, ProbeError(os.strerror(error.errno) if error.errno else str(error)))
        if not self._passed.get(path, True):
            log.info("%s passes again", path)
        self._passed[path] = True
        return text("ok")

    def _failed(self, path: str, error: ProbeError) -> Answer:
        # Once, since a kubelet tells the status and no more, and asks every few seconds.
        if self._passed.get(path, True):
            log.warning("%s fails: %s%s", path, error, f": {error.detail[:MAX_DETAIL]!r}" if error.detail else "")
        self._passed[path] = False
        return text(str(error), error.status)

    async def _ask(self, check: Check) -> None:
        """Raises ProbeError or OSError where the app does not pass."""
        if isinstance(check, HttpCheck):
            await self._ask_http(check)
        elif isinstance(check, GrpcCheck):
            await self._ask_grpc(check)
        else:
            await self._ask_tcp(check)

    async def _ask_tcp(self, check: TcpCheck) -> None:
        _, writer = await asyncio.open_connection(self._address, check.port, local_addr=(self._source, 0))
        await _close(writer)

    async def _ask_grpc(self, check: GrpcCheck) -> None:
        target = Target(self._address, check.port)

        async def dial() -> ClientLink:
            link = ClientLink(str(target), str(target), secure=False)
            await asyncio.get_running_loop().create_connection(
                lambda: link, self._address, check.port, local_addr=(self._source, 0)
            )
            return link

        channel = Channel(target, dial=dial)
        # grpc.health.v1 in the encoding of two messages that protobuf brings along: one string, one enum, both field 1.
        request = StringValue(value=check.service).SerializeToString()
        try:
            raw = await channel.unary(_HEALTH_CHECK, request, within=MAX_TIMEOUT)
            status = Int32Value.FromString(raw).value
        except RpcError as error:
            raise ProbeError(f"gRPC: {error.status.code.name}", detail=error.status.message) from None
        finally:
            await channel.close()
        if status != _SERVING:
            raise ProbeError(f"gRPC: service {check.service!r} has status {status}, not SERVING")

    async def _ask_http(self, check: HttpCheck) -> None:
        host = f"[{self._address}]" if ":" in self._address else self._address
        path = check.path if check.path.startswith("/") else f"/{check.path}"
        url = f"{'https' if check.secure else 'http'}://{host}:{check.port}{quote(path, safe=_AS_THEY_ARE)}"
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._get(url, check.headers)
            following = self._following(url, answer)
            if following is None:
                break
            url = following
        else:
            raise ProbeError(f"more than {MAX_REDIRECTS} redirects")
        if not 200 <= answer.status < 400:
            status = answer.status if answer.status >= 400 else 502
            raise ProbeError(f"the app answers {answer.status}", status)

    def _following(self, url: str, answer: _HttpAnswer) -> str | None:
        """Where a redirect leads; None for one to another host, which passes as it is, and to the sidecar itself."""
        if answer.status not in _REDIRECTS or not answer.location:
            return None
        try:
            parts = urlsplit(urljoin(url, answer.location))
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            return None
        if parts.scheme not in {"http", "https"} or parts.hostname != self._address or port in OWN_PORTS:
            return None
        return parts._replace(path=quote(parts.path, safe=_AS_THEY_ARE), fragment="").geturl()

    async def _get(self, url: str, headers: tuple[tuple[str, str], ...]) -> _HttpAnswer:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        reader, writer = await asyncio.open_connection(
            self._address,
            port,
            local_addr=(self._source, 0),
            ssl=_unverified() if secure else None,
            server_hostname=self._address if secure else None,
        )
        try:
            connection = h11.Connection(h11.CLIENT)
            given = {name.lower() for name, _ in headers}
            usual = (("host", parts.netloc), ("user-agent", USER_AGENT), ("accept", "*/*"))
            fields = [*(field for field in usual if field[0] not in given), *headers, ("connection", "close")]
            target = parts._replace(scheme="", netloc="", path=parts.path or "/").geturl()
            request = h11.Request(method="GET", target=target, headers=fields)
            writer.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
            return await _read(connection, reader)
        except (h11.LocalProtocolError, h11.RemoteProtocolError) as error:
            raise ProbeError("no HTTP", detail=error) from None
        finally:
            await _close(writer)


def _unverified() -> ssl.SSLContext:
    """As a kubelet: an app's certificate is for its users, not for the pod's address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> _HttpAnswer:
    """The answer, of whose body at most MAX_BODY bytes are read, and none kept."""
    status, location, length = 0, "", 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(MAX_BODY))
        elif isinstance(event, h11.Response):
            status = event.status_code
            location = next((v.decode("latin-1") for name, v in event.headers if name == b"location"), "")
        elif isinstance(event, h11.Data):
            length += len(event.data)
        elif isinstance(event, h11.ConnectionClosed):
            raise ProbeError("closed before the answer")
        if isinstance(event, h11.EndOfMessage) or length >= MAX_BODY:
            return _HttpAnswer(status, location)


async def _close(writer: asyncio.StreamWriter) -> None:
    # The answer is there: how the other side says goodbye is its own affair, and takes no time of ours.
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def app_health(options: Options, environment: Mapping[str, str]) -> AppHealth | None:
    """What the pod's environment asks for; None if nothing.

    Raises:
        ConfigError: it cannot be read, or there is no port or address to do it.
    """
    configured = environment.get(VARIABLE, "")
    if not configured:
        return None
    if not options.status_port:
        raise ConfigError("there is no port to answer at: add --status-port", path=VARIABLE)
    address = environment.get("INSTANCE_IP", "")
    if not address:
        raise ConfigError("INSTANCE_IP, the pod's address, is needed to ask the app", path=VARIABLE)
    return AppHealth(parse(configured), address)


@contextlib.asynccontextmanager
async def serving(options: Options, environment: Mapping[str, str]) -> AsyncIterator[None]:
    """The status port of an agent, which has no pages but the app's; none where nothing is configured."""
    health = app_health(options, environment)
    if health is None:
        yield
        return
    port = HttpPort(asyncio.get_running_loop(), health.pages(), health.patience)
    await port.listen(listen("", options.status_port))
    try:
        yield
    finally:
        port.close()
