"""TLS in front of gRPC: it terminates the connections of ports 15012 and 9091 and remembers whom each belongs to.

grpcio's server either demands a client certificate from everybody or asks nobody for one. Port 15012 needs both: a new
workload has a token and no certificate yet, a running one shows its certificate. So TLS ends here, with the standard
library, and the bytes go on to a gRPC server that listens on loopback only. Each of those inner connections has a
source port of its own, under which the gRPC side looks up who is at the other end. A connection to the inner server
that is not in that table did not come through here and is refused by whoever asks.

Our own gRPC server, on port 9091, has its connections from here without that detour: the table then has the client's
own address and port.

Ending TLS here also bounds the handshake in time, and lets the server's certificate change between two of them. What
OpenSSL does not look at again where a session is resumed is looked at here: whether the client's certificate has ended.
"""

import asyncio
import contextlib
import errno
import logging
import math
import os
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from pymesh_controlplane.citadel.attestation import TlsPeer
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.tasks import until_first_ends

log = logging.getLogger("pymesh.citadel")

# Seconds. A handshake takes milliseconds of work and two round trips; who needs longer is stuck or hostile.
HANDSHAKE_TIMEOUT: Final = 10.0
# Connections at once. Each takes three descriptors and about 50 kB; a larger mesh has more than one control plane.
MAX_CONNECTIONS: Final = 4096
# Of them from one address, so that no pod can lock the others out. A sidecar has two at most; but all pods of a node
# share its address where they are on its network or a CNI hides them behind it, and Kubernetes has up to 110 on one.
MAX_CONNECTIONS_PER_ADDRESS: Final = 256
# Seconds between two lines of the log about connections that were refused for their number; the metric counts each.
REFUSAL_LOG_INTERVAL: Final = 60.0
# Bytes read at once, and held for a side that does not take them: the reading of the other side pauses meanwhile.
CHUNK: Final = 64 * 1024
# Seconds for a side to take the most of what is held for it: whoever reads at all needs less.
TAKE_TIMEOUT: Final = 60.0
# Seconds for a client to take what is left and answer the end of TLS.
CLOSE_TIMEOUT: Final = 1.0
# Seconds to wait after the process ran out of descriptors, before the next accept.
ACCEPT_PAUSE: Final = 0.5

_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def server_context(root_pem: str, *, demand: bool = False, http: bool = False) -> ssl.SSLContext:
    """A context that asks for a client certificate and verifies it; one that is not sent is forgiven unless `demand`.

    `http`: HTTP/1.1 is spoken behind it, too.

    Raises:
        ssl.SSLError: `root_pem` holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED if demand else ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=root_pem)
    context.set_alpn_protocols(["h2", "http/1.1"] if http else ["h2"])
    return context


def load_certificate(context: ssl.SSLContext, chain_pem: str, key_pem: str) -> None:
    """Give `context` a certificate; handshakes from now on show it. The key touches no disk."""
    descriptor = os.memfd_create("pymesh-serving-certificate", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write((key_pem + chain_pem).encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")


class TlsFrontend:
    """Accepts TLS connections on `listener`, for a gRPC server in this process or one on a loopback port (relayed).

    `backend_port`: of the latter; 0 if there is none. Those that did not agree on `h2` go to `http_port` instead, if
    there is one. `clock`: Unix time.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        backend_port: int,
        metrics: Metrics,
        *,
        http_port: int = 0,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        max_connections: int = MAX_CONNECTIONS,
        max_per_address: int = MAX_CONNECTIONS_PER_ADDRESS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._listener = listener
        self._context = context
        self._backend = ("127.0.0.1", backend_port)
        self._http = ("127.0.0.1", http_port) if http_port else self._backend
        self._metrics = metrics
        self._handshake_timeout = handshake_timeout
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._clock = clock
        self._open: Counter[str] = Counter()  # connections, by address; none that has none
        self._quiet_until = 0.0
        self._closing = False
        self._grpc: Callable[[], asyncio.Protocol] | None = None
        self._empty = asyncio.Event()
        self._peers: dict[str, TlsPeer] = {}

    def use(self, context: ssl.SSLContext) -> None:
        """Take `context` for handshakes from now on."""
        self._context = context

    def peer_of(self, inner: str) -> TlsPeer | None:
        """Who is behind the connection that gRPC calls `inner` (`ipv4:127.0.0.1:40000`); None: not from here."""
        return self._peers.get(inner)

    def address_of(self, inner: str) -> str:
        """The address, without a port, that the connection `inner` is for; `inner` if it is not from here."""
        peer = self._peers.get(inner)
        return inner if peer is None else peer.address.rpartition(":")[0]

    async def serve(self, grpc: Callable[[], asyncio.Protocol] | None = None) -> None:
        """Accept until cancelled; then every connection is closed.

        `grpc` makes what serves a connection in this process, in the place of the server on the backend port.
        """
        self._grpc = grpc
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        async with asyncio.TaskGroup() as connections:
            while True:
                try:
                    accepted, address = await loop.sock_accept(self._listener)
                except OSError as error:
                    if error.errno not in _EXHAUSTED:
                        continue  # the peer was gone before we took it (ECONNABORTED): accept(2) says to go on
                    self._metrics.count("controlplane_tls_refused", "descriptors")
                    log.error("cannot accept on the TLS port: %s", error.strerror)
                    await asyncio.sleep(ACCEPT_PAUSE)
                    continue
                if self._closing or self._full(address[0]):
                    accepted.close()
                    continue
                self._open[address[0]] += 1
                self._empty.clear()
                self._metrics.add("controlplane_tls_connections", 1)
                connections.create_task(self._connection(accepted, address))

    async def drain(self, seconds: float) -> None:
        """Take no more connections, and let those that the server behind has closed carry what it said last."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if self._open:
                    await self._empty.wait()

    def _full(self, host: str) -> bool:
        """Whether there is no room for one more of `host`, which is counted, and said once in a while."""
        if self._open[host] >= self._max_per_address:
            reason, sentence = "address", f"{host} has {self._max_per_address} connections, the most of one address"
        elif self._open.total() >= self._max_connections:
            reason, sentence = "connections", f"there are {self._max_connections} connections, the most at once"
        else:
            return False
        self._metrics.count("controlplane_tls_refused", reason)
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            self._quiet_until = now + REFUSAL_LOG_INTERVAL
            log.warning("the TLS port refuses connections: %s", sentence)
        return True

    async def _connection(self, accepted: socket.socket, address: tuple[str, int]) -> None:
        try:
            door = _Door(lambda transport: self._admit(transport, address))
            transport = await self._handshake(accepted, door)
            if transport is not None and door.streams is not None:
                await self._relay(*door.streams, _text(address))
            elif transport is not None:
                await _until_gone(door, transport)
        except Exception:  # whatever is wrong with one connection must not close the port for the others
            self._metrics.count("controlplane_tls_refused", "error")
            log.exception("a connection of %s ended", _text(address))
        finally:
            self._peers.pop(_direct(address), None)
            self._open[address[0]] -= 1
            if not self._open[address[0]]:
                del self._open[address[0]]
            if not self._open:
                self._empty.set()
            self._metrics.add("controlplane_tls_connections", -1)

    def _admit(self, transport: asyncio.BaseTransport, address: tuple[str, int]) -> asyncio.Protocol | None:
        """The handshake is done: who has the connection from here on; None: it is relayed."""
        if _ends(transport) < self._clock():
            transport.close()
            self._metrics.count("controlplane_tls_refused", "handshake")
            log.debug("TLS handshake failed: the session is resumed, and the client's certificate has expired")
            return asyncio.Protocol()
        if self._grpc is None or (self._http != self._backend and not _speaks_http2(transport)):
            return None
        self._peers[_direct(address)] = TlsPeer(_text(address), _uris(transport))
        return self._grpc()

    async def _handshake(self, accepted: socket.socket, door: "_Door") -> asyncio.Transport | None:
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: door,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_timeout,
                ssl_shutdown_timeout=CLOSE_TIMEOUT,
            )
        except (OSError, EOFError) as error:  # ssl.SSLError, ConnectionError and TimeoutError are OSErrors
            accepted.close()
            self._metrics.count("controlplane_tls_refused", "handshake")
            log.debug("TLS handshake failed: %s", error)
            return None
        except asyncio.CancelledError:
            accepted.close()  # nobody else would: there is no transport yet
            raise
        return transport

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        peer = TlsPeer(address, _uris(writer.transport))
        inner = ""
        try:
            source = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            source.setblocking(False)
            try:
                # The table has the source port before gRPC can see it.
                source.bind(("127.0.0.1", 0))
                inner = f"ipv4:127.0.0.1:{source.getsockname()[1]}"
                self._peers[inner] = peer
                await asyncio.get_running_loop().sock_connect(
                    source, self._backend if _speaks_http2(writer.transport) else self._http
                )
                backend_reader, backend_writer = await asyncio.open_connection(sock=source, limit=CHUNK)
            except BaseException:
                source.close()
                raise
            try:
                # Half of an HTTP/2 connection is of no use: the end of one direction is the end of both.
                await until_first_ends(_pump(reader, backend_writer), _pump(backend_reader, writer))
            finally:
                backend_writer.transport.abort()
        except OSError as error:
            self._metrics.count("controlplane_tls_refused", "backend")
            log.error("the TLS port cannot reach its own gRPC server: %s", error)
        finally:
            self._peers.pop(inner, None)
            await _close(writer)


class _Door(asyncio.Protocol):
    """The protocol of a connection, which is known only when its handshake is done: then `admit` says which.

    Attributes:
        streams: where that is none, the connection as a reader and a writer.
        gone: set when the connection is lost.
    """

    def __init__(self, admit: Callable[[asyncio.BaseTransport], asyncio.Protocol | None]) -> None:
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.gone = asyncio.Event()
        self._admit = admit
        self._inner = asyncio.Protocol()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        inner = self._admit(transport)
        if inner is None:
            reader = asyncio.StreamReader(limit=CHUNK)
            inner = streams = asyncio.StreamReaderProtocol(reader)
            # uvloop's transports are no asyncio.Transport to isinstance, but have all of its methods.
            writer = asyncio.StreamWriter(transport, streams, reader, asyncio.get_running_loop())  # type: ignore[arg-type]
            self.streams = reader, writer
        self._inner = inner
        inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)
        self.gone.set()


async def _until_gone(door: _Door, transport: asyncio.Transport) -> None:
    """Whoever serves the connection ends it; unless we are cancelled."""
    try:
        await door.gone.wait()
    finally:
        transport.abort()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Say goodbye, and do not wait long for an answer."""
    writer.close()
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await writer.wait_closed()
    except TimeoutError:
        writer.transport.abort()
    except OSError:
        return  # the other side was quicker
    except asyncio.CancelledError:
        writer.transport.abort()
        raise


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end; a side that does not take its bytes stops the reading of the other, and has its time."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            try:
                async with asyncio.timeout(TAKE_TIMEOUT):
                    await writer.drain()
            except TimeoutError:
                log.info("%s takes nothing any more", _text(writer.get_extra_info("peername")))
                return


def _direct(address: tuple[str, int]) -> str:
    """What gRPC calls a connection of ours that is served without a relay."""
    return f"ipv4:{address[0]}:{address[1]}"


def _speaks_http2(transport: asyncio.BaseTransport) -> bool:
    tls = transport.get_extra_info("ssl_object")
    return isinstance(tls, ssl.SSLObject) and tls.selected_alpn_protocol() == "h2"


def _ends(transport: asyncio.BaseTransport) -> float:
    """When the client's certificate ends, in Unix time; never if it sent none."""
    certificate = transport.get_extra_info("peercert")
    return ssl.cert_time_to_seconds(certificate["notAfter"]) if certificate else math.inf


def _uris(transport: asyncio.BaseTransport) -> tuple[str, ...] | None:
    """The URI SANs of the client's certificate, None if it sent none."""
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return None
    return tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI")


def _text(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
