"""GOAWAY taken out of the stream of frames before h2 sees it.

h2 closes its connection at a GOAWAY and refuses every later frame, while RFC 9113 section 6.8 lets the streams that are
open finish, and gRPC servers rely on that to shut down without a failed call (they send GOAWAY, then a PING).
"""

import struct
from collections.abc import Iterator

from pymesh.grpc.engine import ConnectionBrokenError, GoAway

_FRAME_HEADER_BYTES = 9
_GOAWAY_TYPE = 0x7
_PAYLOAD = struct.Struct("!II")
# Last stream, error code and a reason; SETTINGS_MAX_FRAME_SIZE, which is never raised here, allows no more.
MAX_GOAWAY_BYTES = 16384
_STREAM_ID_MASK = 0x7FFFFFFF


class GoAwaySplitter:
    """Follows the frame boundaries. `preface` is how many bytes come before the first frame."""

    __slots__ = ("_goaway", "_header", "_left")

    def __init__(self, *, preface: int) -> None:
        self._left = preface  # bytes that remain of the frame (or preface) under way
        self._header = b""  # a frame header that has only partly arrived
        self._goaway: bytearray | None = None  # payload, while the frame under way is a GOAWAY

    def split(self, data: bytes) -> Iterator[bytes | GoAway]:
        """What `data` holds, in order: bytes for h2, and GOAWAY frames.

        Raises:
            ConnectionBrokenError: a GOAWAY is malformed.
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
            elif len(data) - position < _FRAME_HEADER_BYTES:
                self._header = data[position:]
                break
            else:
                self._left = int.from_bytes(data[position : position + 3], "big")
                if data[position + 3] == _GOAWAY_TYPE:
                    if position > start:
                        yield data[start:position]
                    start = position + _FRAME_HEADER_BYTES
                    self._goaway = self._begin(data[position + 5 : position + 9])
                position += _FRAME_HEADER_BYTES
            if self._goaway is not None and not self._left:
                payload, self._goaway = bytes(self._goaway), None
                last, code = _PAYLOAD.unpack_from(payload)
                yield GoAway(last & _STREAM_ID_MASK, code, payload[_PAYLOAD.size :])
        if position > start:
            yield data[start:position]

    def _begin(self, stream_id: bytes) -> bytearray:
        if not _PAYLOAD.size <= self._left <= MAX_GOAWAY_BYTES:
            raise ConnectionBrokenError(f"GOAWAY of {self._left} bytes")
        if int.from_bytes(stream_id, "big") & _STREAM_ID_MASK:
            raise ConnectionBrokenError("GOAWAY on a stream")
        return bytearray()
