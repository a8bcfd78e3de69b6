"""One gRPC call as a coroutine sees it: messages to receive, messages to send, both with back-pressure; or one each."""

import asyncio
from collections import deque
from typing import Protocol

from pymesh.grpc.status import Code, RpcError, Status

# Bytes that may wait for the peer before `send` does: a few of the largest messages that are common (a push of a
# hundred services is 170 kB), so that sender and network overlap without a slow peer filling the memory.
SEND_WATERMARK = 512 * 1024


class Connection(Protocol):
    """What a call needs of the sans-IO connection it is on; both ends have it."""

    def send(self, stream_id: int, message: bytes) -> None:
        """Send a message."""

    def consumed(self, stream_id: int, size: int) -> None:
        """Give credit for a message."""

    def unsent(self, stream_id: int) -> int:
        """Bytes that wait for the peer's window."""


class Link(Protocol):
    """What a call needs of the transport below."""

    @property
    def paused(self) -> bool:
        """Whether the transport has more than enough to write."""

    def flush(self) -> None:
        """Write what the connection has to send."""


class Call:
    """The state between the coroutine that uses a call and the events of its connection."""

    def __init__(self, stream_id: int, connection: Connection, link: Link) -> None:
        self.stream_id = stream_id
        self._connection = connection
        self._link = link
        self._messages: deque[bytes] = deque()
        self._closed = False  # no more messages will come
        self._status: Status | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()

    @property
    def status(self) -> Status | None:
        """How the peer, or the loss of the connection, ended the call; None while it goes on."""
        return self._status

    async def receive(self) -> bytes | None:
        """The next message, or None when no more will come and all is well. Safe to cancel.

        Raises:
            RpcError: the call ended with another status than OK.
        """
        while not self._messages:
            if self._status is not None and self._status.code is not Code.OK:
                raise RpcError(self._status)
            if self._closed:
                return None
            self._readable.clear()
            await self._readable.wait()
        message = self._messages.popleft()
        self._connection.consumed(self.stream_id, len(message))
        self._link.flush()
        return message

    async def send(self, message: bytes) -> None:
        """Send a message, then wait while the peer is slow to take what was sent.

        Raises:
            RpcError: the call has ended.
        """
        self._check_open()
        self._connection.send(self.stream_id, message)
        self._link.flush()
        while self._link.paused or self._connection.unsent(self.stream_id) > SEND_WATERMARK:
            self._writable.clear()
            await self._writable.wait()
            self._check_open()

    def _check_open(self) -> None:
        if self._status is not None:
            code = self._status.code
            raise RpcError(self._status if code is not Code.OK else Status(Code.CANCELLED, "the call has ended"))

    # What the connection's events do to it.

    def deliver(self, message: bytes) -> None:
        """A message has come."""
        self._messages.append(message)
        self._readable.set()

    def close(self) -> None:
        """The peer has sent its last message."""
        self._closed = True
        self._readable.set()

    def end(self, status: Status) -> None:
        """The call is over."""
        self._status = self._status or status
        self.close()
        self.wake()

    def wake(self) -> None:
        """There may be room to send again."""
        self._writable.set()


class Answer:
    """A call of one message each way, which was sent; its answer is a future.

    Attributes:
        future: the message. RpcError if there is none, more than one, or any status but OK.
    """

    __slots__ = ("_messages", "_method", "future", "stream_id")

    def __init__(self, stream_id: int, method: str) -> None:
        self.stream_id = stream_id
        self.future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._method = method
        self._messages: list[bytes] = []

    def fail(self, error: RpcError) -> None:
        """There will be no answer, or it is too late for one."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # retrieved: whoever waited may have left, and then nobody misses the answer

    # What the connection's events do to it.

    def deliver(self, message: bytes) -> None:
        """A message has come. Two are one too many already; any more of them are not kept."""
        if len(self._messages) < 2:
            self._messages.append(message)

    def end(self, status: Status) -> None:
        """The call is over."""
        if status.code is not Code.OK:
            self.fail(RpcError(status))
        elif len(self._messages) != 1:
            self.fail(RpcError(Status(Code.INTERNAL, f"{self._method} did not answer with exactly one message")))
        elif not self.future.done():
            self.future.set_result(self._messages[0])

    def wake(self) -> None:
        """There may be room to send again; all was sent."""
