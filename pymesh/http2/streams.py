"""One stream: which frames it may still have (RFC 9113 section 5.1), and what its message promised. Pure.

A stream is kept from its first HEADERS until both sides have ended it. So the states of the RFC are: idle, not begun
yet; open and half-closed, by `sends` and `receives`; closed, gone.
"""

from pymesh.http2.errors import ErrorCode, StreamBrokenError
from pymesh.http2.events import Fields
from pymesh.http2.flow_control import ReceiveWindow
from pymesh.http2.messages import Kind, Section

_NO_CONTENT = 204
_NOT_MODIFIED = 304
_FINAL = 200


class Stream:
    """A stream that is not closed.

    Attributes:
        sends: whether our side may still send HEADERS and DATA.
        receives: whether the peer's may.
        known: whoever uses the connection has heard of it.
        headed: the request's head, or the head of the final response, has come.
        headless: what answers it has no body, since HEAD was asked.
        window: what the peer may send.
        room: bytes that we may send; below zero where the peer has made the window smaller.
        queue: bytes of our body that wait for room.
        ending: our side ends with what is queued, and `trailers`; `resets`: then the peer's does, too.
    """

    __slots__ = (
        "_left", "ending", "headed", "headless", "id", "known", "queue", "receives", "resets", "room", "sends",
        "trailers", "window",
    )  # fmt: skip

    def __init__(self, stream_id: int, window: ReceiveWindow, room: int) -> None:
        self.id = stream_id
        self.sends = True
        self.receives = True
        self.known = False
        self.headed = False
        self.headless = False
        self.window = window
        self.room = room
        self.queue = bytearray()
        self.ending = False
        self.trailers: Fields | None = None
        self.resets = False
        self._left: int | None = None  # bytes of the body that are still to come, if that was said

    def take_head(self, kind: Kind, section: Section, *, end: bool) -> None:
        """A head or trailers have come, well-formed in themselves.

        Raises:
            StreamBrokenError: they have no place here.
        """
        self._check_receives()
        if kind is Kind.TRAILERS:
            if not end:
                raise StreamBrokenError(ErrorCode.PROTOCOL_ERROR, "trailers that do not end the stream")
        elif kind is Kind.RESPONSE and section.status < _FINAL:
            if end:
                raise StreamBrokenError(ErrorCode.PROTOCOL_ERROR, "an interim response that ends the stream")
        else:
            self.headed = True
            self._left = 0 if self._has_no_body(section) else section.length
        if end:
            self._end()

    def take_data(self, data: bytes, *, end: bool) -> None:
        """A part of the body has come.

        Raises:
            StreamBrokenError: it has no place here, or is more or less than was promised.
        """
        self._check_receives()
        if not self.headed:
            raise StreamBrokenError(ErrorCode.PROTOCOL_ERROR, "DATA before a response")
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise StreamBrokenError(ErrorCode.PROTOCOL_ERROR, "the body is longer than its content-length")
        if end:
            self._end()

    def _has_no_body(self, section: Section) -> bool:
        """Whatever its content-length (RFC 9110 section 8.6)."""
        return section.status in (_NO_CONTENT, _NOT_MODIFIED) or (self.headless and section.status > 0)

    def _end(self) -> None:
        self.receives = False
        if self._left:
            raise StreamBrokenError(ErrorCode.PROTOCOL_ERROR, "the body is shorter than its content-length")

    def _check_receives(self) -> None:
        if not self.receives:
            raise StreamBrokenError(ErrorCode.STREAM_CLOSED, "the stream was ended before")
