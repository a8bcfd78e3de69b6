"""A gRPC server for calls that are many and small, on the gRPC layer that the sidecars use too (`pymesh.grpc`).

It takes the handlers that grpc.aio takes, and gives them of its context what they use: `Call`. benchmarks/README.md has
what a call costs it, next to grpc.aio. It has no TLS and trusts nobody: it listens on loopback behind a `TlsFrontend`,
which bounds connections and knows who is at their other end.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias, cast

import grpc
import grpc.aio

from pymesh.grpc.connection import window_for
from pymesh.grpc.engine import ConnectionBrokenError
from pymesh.grpc.events import Ended, HalfClosed, Message, Request
from pymesh.grpc.h2_engine import H2Engine
from pymesh.grpc.server import ServerConnection
from pymesh.grpc.status import Code, Metadata, RpcError, Status

log = logging.getLogger("pymesh.grpc")

# Of one connection: a sidecar asks for every request it has, at once.
MAX_STREAMS: Final = 1000
# Bytes. Proxies send log entries in batches of 16 KiB, and of a request its head.
MAX_MESSAGE: Final = 1024 * 1024
# Seconds of silence after which a peer is asked for a sign of life, and for it to give one: a pod may have vanished.
PING_AFTER: Final = 30.0
PING_TIMEOUT: Final = 10.0
_PING: Final = b"pymesh!?"

# What all kinds of handlers have in common: a message, or None where messages are read from the call; and the call.
Behaviour: TypeAlias = Callable[[bytes | None, "Call"], Awaitable[bytes | None]]


class Call:
    """A call as its handler sees it: grpc.aio.ServicerContext, as far as handlers here use it."""

    def __init__(self, link: "_Link", request: Request, behaviour: Behaviour, *, streams: bool) -> None:
        self.stream_id = request.stream_id
        self.behaviour = behaviour
        self.streams = streams
        self.task: asyncio.Task[None] | None = None
        self._link = link
        self._metadata = request.metadata
        self._messages: deque[bytes] = deque()
        self._closed = self._gone = False
        self._readable: asyncio.Event | None = None

    def peer(self) -> str:
        """The other end of the connection, `ipv4:127.0.0.1:40000`."""
        return self._link.peer

    def invocation_metadata(self) -> Metadata:
        """What was sent with the call, names in lower case."""
        return self._metadata

    def cancelled(self) -> bool:
        """Whether nobody is there any more to be answered."""
        return self._gone

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        """End the call with a status. Raises RpcError, always."""
        number, _ = code.value
        raise RpcError(Status(Code(number), details))

    async def read(self) -> object:
        """The next message; grpc.aio.EOF when the client has sent its last."""
        while not self._messages:
            if self._closed:
                return grpc.aio.EOF
            self._readable = asyncio.Event()
            await self._readable.wait()
        return self.take()

    async def write(self, message: bytes) -> None:
        """Send a message, when the client takes what was sent before. Without effect if it is gone."""
        await self._link.writable.wait()
        self._link.connection.send(self.stream_id, message)
        self._link.flush()

    def take(self) -> bytes | None:
        """A message that has come, if there is one."""
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._link.connection.consumed(self.stream_id, len(message))
        return message

    def deliver(self, message: bytes) -> None:
        """A message has come."""
        self._messages.append(message)
        self._wake()

    def close(self) -> None:
        """The client has sent its last."""
        self._closed = True
        self._wake()

    def end(self) -> None:
        """The client has left: so does the handler."""
        self._gone = True
        self.close()
        if self.task is not None:
            self.task.cancel()

    def _wake(self) -> None:
        if self._readable is not None:
            self._readable.set()


class GrpcServer:
    """Serves `handlers`; no more than `max_calls` at once."""

    def __init__(self, handlers: Iterable[grpc.GenericRpcHandler], max_calls: int) -> None:
        self._handlers = tuple(handlers)
        self._known: dict[str, tuple[Behaviour, bool]] = {}
        self._max_calls = max_calls
        self.calls = 0
        self.links: set[_Link] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Take connections of `listener` until cancelled; then every call is."""
        async with asyncio.TaskGroup() as tasks:
            server = await asyncio.get_running_loop().create_server(lambda: _Link(self, tasks), sock=listener)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                server.close()
                for link in tuple(self.links):
                    link.close()

    @property
    def full(self) -> bool:
        """Whether there are as many calls as there may be."""
        return self.calls >= self._max_calls

    def find(self, method: str) -> tuple[Behaviour, bool] | None:
        """What serves `method`, and whether it reads a stream of messages."""
        found = self._known.get(method)
        if found is not None:
            return found
        details = _Details(method)
        for each in self._handlers:
            handler = each.service(details)
            if handler is not None:
                behaviour = handler.unary_unary or handler.stream_unary or handler.stream_stream
                # grpc's types know handlers of its own threads only, and its own context.
                found = self._known[method] = cast("Behaviour", behaviour), handler.request_streaming
                return found
        return None


class _Details(grpc.HandlerCallDetails):  # what a generic handler is asked by
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


class _Link(asyncio.Protocol):
    """One connection, and the calls on it."""

    def __init__(self, server: GrpcServer, tasks: asyncio.TaskGroup) -> None:
        engine = H2Engine(client=False, window=window_for(MAX_MESSAGE), streams=MAX_STREAMS)
        self.connection = ServerConnection(limit=MAX_MESSAGE, engine=engine)
        self.writable = asyncio.Event()
        self.writable.set()
        self.peer = ""
        self._server = server
        self._tasks = tasks
        self._calls: dict[int, Call] = {}
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def flush(self) -> None:
        """Write what the connection has to send."""
        if self._transport is not None and (data := self.connection.bytes_to_send()):
            self._transport.write(data)

    def close(self) -> None:
        """End the calls and the connection."""
        if self._transport is not None:
            self.connection.close()
            self.flush()
            self._transport.close()
        self.connection_lost(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        # uvloop's transports are no asyncio.Transport to isinstance, but have all of its methods.
        self._transport = transport  # type: ignore[assignment]
        host, port = transport.get_extra_info("peername")[:2]
        self.peer = f"ipv4:{host}:{port}"
        self._server.links.add(self)
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(PING_AFTER, self._look)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        self._heard = self._loop.time()
        try:
            events = self.connection.receive(data)
        except ConnectionBrokenError as error:
            log.warning("%s breaks HTTP/2: %s", self.peer, error)
            self.close()
            return
        for event in events:
            match event:
                case Request():
                    self._begin(event)
                case Message(stream_id, message):
                    if (call := self._calls.get(stream_id)) is not None:
                        call.deliver(message)
                case HalfClosed(stream_id):
                    if (call := self._calls.get(stream_id)) is not None:
                        call.close()
                        if not call.streams:
                            self._start(call, call.take())
                case Ended(stream_id):
                    self._drop(stream_id)
                case _:
                    pass  # it will take its leave when its calls are over; a sign of life is one, whatever it says
        self.flush()

    def pause_writing(self) -> None:
        """The client does not read: neither do we, or its questions would fill our memory with answers."""
        self.writable.clear()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.writable.set()
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._transport = None
        self._server.links.discard(self)
        self.writable.set()
        if self._timer is not None:
            self._timer.cancel()
        self.connection.abort(str(exc or "the client has closed the connection"))
        for stream_id in tuple(self._calls):
            self._drop(stream_id)

    # --- Calls ---

    def _begin(self, request: Request) -> None:
        found = self._server.find(request.method)
        if found is None:
            status = Status(Code.UNIMPLEMENTED, f"{request.method} is not served here")
            self.connection.end(request.stream_id, status)
        elif self._server.full:
            self.connection.end(request.stream_id, Status(Code.RESOURCE_EXHAUSTED, "too many calls at once"))
        else:
            behaviour, streams = found
            call = self._calls[request.stream_id] = Call(self, request, behaviour, streams=streams)
            self._server.calls += 1
            if streams:
                self._start(call, None)

    def _start(self, call: Call, message: bytes | None) -> None:
        if message is None and not call.streams:
            self._end(call, Status(Code.INTERNAL, "the call has no message"))
        else:
            call.task = self._tasks.create_task(self._run(call, message))

    async def _run(self, call: Call, message: bytes | None) -> None:
        status = Status(Code.OK)
        try:
            answer = await call.behaviour(message, call)
            if answer is not None:
                self.connection.send(call.stream_id, answer)
        except RpcError as error:
            status = error.status
        except Exception:
            log.exception("a call of %s failed", self.peer)
            status = Status(Code.UNKNOWN, "the handler failed; the service's log says why")
        self._end(call, status)
        self.flush()

    def _end(self, call: Call, status: Status) -> None:
        """From our side."""
        if self._forget(call.stream_id) is not None:
            self.connection.end(call.stream_id, status)

    def _drop(self, stream_id: int) -> None:
        """From the client's."""
        if (call := self._forget(stream_id)) is not None:
            call.end()

    def _forget(self, stream_id: int) -> Call | None:
        call = self._calls.pop(stream_id, None)
        if call is not None:
            self._server.calls -= 1
        return call

    # --- Time ---

    def _look(self) -> None:
        """Whether somebody is still there."""
        silent = self._loop.time() - self._heard
        if silent >= PING_AFTER + PING_TIMEOUT:
            log.info("%s gives no sign of life", self.peer)
            self.close()
            return
        if silent >= PING_AFTER:
            self.connection.ping(_PING)
            self.flush()
        wait = PING_AFTER - silent if silent < PING_AFTER else PING_AFTER + PING_TIMEOUT - silent
        self._timer = self._loop.call_later(wait, self._look)
