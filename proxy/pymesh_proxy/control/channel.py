"""A gRPC channel: one HTTP/2 connection to one address, made when a call needs it and made anew after it was lost.

Where it leads is up to whoever makes its connections: a `target.Target`, or a cluster of the mesh in `grpc_cluster`.

A channel owns no task. A call that finds no connection makes one, and fails with UNAVAILABLE and the reason if it
cannot; when to try again is up to the caller, who knows best what the failure means (see `backoff`).
"""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from pymesh.grpc.client import ClientConnection
from pymesh.grpc.events import Closing, Ended, Message, Ponged, Response
from pymesh.grpc.metadata import MetadataError, encode_metadata
from pymesh.grpc.status import Code, Metadata, RpcError, Status
from pymesh.http2.errors import ConnectionBrokenError
from pymesh_proxy.control.call import Answer, Call
from pymesh_proxy.control.target import Target, client_context

# Seconds for name resolution, connect and TLS handshake together.
CONNECT_TIMEOUT = 10.0
# Seconds between HTTP/2 pings while calls are open. gRPC servers tolerate one in five minutes (gRPC proposal A8) and
# cut off who asks more often. A peer that vanished is noticed earlier, by TCP's keep-alive.
PING_INTERVAL = 310.0
PING_TIMEOUT = 20.0
# Seconds for a peer to answer TLS's goodbye; grpcio does not.
CLOSE_TIMEOUT = 0.2
_PING = b"pymesh\0\0"
# Seconds: a silent peer is probed after 30 and given up after 60.
_TCP_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class Stream(Call):
    """One call of ours, with messages both ways."""

    def __init__(self, stream_id: int, connection: ClientConnection, link: "ClientLink") -> None:
        super().__init__(stream_id, connection, link)
        self._client = connection
        self._client_link = link

    def finish(self) -> None:
        """Say that no more messages will be sent."""
        self._client.finish(self.stream_id)
        self._client_link.flush()

    def cancel(self) -> None:
        """Give the call up, if it has not ended."""
        self._client_link.cancel(self.stream_id)


class ClientLink(asyncio.Protocol):
    """One connection: the transport on one side, the calls on the other.

    `label` says in errors where it leads; `lost` is called once it is gone, if it ever stood.
    """

    def __init__(self, label: str, authority: str, *, secure: bool, lost: Callable[[], None] = lambda: None) -> None:
        self.connection = ClientConnection(authority, scheme="https" if secure else "http")
        self.paused = False
        self._label = label
        self._lost = lost
        self._retired = False
        self._streams: dict[int, Stream | Answer] = {}
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Transport | None = None
        self._gone = asyncio.Event()

    @property
    def usable(self) -> bool:
        """Whether a new call may be made on it."""
        return self._transport is not None and self.connection.accepts_calls and not self._retired

    @property
    def speaks_http2(self) -> bool:
        """Whether the peer agreed on HTTP/2 in the TLS handshake; without TLS there is nothing to agree on."""
        tls = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        return tls is None or tls.selected_alpn_protocol() == "h2"

    def open(self, method: str, metadata: Metadata, timeout: float | None) -> Stream:
        """Begin a call."""
        stream_id = self.connection.open(method, metadata, timeout)
        stream = self._streams[stream_id] = Stream(stream_id, self.connection, self)
        self.flush()
        return stream

    def ask(self, method: str, metadata: Metadata, timeout: float | None, question: bytes) -> Answer:
        """Make a call of one message each way."""
        stream_id = self.connection.open(method, metadata, timeout)
        answer = self._streams[stream_id] = Answer(stream_id, method)
        self.connection.send(stream_id, question, last=True)
        self.flush()
        return answer

    def cancel(self, stream_id: int) -> None:
        """The user of a call has left."""
        self._streams.pop(stream_id, None)
        self.connection.cancel(stream_id)
        self.flush()
        self._close_unused()

    def retire(self) -> None:
        """Take no new calls, and close after the last of those that are open."""
        self._retired = True
        self._close_unused()

    def flush(self) -> None:
        """Write what the connection has to send."""
        if self._transport is not None and (data := self.connection.bytes_to_send()):
            self._transport.write(data)

    def close(self, reason: str) -> None:
        """End the calls and the connection."""
        self._abort(reason)
        if self._transport is not None:
            self.connection.close()
            self.flush()
            self._transport.close()
            self._closing, self._transport = self._transport, None

    async def closed(self) -> None:
        """Wait for the end of a connection that was closed. A peer that does not say goodbye is cut off."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._gone.wait()
        except TimeoutError:
            if self._closing is not None:
                self._closing.abort()
                await self._gone.wait()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands; with TLS, the handshake is done."""
        # uvloop's transports are no asyncio.Transport to isinstance, but have all of its methods.
        self._transport = transport  # type: ignore[assignment]
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _TCP_KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self._timer = asyncio.get_running_loop().call_later(PING_INTERVAL, self._ping)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Bytes of the server."""
        try:
            events = self.connection.receive(data)
        except ConnectionBrokenError as error:
            self.close(f"{self._label} breaks HTTP/2: {error}")
            return
        for event in events:
            match event:
                case Message(stream_id, message):
                    if stream_id in self._streams:
                        self._streams[stream_id].deliver(message)
                case Ended(stream_id, status):
                    if stream_id in self._streams:
                        self._streams.pop(stream_id).end(status)
                case Ponged():
                    self._schedule(PING_INTERVAL, self._ping)
                case Response() | Closing():
                    pass  # heads carry nothing that the control plane uses; a closing link is no longer `usable`
        self.flush()
        self._wake()
        self._close_unused()

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self.paused = True

    def resume_writing(self) -> None:
        """The transport's buffer has room again."""
        self.paused = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._transport = None
        self._gone.set()
        self._abort(f"{self._label}: connection lost" + (f": {describe(exc)}" if exc else ""))
        self._lost()

    def _close_unused(self) -> None:
        if not self._streams and (self._retired or not self.connection.accepts_calls):
            self.close("the server goes away")

    def _wake(self) -> None:
        for stream in self._streams.values():
            stream.wake()

    def _abort(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.paused = False
        for event in self.connection.abort(reason):
            if isinstance(event, Ended) and event.stream_id in self._streams:
                self._streams.pop(event.stream_id).end(event.status)

    def _schedule(self, delay: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(delay, action)

    def _ping(self) -> None:
        """Ask for a sign of life; without calls nobody needs the connection."""
        if not self._streams:
            self.close("idle")
            return
        self.connection.ping(_PING)
        self.flush()
        self._schedule(PING_TIMEOUT, lambda: self.close(f"{self._label} does not answer: no pong in {PING_TIMEOUT} s"))


class Channel:
    """A channel to `target`, or to where `dial` leads, which makes a connection or raises RpcError or OSError.

    `metadata` is asked for each call, so that a rotated token is read afresh. Over plaintext TCP it is not asked at
    all: a bearer token must not travel where anybody can read it.
    """

    def __init__(
        self,
        target: Target,
        *,
        metadata: Callable[[], Metadata] = tuple,
        dial: Callable[[], Awaitable[ClientLink]] | None = None,
    ) -> None:
        self.target = target
        self._metadata = metadata if target.tls or target.unix_path else tuple
        self._dial = dial or self._connect
        self._link: ClientLink | None = None
        self._connecting = asyncio.Lock()

    async def unary(self, method: str, request: bytes, *, within: float) -> bytes:
        """The answer to `request`. `method` is "/package.Service/Method".

        Raises:
            RpcError: no connection, any status but OK, no answer `within` seconds (DEADLINE_EXCEEDED), or none at all.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + within
        link = self._link
        if link is None or not link.usable:
            try:
                async with asyncio.timeout_at(due):
                    link = await self._connected()
            except TimeoutError:
                raise self._late(method, within) from None
        answer = link.ask(method, self._who(), within, request)
        timer = loop.call_at(due, lambda: answer.fail(self._late(method, within)))
        try:
            return await answer.future
        finally:
            timer.cancel()
            link.cancel(answer.stream_id)

    @asynccontextmanager
    async def stream(self, method: str, *, within: float | None = None) -> AsyncIterator[Stream]:
        """A call with messages both ways; leaving the context cancels it if it has not ended.

        Raises:
            RpcError: there is no connection to be had, or no metadata (an unreadable token).
        """
        link = await self._connected()
        stream = link.open(method, self._who(), within)
        try:
            yield stream
        finally:
            stream.cancel()

    def renew(self) -> None:
        """Make the next call on a new connection; the calls that are open end where they are."""
        if self._link is not None:
            self._link.retire()
            self._link = None

    async def close(self) -> None:
        """End every call and the connection."""
        async with self._connecting:
            if self._link is not None:
                self._link.close("the channel was closed")
                await self._link.closed()
                self._link = None

    def _who(self) -> Metadata:
        """Metadata that says who we are, fit to be sent."""
        try:
            metadata = self._metadata()
            encode_metadata(metadata)
        except (OSError, MetadataError) as error:
            raise RpcError(Status(Code.UNAUTHENTICATED, f"cannot say who we are: {error}")) from error
        return metadata

    def _late(self, method: str, within: float) -> RpcError:
        text = f"{self.target}: {method} did not answer within {within:g} s"
        return RpcError(Status(Code.DEADLINE_EXCEEDED, text))

    async def _connected(self) -> ClientLink:
        """The connection, made if there is none that takes calls."""
        async with self._connecting:
            if self._link is None or not self._link.usable:
                try:
                    async with asyncio.timeout(CONNECT_TIMEOUT):
                        self._link = await self._dial()
                except TimeoutError:
                    text = f"{self.target}: no connection within {CONNECT_TIMEOUT:g} s"
                    raise RpcError(Status(Code.UNAVAILABLE, text)) from None
                except OSError as error:
                    raise RpcError(Status(Code.UNAVAILABLE, f"{self.target}: {describe(error)}")) from error
            return self._link

    async def _connect(self) -> ClientLink:
        loop = asyncio.get_running_loop()
        target = self.target
        authority = target.tls.server_name if target.tls else target.host or "localhost"
        link = ClientLink(str(target), authority, secure=target.tls is not None)
        if target.unix_path:
            await loop.create_unix_connection(lambda: link, target.unix_path)
        elif target.tls is None:
            await loop.create_connection(lambda: link, target.host, target.port)
        else:
            context = client_context(target.tls)
            name = target.tls.server_name
            await loop.create_connection(lambda: link, target.host, target.port, ssl=context, server_hostname=name)
            if not link.speaks_http2:
                link.close("no HTTP/2")
                raise OSError("the server does not speak HTTP/2 (ALPN h2)")
        return link


def describe(error: BaseException) -> str:
    """One line on why there is no connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved: {error.strerror}"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        text = os.strerror(error.errno).lower()
        return f"{text}: {error.filename}" if error.filename else text
    return str(error) or type(error).__name__
