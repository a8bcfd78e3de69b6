"""What has to be seen of the stream of frames before h2 sees it.

GOAWAY is taken out: h2 closes its connection at one and refuses every later frame, while RFC 9113 section 6.8 lets the
streams that are open finish, and gRPC servers rely on that to shut down without a failed call (GOAWAY, then a PING).

Two rules are enforced here, since h2 does not: a connection begins with SETTINGS (section 3.4), and no frame is longer
than what was announced (section 4.2; h2 takes 16 MiB until its settings are acknowledged). Without them, a peer that
answers in HTTP/1.1 would look like one that is sending a long frame.
"""

import struct
from collections.abc import Iterator

from pymesh.grpc.engine import ConnectionBrokenError, GoAway

# SETTINGS_MAX_FRAME_SIZE, never changed from its default here.
MAX_FRAME_BYTES = 16384
_HEADER_BYTES = 9
_SETTINGS, _GOAWAY = 0x4, 0x7
_PAYLOAD = struct.Struct("!II")
_STREAM_ID_MASK = 0x7FFFFFFF


class FrameGuard:
    """Follows the frame boundaries. `preface` is how many bytes come before the first frame."""

    __slots__ = ("_begun", "_goaway", "_header", "_left")

    def __init__(self, *, preface: int) -> None:
        self._left = preface  # bytes that remain of the frame (or preface) under way
        self._begun = False  # a frame was seen
        self._header = b""  # a frame header that has only partly arrived
        self._goaway: bytearray | None = None  # payload, while the frame under way is a GOAWAY

    def pass_through(self, data: bytes) -> Iterator[bytes | GoAway]:
        """What `data` holds, in order: bytes for h2, and GOAWAY frames.

        Raises:
            ConnectionBrokenError: this is not HTTP/2.
        """
        data = self._header + data
        self._header = b""
        start = position = 0  # data[start:position] is for h2 and not yet handed out
        while position < len(data):
            if self._left:
                taken = min(self._left, len(data) - position)
                if self._goaway is not None:
                    self._goaway += data[position : position + taken]
                    start += taken
                position += taken
                self._left -= taken
            elif len(data) - position < _HEADER_BYTES:
                self._header = data[position:]
                break
            else:
                if self._begin(data[position : position + _HEADER_BYTES]) == _GOAWAY:
                    if position > start:
                        yield data[start:position]
                    start = position + _HEADER_BYTES
                    self._goaway = bytearray()
                position += _HEADER_BYTES
            if self._goaway is not None and not self._left:
                payload, self._goaway = bytes(self._goaway), None
                last, code = _PAYLOAD.unpack_from(payload)
                yield GoAway(last & _STREAM_ID_MASK, code, payload[_PAYLOAD.size :])
        if position > start:
            yield data[start:position]

    def _begin(self, header: bytes) -> int:
        """A frame begins: its type."""
        self._left, kind = int.from_bytes(header[:3], "big"), header[3]
        if not self._begun and kind != _SETTINGS:
            raise ConnectionBrokenError("the peer does not speak HTTP/2: its first frame is not SETTINGS")
        self._begun = True
        if self._left > MAX_FRAME_BYTES:
            raise ConnectionBrokenError(f"a frame of {self._left} bytes is longer than {MAX_FRAME_BYTES}")
        if kind == _GOAWAY:
            if self._left < _PAYLOAD.size:
                raise ConnectionBrokenError(f"GOAWAY of {self._left} bytes")
            if int.from_bytes(header[5:9], "big") & _STREAM_ID_MASK:
                raise ConnectionBrokenError("GOAWAY on a stream")
        return kind
