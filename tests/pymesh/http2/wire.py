"""Bytes of a peer without manners: whatever a test wants, and what our side says to it."""

from collections.abc import Iterable
from typing import Final

from pymesh.http2 import frames
from pymesh.http2.connection import Connection
from pymesh.http2.events import Event, Field
from pymesh.http2.frames import END_HEADERS, END_STREAM, Frame, FrameReader
from pymesh.http2.header_blocks import encode_field

GET: Final[tuple[Field, ...]] = (
    (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a"),
)  # fmt: skip
OK: Final[tuple[Field, ...]] = ((b":status", b"200"),)
AGREED: Final = frames.frame(frames.SETTINGS, frames.ACK, 0)


def head(stream_id: int, fields: Iterable[Field] = GET, *, end: bool = False) -> bytes:
    """A header block in one frame."""
    block = b"".join(map(encode_field, fields))
    return frames.frame(frames.HEADERS, END_HEADERS | (END_STREAM if end else 0), stream_id, block)


def data(stream_id: int, body: bytes = b"", *, end: bool = False) -> bytes:
    """A part of a body."""
    return frames.frame(frames.DATA, END_STREAM if end else 0, stream_id, body)


class Raw:
    """Our end of a connection, and a peer that has said hello and says from then on what it is told to."""

    def __init__(self, connection: Connection, *settings: tuple[int, int], agreed: bool = True) -> None:
        self.connection = connection
        self._client = connection._client
        self._reader = FrameReader(preface=self._client)
        self.said()
        hello = frames.settings(settings) + (AGREED if agreed else b"")
        self.tell(hello if self._client else frames.PREFACE + hello)
        self.said()

    def tell(self, *wire: bytes) -> list[Event]:
        """The peer sends this: what comes of it."""
        return self.connection.receive(b"".join(wire))

    def said(self) -> list[Frame]:
        """What our end has sent since the last time."""
        return list(self._reader.feed(self.connection.bytes_to_send()))


def server(*settings: tuple[int, int], agreed: bool = True, **options: int) -> Raw:
    """A server of ours."""
    return Raw(Connection(client=False, **options), *settings, agreed=agreed)  # type: ignore[arg-type]  no clock in them


def client(*settings: tuple[int, int], streams: int = 1, agreed: bool = True) -> Raw:
    """A client of ours, which has asked on so many streams, and not said the last of any."""
    raw = Raw(Connection(client=True), *settings, agreed=agreed)
    for number in range(streams):
        assert raw.connection.next_stream_id() == 2 * number + 1
        raw.connection.send_headers(2 * number + 1, GET, end=False)
    raw.said()
    return raw
