"""What is to be written: frames in order, and bodies as far as the peer's windows are open. Sans-IO."""

from typing import Final

from pymesh.http2 import frames
from pymesh.http2.errors import ConnectionBrokenError, ErrorCode, StreamBrokenError
from pymesh.http2.events import Fields
from pymesh.http2.floods import Patience
from pymesh.http2.header_blocks import BlockWriter
from pymesh.http2.settings import DEFAULT_WINDOW, LARGEST_WINDOW
from pymesh.http2.streams import Stream

_NOTHING: Final = b""


class Sender:
    """Our side of a connection.

    Attributes:
        max_bytes: of a frame that the peer takes.
    """

    __slots__ = ("_blocked", "_blocks", "_out", "_patience", "_room", "max_bytes")

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.max_bytes = frames.MAX_FRAME_BYTES
        self._out: list[bytes] = []
        self._blocks = BlockWriter()
        self._room = DEFAULT_WINDOW  # of the whole connection
        self._blocked: dict[int, Stream] = {}  # those that have a queue, by whose turn it is

    def bytes_to_send(self) -> bytes:
        """What has to be written now; empty if nothing."""
        out = self._out
        if not out:
            return _NOTHING
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def write(self, frame: bytes) -> None:
        """Send a frame that is no part of a message."""
        self._out.append(frame)

    def head(self, stream: Stream, fields: Fields, *, end: bool) -> None:
        """Send a header block."""
        self._patience.messages += 1
        self._out.append(frames.headers(stream.id, self._blocks.write(fields), end=end, max_bytes=self.max_bytes))
        if end:
            stream.sends = False

    def body(self, stream: Stream, data: bytes, *, end: bool) -> None:
        """Send, or queue, bytes of a body; with `end` the last of them."""
        size = len(data)
        if not stream.queue and size <= stream.room and size <= self._room and size <= self.max_bytes:
            if size or end:
                self._data(stream, data, end=end)
            return
        stream.queue += data
        stream.ending = end
        self._blocked.setdefault(stream.id, stream)
        self.flush(stream)

    def finish(self, stream: Stream, trailers: Fields | None, *, resets: bool) -> None:
        """End our side after what is queued; `resets` then ends the peer's, too."""
        stream.ending, stream.trailers, stream.resets = True, trailers, resets
        if not stream.queue:
            self._end(stream)

    def forget(self, stream: Stream) -> None:
        """A stream is over: nothing that is queued will be sent."""
        if stream.queue:
            stream.queue = bytearray()
            self._blocked.pop(stream.id, None)

    def flush(self, stream: Stream) -> None:
        """Send as much of a stream's queue as there is room for."""
        queue = stream.queue
        sent = 0
        while sent < len(queue):
            size = min(len(queue) - sent, stream.room, self._room, self.max_bytes)
            if size <= 0:
                break
            last = stream.ending and stream.trailers is None and sent + size == len(queue)
            self._data(stream, bytes(memoryview(queue)[sent : sent + size]), end=last)
            sent += size
        del queue[:sent]
        if not queue:
            self._blocked.pop(stream.id, None)
            if stream.ending:
                self._end(stream)

    def settings_changed(self) -> None:
        """The peer has changed its settings."""
        self._blocks.restart()

    def widen(self, increment: int) -> None:
        """The peer takes more on the connection: see `flush_all`.

        Raises:
            ConnectionBrokenError: more than there can be.
        """
        if not increment:
            raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        self._room += increment
        if self._room > LARGEST_WINDOW:
            raise ConnectionBrokenError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")

    def flush_all(self) -> list[Stream]:
        """Send what there is room for, and say of which streams; whose turn it was comes last the next time."""
        served = []
        for stream in tuple(self._blocked.values()):
            if self._room <= 0:
                break
            if stream.room > 0:
                self.flush(stream)
                served.append(stream)
                if stream.queue:
                    self._blocked[stream.id] = self._blocked.pop(stream.id)
        return served

    def _data(self, stream: Stream, data: bytes, *, end: bool) -> None:
        self._patience.messages += 1
        size = len(data)
        stream.room -= size
        self._room -= size
        self._out.append(frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream.id, data))
        if end:
            stream.sends = False

    def _end(self, stream: Stream) -> None:
        if not stream.sends:
            return  # with its last DATA
        if stream.trailers is None:
            self._data(stream, b"", end=True)
        else:
            self.head(stream, stream.trailers, end=True)


def widen(stream: Stream, change: int) -> None:
    """The peer takes more on a stream, or less.

    Raises:
        StreamBrokenError: more than there can be.
    """
    stream.room += change
    if stream.room > LARGEST_WINDOW:
        raise StreamBrokenError(ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is too large")
