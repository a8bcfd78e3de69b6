"""The streams of a connection: which are open, and what became of those that are not (RFC 9113 section 5.1.1). Pure."""

from collections import deque
from collections.abc import Iterator
from typing import Final

from pymesh.http2 import frames
from pymesh.http2.errors import ConnectionBrokenError, ErrorCode
from pymesh.http2.flow_control import ReceiveWindow
from pymesh.http2.settings import DEFAULT_WINDOW
from pymesh.http2.streams import Stream

# Streams that we ended before the peer had, so that frames of them may be under way: so many are remembered.
MAX_GIVEN_UP: Final = 4096
HIGHEST_STREAM: Final = 2**31 - 1


class StreamTable:
    """All streams of a connection. Clients begin them; nobody pushes.

    Attributes:
        open: by id.
        newest: the highest id of a stream that the peer began.

    Args:
        limit: of streams that the peer may have open at a time.
        window: bytes that the peer may send on a stream, once it has agreed to our settings.
    """

    __slots__ = (
        "_agreed",
        "_client",
        "_given_up",
        "_given_up_in_order",
        "_limit",
        "_next",
        "_window",
        "newest",
        "open",
    )

    def __init__(self, *, client: bool, limit: int, window: int) -> None:
        self.open: dict[int, Stream] = {}
        self.newest = 0
        self._client = client
        self._limit = limit
        self._window = window
        self._agreed = False
        self._next = 1 if client else 2
        self._given_up: set[int] = set()
        self._given_up_in_order: deque[int] = deque()

    @property
    def full(self) -> bool:
        """Whether the peer has begun as many as it may."""
        return len(self.open) >= self._limit

    def next_id(self, allowed: int) -> int | None:
        """An id for a stream of ours; None if the peer allows no more than those that are open, or ids are used up."""
        if not self._client or self._next > HIGHEST_STREAM or len(self.open) >= allowed:
            return None
        return self._next

    def begin(self, stream_id: int, room: int) -> Stream | None:
        """Begin the stream of ours that `next_id` named; None if that is another one."""
        if not self._client or stream_id != self._next:
            return None
        self._next += 2
        stream = self._add(stream_id, room)
        stream.known = True
        return stream

    def begun(self, stream_id: int, room: int) -> Stream:
        """A HEADERS frame begins a stream of the peer.

        Raises:
            ConnectionBrokenError: it cannot begin one.
        """
        if self._client or not stream_id % 2:
            raise _not_begun(frames.HEADERS, stream_id)
        self.newest = stream_id
        return self._add(stream_id, room)

    def is_idle(self, stream_id: int) -> bool:
        """Whether a stream was never begun."""
        ours = stream_id % 2 == self._next % 2
        return stream_id >= self._next if ours else stream_id > self.newest

    def check_late(self, kind: int, stream_id: int) -> None:
        """A frame has come on a stream that is not open.

        Raises:
            ConnectionBrokenError: and not because the peer has yet to hear that it is over.
        """
        if self.is_idle(stream_id):
            raise _not_begun(kind, stream_id)
        if kind in (frames.DATA, frames.HEADERS) and stream_id not in self._given_up:
            raise ConnectionBrokenError(
                ErrorCode.STREAM_CLOSED, f"{frames.NAMES[kind]} on stream {stream_id}, which was ended before"
            )

    def give_up(self, stream: Stream) -> None:
        """It is over for us; if the peer has not ended it, there may be frames of it under way."""
        del self.open[stream.id]
        if not stream.receives:
            return
        self._given_up.add(stream.id)
        self._given_up_in_order.append(stream.id)
        if len(self._given_up_in_order) > MAX_GIVEN_UP:
            self._given_up.discard(self._given_up_in_order.popleft())

    def agree(self) -> Iterator[tuple[int, int]]:
        """The peer has taken over our settings: the windows of all streams change (section 6.9.2).

        In one that becomes smaller there may be nothing left but credit: streams, and what is to be announced on them.
        """
        self._agreed = True
        for stream in self.open.values():
            stream.window.left += self._window - DEFAULT_WINDOW
            if stream.receives and (credit := stream.window.give(0)):
                yield stream.id, credit

    def _add(self, stream_id: int, room: int) -> Stream:
        left = self._window if self._agreed else DEFAULT_WINDOW
        stream = self.open[stream_id] = Stream(stream_id, ReceiveWindow(left, self._window), room)
        return stream


def _not_begun(kind: int, stream_id: int) -> ConnectionBrokenError:
    return ConnectionBrokenError(
        ErrorCode.PROTOCOL_ERROR, f"{frames.NAMES[kind]} on stream {stream_id}, which was not begun"
    )
