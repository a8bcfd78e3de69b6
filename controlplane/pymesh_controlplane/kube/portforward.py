"""A connection into a pod, by way of the API server: to one port, on the pod's own loopback.

One WebSocket is one connection. Each port has two channels, for its data and for what went wrong; every message begins
with the number of its channel, and the first message of each channel is the port once more, two bytes, little endian.
Kubernetes has this from 1.5 to (at least) 1.36, and no kubelet needs to be asked for it; kubectl itself prefers SPDY in
a tunnel, which is not spoken here.

Who asks waits in an event loop of the connection's own: OpenSSL allows no two calls at a time on one connection, and
websockets' blocking client makes them, for it reads in a thread. There, too, a session ticket (TLS 1.3) is taken for an
answer: the thread reads on without a limit, nothing wakes it, and what closes the connection waits for its end.

Source: k8s.io/cri-streaming, portforward/websocket.go (`v4.channel.k8s.io`).
"""

import asyncio
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from pymesh.errors import printable
from pymesh_controlplane.kube.api import Api, ApiError

PROTOCOL: Final = Subprotocol("v4.channel.k8s.io")
# Seconds until the connection stands, for it goes through three processes; for a part of an answer; and until what is
# sent is under way: questions are small, and only a connection that has stalled has no room for one.
OPEN_TIMEOUT: Final = 10.0
READ_TIMEOUT: Final = 15.0
WRITE_TIMEOUT: Final = 10.0
# Seconds for the goodbye; the far end may be gone.
CLOSE_TIMEOUT: Final = 1.0
# Bytes of one message: kubelet sends 32 KiB at most.
MAX_MESSAGE: Final = 1024 * 1024

_DATA: Final = 0
_ERROR: Final = 1


class BrokenError(ApiError):
    """There was a connection, and there is none any more: what was asked may be asked again over another one."""


class Stream:
    """The bytes to and from a port of a pod; of one thread at a time."""

    def __init__(self, runner: asyncio.Runner, socket: ClientConnection, where: str, port: int) -> None:
        self._runner = runner
        self._socket = socket
        self._where = where
        self._port = struct.pack("<H", port)
        self._begun: set[int] = set()

    def send(self, data: bytes) -> None:
        """Send all of `data`.

        Raises:
            ApiError: the connection is gone, or takes nothing.
        """
        try:
            self._runner.run(asyncio.wait_for(self._socket.send(bytes((_DATA,)) + data), WRITE_TIMEOUT))
        except TimeoutError:
            raise ApiError(f"{self._where}: nothing could be sent within {WRITE_TIMEOUT:g} s") from None
        except (ConnectionClosed, OSError) as error:
            raise self._gone(error) from None

    def receive(self) -> bytes:
        """What came next; empty once the pod has closed the connection.

        Raises:
            ApiError: nothing came in time, or the node says why there is no connection.
        """
        while True:
            try:
                message = self._runner.run(asyncio.wait_for(self._socket.recv(), READ_TIMEOUT))
            except TimeoutError:
                raise ApiError(f"{self._where}: no answer within {READ_TIMEOUT:g} s") from None
            except ConnectionClosed as error:
                if error.rcvd is not None and error.rcvd.code == 1000:
                    return b""
                raise self._gone(error) from None
            except OSError as error:
                raise self._gone(error) from None
            if not isinstance(message, bytes) or not message or message[0] not in {_DATA, _ERROR}:
                raise ApiError(f"{self._where}: the API server sends what is not {PROTOCOL}")
            channel, data = message[0], message[1:]
            if channel not in self._begun:
                self._begun.add(channel)
                if data[:2] != self._port:
                    raise ApiError(f"{self._where}: the API server has forwarded another port")
                data = data[2:]
            if channel == _ERROR and data:
                raise BrokenError(f"{self._where}: {printable(data.decode(errors='replace').strip())}")
            if data:
                return data

    def _gone(self, error: Exception) -> BrokenError:
        return BrokenError(f"{self._where}: the connection through the API server broke ({printable(str(error))})")


@contextmanager
def forward(api: Api, namespace: str, pod: str, port: int) -> Iterator[Stream]:
    """A connection to `port` in a pod, for as long as the block runs.

    Raises:
        ApiError: there is none to be had; the text says why, as far as that is known.
    """
    where = f"context {api.context}: {namespace}/{pod} port {port}"
    there = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}/portforward"
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        socket = _opened(runner, api, f"{there}?{urlencode({'ports': port})}", where)
        try:
            if socket.subprotocol != PROTOCOL:
                sentence = f"the API server forwards, but not by {PROTOCOL}: a proxy before it may take that away"
                raise ApiError(f"{where}: {sentence}")
            yield Stream(runner, socket, where, port)
        finally:
            runner.run(_close(socket))


def _opened(runner: asyncio.Runner, api: Api, there: str, where: str) -> ClientConnection:
    server = urlsplit(api.config.cluster.server)
    scheme = "wss" if server.scheme == "https" else "ws"
    authorization, tls = api.authorization(), api.tls()

    async def opened() -> ClientConnection:
        return await connect(
            f"{scheme}://{server.netloc}{server.path.rstrip('/')}{there}",
            ssl=tls,
            subprotocols=[PROTOCOL],
            additional_headers={"Authorization": authorization} if authorization else {},
            compression=None,
            proxy=api.proxy or True,
            open_timeout=OPEN_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            ping_interval=None,  # of three processes on the way, not all answer
            max_size=MAX_MESSAGE,
        )

    try:
        return runner.run(opened())
    except InvalidStatus as error:
        raise _refused(where, error) from None
    except WebSocketException as error:  # also a redirect to somewhere else, and an odd proxy in the environment
        sentence = f"the API server does not forward by WebSocket {PROTOCOL} ({printable(str(error))})"
        raise ApiError(f"{where}: {sentence}; kubectl port-forward may still do") from None
    except TimeoutError:
        raise ApiError(f"{where}: no connection through the API server within {OPEN_TIMEOUT:g} s") from None
    except (OSError, ValueError) as error:
        raise ApiError(f"{where}: no connection through the API server ({printable(str(error))})") from None


async def _close(socket: ClientConnection) -> None:
    """Say goodbye; to a far end that is gone, or takes nothing, for no longer than it is heard."""
    try:
        await asyncio.wait_for(socket.close(), 2 * CLOSE_TIMEOUT)
    except TimeoutError:
        socket.transport.abort()


def _refused(where: str, error: InvalidStatus) -> ApiError:
    code = error.response.status_code
    body = bytes(error.response.body or b"").decode(errors="replace").strip()
    said = printable(_message(body) or body[:500]) or f"the API server answers {code}"
    if code == 403:
        said = f"not permitted: {said}; it takes the verbs get and create on pods/portforward in this namespace"
    return ApiError(f"{where}: {said}", code, said)


def _message(body: str) -> str:
    """The message of a Status, as the API server says no."""
    try:
        document = json.loads(body)
    except ValueError:
        return ""
    return str(document.get("message") or "") if isinstance(document, dict) else ""
