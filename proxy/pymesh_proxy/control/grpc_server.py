"""A gRPC server on a Unix socket: for SDS, whose one client is the Envoy in the same pod."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from pymesh.grpc.events import Closing, Ended, HalfClosed, Message, Ponged, Request
from pymesh.grpc.server import ServerConnection
from pymesh.grpc.status import Code, RpcError, Status
from pymesh.http2.errors import ConnectionBrokenError
from pymesh_proxy.control.call import Call

log = logging.getLogger(__name__)

# Connections at a time. There is one Envoy; more is somebody's loop.
MAX_CONNECTIONS = 16
# Bytes: what comes in are subscriptions, a few names long; an Envoy's node with all its extensions is some 100 kB.
MAX_REQUEST_BYTES = 1024 * 1024

# Serves one call. Returning ends it with OK, raising RpcError with that status.
Handler: TypeAlias = Callable[[Call], Awaitable[None]]


class GrpcServer:
    """Serves `handlers`, by method ("/package.Service/Method"), on the Unix socket `path` with permissions `mode`.

    `limit` is the largest message accepted, in bytes. `listening` is set while connections are taken.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], path: Path, *, mode: int, limit: int = MAX_REQUEST_BYTES
    ) -> None:
        self._handlers = handlers
        self._limit = limit
        self._path = path
        self._mode = mode
        self._links: set[_ServerLink] = set()
        self.listening = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled. A socket file left behind by an earlier run is replaced.

        Raises:
            OSError: the socket cannot be made.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.is_socket():
            self._path.unlink()
        async with asyncio.TaskGroup() as calls:
            server = await asyncio.get_running_loop().create_unix_server(
                lambda: _ServerLink(self._handlers, calls, self._links, self._limit),
                str(self._path),
                start_serving=False,
            )
            try:
                self._path.chmod(self._mode)  # before anybody is let in
                await server.start_serving()
                self.listening.set()
                await asyncio.get_running_loop().create_future()
            finally:
                self.listening.clear()
                server.close()
                for link in tuple(self._links):
                    link.close("the server shuts down")
                self._path.unlink(missing_ok=True)


class _ServerLink(asyncio.Protocol):
    """One connection and the calls on it."""

    def __init__(
        self, handlers: Mapping[str, Handler], group: asyncio.TaskGroup, links: "set[_ServerLink]", limit: int
    ) -> None:
        self.connection = ServerConnection(limit=limit)
        self.paused = False
        self._handlers = handlers
        self._group = group
        self._links = links
        self._calls: dict[int, tuple[Call, asyncio.Task[None]]] = {}
        self._transport: asyncio.Transport | None = None

    def flush(self) -> None:
        """Write what the connection has to send."""
        if self._transport is not None and (data := self.connection.bytes_to_send()):
            self._transport.write(data)

    def close(self, reason: str) -> None:
        """End the calls and the connection."""
        if self._transport is not None:
            self.connection.close()
            self.flush()
            self._transport.close()
        self.connection_lost(ConnectionError(reason))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        # uvloop's transports are no asyncio.Transport to isinstance, but have all of its methods.
        self._transport = transport  # type: ignore[assignment]
        if len(self._links) >= MAX_CONNECTIONS:
            log.warning("SDS: more than %d connections; the new one is refused", MAX_CONNECTIONS)
            self.close("too many connections")
            return
        self._links.add(self)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        try:
            events = self.connection.receive(data)
        except ConnectionBrokenError as error:
            log.warning("SDS: a client breaks HTTP/2: %s", error)
            self.close(str(error))
            return
        for event in events:
            match event:
                case Request():
                    self._begin(event)
                case Message(stream_id, message):
                    if stream_id in self._calls:
                        self._calls[stream_id][0].deliver(message)
                case HalfClosed(stream_id):
                    if stream_id in self._calls:
                        self._calls[stream_id][0].close()
                case Ended(stream_id, status):
                    self._drop(stream_id, status)
                case Closing() | Ponged():
                    pass  # the client will close when its calls are over
        self.flush()
        for call, _ in self._calls.values():
            call.wake()

    def pause_writing(self) -> None:
        """The client does not read: neither do we, or its pings would fill our memory with answers."""
        self.paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.paused = False
        if self._transport is not None:
            self._transport.resume_reading()
        for call, _ in self._calls.values():
            call.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._transport = None
        self._links.discard(self)
        for event in self.connection.abort(str(exc or "the client has closed the connection")):
            if isinstance(event, Ended):
                self._drop(event.stream_id, event.status)

    def _begin(self, request: Request) -> None:
        handler = self._handlers.get(request.method)
        if handler is None:
            status = Status(Code.UNIMPLEMENTED, f"{request.method} is not served here")
            self.connection.end(request.stream_id, status)
            return
        call = Call(request.stream_id, self.connection, self)
        task = self._group.create_task(self._serve(handler, call), name=request.method)
        self._calls[request.stream_id] = (call, task)

    def _drop(self, stream_id: int, status: Status) -> None:
        """The client has left: so does the handler."""
        if stream_id in self._calls:
            call, task = self._calls.pop(stream_id)
            call.end(status)
            task.cancel()

    async def _serve(self, handler: Handler, call: Call) -> None:
        status = Status(Code.OK)
        try:
            await handler(call)
        except RpcError as error:
            status = error.status
        except Exception:
            log.exception("SDS: a call failed")
            status = Status(Code.INTERNAL, "the handler failed; the agent's log says why")
        self._calls.pop(call.stream_id, None)
        with contextlib.suppress(ConnectionError):
            self.connection.end(call.stream_id, status)
            self.flush()
