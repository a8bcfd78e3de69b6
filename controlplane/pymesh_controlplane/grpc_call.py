"""A call of `grpc_server`, as its handler sees it and as its connection does; and which handler that is."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeAlias, cast

import grpc
import grpc.aio

from pymesh.grpc.events import Request
from pymesh.grpc.server import ServerConnection
from pymesh.grpc.status import Code, Metadata, RpcError, Status

# What all kinds of handlers have in common: a message, or None where messages are read from the call; and the call.
Behaviour: TypeAlias = Callable[[bytes | None, "Call"], Awaitable[bytes | None]]


class Methods:
    """What serves which method."""

    def __init__(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._handlers = tuple(handlers)
        self._known: dict[str, tuple[Behaviour, bool]] = {}

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


class Connection(Protocol):
    """What a call needs of the connection that it is on."""

    connection: ServerConnection
    peer: str

    async def room(self, stream_id: int) -> None:
        """Wait until the client takes what was sent before."""

    def flush(self) -> None:
        """Write what the connection has to send."""


class Call:
    """For the handler grpc.aio.ServicerContext, as far as handlers here use it.

    Attributes:
        streams: whether messages are read from it; otherwise it has one.
        task: what answers it; None before its message is there.
        answered: it has ended, and the client has yet to take the last of it.
        deadline: when the client does not want an answer any more, by the loop's clock.
        due: when it is to be looked at next.
    """

    def __init__(
        self, link: Connection, request: Request, behaviour: Behaviour, *, streams: bool, deadline: float = math.inf
    ) -> None:
        self.stream_id = request.stream_id
        self.behaviour = behaviour
        self.streams = streams
        self.task: asyncio.Task[None] | None = None
        self.answered = False
        self.deadline = self.due = deadline
        self._link = link
        self._metadata = request.metadata
        self._messages: deque[bytes] = deque()
        self._delivered = 0
        self._half: int | None = None  # the message that was there in part at the last look, by its number
        self._closed = self._gone = False
        self._readable: asyncio.Event | None = None

    # For its handler

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
        message = self._messages.popleft()
        self._link.connection.consumed(self.stream_id, len(message))
        self._link.flush()
        return message

    async def write(self, message: bytes) -> None:
        """Send a message, when the client takes what was sent before. Without effect if it is gone."""
        await self._link.room(self.stream_id)
        self._link.connection.send(self.stream_id, message)
        self._link.flush()

    # For its connection

    def first(self) -> bytes | None:
        """The message of a call that has one, if it is there. It counts as held until the call is over."""
        return self._messages.popleft() if self._messages else None

    def deliver(self, message: bytes) -> None:
        """A message has come."""
        self._delivered += 1
        self._messages.append(message)
        self._wake()

    def close(self) -> None:
        """The client has sent its last."""
        self._closed = True
        self._wake()

    def end(self) -> None:
        """Nobody waits for an answer any more: the handler leaves."""
        self._gone = True
        self.close()
        if self.task is not None:
            self.task.cancel()

    def stuck(self, *, unfinished: bool) -> bool:
        """Whether its message does not come, though it has been waited for since `due` was set.

        Of a stream: whether the message that is `unfinished` was so the last time, and it is not us who do not read on.
        """
        if not self.streams:
            return self.task is None
        before, self._half = self._half, self._delivered if unfinished and not self._messages else None
        return self._half is not None and self._half == before

    def _wake(self) -> None:
        if self._readable is not None:
            self._readable.set()
