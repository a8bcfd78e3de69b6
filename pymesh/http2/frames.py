"""Frames: cut out of a stream of bytes, and written (RFC 9113 sections 3.4, 4.1 and 6). Pure.

What is judged here is what a frame's own bytes tell: its length, whether it belongs on a stream or on the connection,
its padding. What it means where it comes is for `connection` and `streams` to say.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from pymesh.http2.errors import ConnectionBrokenError, ErrorCode

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# SETTINGS_MAX_FRAME_SIZE of both sides before settings are agreed on, and ours for good: larger frames save nothing
# that can be measured, and would let one stream keep the connection to itself for longer.
MAX_FRAME_BYTES: Final = 16384
HEADER_BYTES: Final = 9
# What a GOAWAY says to people is a sentence; a peer need not take a frame of more than MAX_FRAME_BYTES.
MAX_REASON_BYTES: Final = 256

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

NAMES: Final = (
    "DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS",
    "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION",
)  # fmt: skip

END_STREAM: Final = 0x1  # DATA, HEADERS
ACK: Final = 0x1  # SETTINGS, PING
END_HEADERS: Final = 0x4  # HEADERS, CONTINUATION
PADDED: Final = 0x8  # DATA, HEADERS
PRIORITISED: Final = 0x20  # HEADERS

# kind, flags, stream id, payload. A plain tuple: one is made for every frame.
Frame: TypeAlias = tuple[int, int, int, bytes]

_HEADER: Final = struct.Struct("!BHBBI")  # length in 8 + 16 bits, kind, flags, stream id
_UINT32: Final = struct.Struct("!I")
_GOAWAY: Final = struct.Struct("!II")
_SETTING: Final = struct.Struct("!HI")
_31_BITS: Final = 0x7FFFFFFF
_PRIORITY_BYTES: Final = 5

_MESSAGES: Final = (DATA, HEADERS)
_ON_STREAMS: Final = frozenset({DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION})
_ON_CONNECTION: Final = frozenset({SETTINGS, PING, GOAWAY})
_EXACT_BYTES: Final[Mapping[int, int]] = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_LEAST_BYTES: Final[Mapping[int, int]] = {GOAWAY: 8}


class FrameReader:
    """Cuts a peer's bytes into frames, at whatever points they were split. Holds no more than one frame.

    `preface`: whether the peer is a client, whose first bytes are PREFACE.
    """

    __slots__ = ("_begun", "_preface", "_rest")

    def __init__(self, *, preface: bool) -> None:
        self._preface = PREFACE if preface else b""  # what of it is still to come
        self._begun = False  # a frame was seen
        self._rest = b""  # a frame of which not all has come

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes, in order; to be taken to the end before more is fed.

        Raises:
            ConnectionBrokenError: this is not HTTP/2, or a frame that cannot be. A frame's length is judged before any
                of its payload has come.
        """
        if self._preface:
            data = self._greeted(data)
        if self._rest:
            data, self._rest = self._rest + data, b""
        start, size = 0, len(data)
        while size - start >= HEADER_BYTES:
            high, low, kind, flags, stream_id = _HEADER.unpack_from(data, start)
            length = high << 16 | low
            stream_id &= _31_BITS
            if not self._begun:
                self._begin(kind, flags)
            if length > MAX_FRAME_BYTES:
                raise ConnectionBrokenError(
                    ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes is longer than {MAX_FRAME_BYTES}"
                )
            if kind not in _MESSAGES or not stream_id:
                _check(kind, length, stream_id)
            end = start + HEADER_BYTES + length
            if end > size:
                break
            yield kind, flags, stream_id, data[start + HEADER_BYTES : end]
            start = end
        self._rest = data[start:] if start < size else b""

    def _greeted(self, data: bytes) -> bytes:
        """What comes after the preface, as far as that has come."""
        expected, self._preface = self._preface, self._preface[len(data) :]
        if not data.startswith(expected) and not expected.startswith(data):
            raise ConnectionBrokenError(
                ErrorCode.PROTOCOL_ERROR, "the peer does not speak HTTP/2: no connection preface"
            )
        return data[len(expected) :]

    def _begin(self, kind: int, flags: int) -> None:
        """The first frame is a SETTINGS, RFC 9113 section 3.4. A peer that speaks HTTP/1.1 is noticed here."""
        if kind != SETTINGS or flags & ACK:
            raise ConnectionBrokenError(
                ErrorCode.PROTOCOL_ERROR, "the peer does not speak HTTP/2: its first frame is not SETTINGS"
            )
        self._begun = True


def _check(kind: int, length: int, stream_id: int) -> None:
    """Whether a frame can be as its header says. Of kinds that nobody knows nothing is (section 5.5)."""
    if kind in _ON_STREAMS and not stream_id:
        raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, f"{NAMES[kind]} on no stream")
    if kind in _ON_CONNECTION and stream_id:
        raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, f"{NAMES[kind]} on a stream")
    if length != _EXACT_BYTES.get(kind, length) or length < _LEAST_BYTES.get(kind, 0):
        raise ConnectionBrokenError(ErrorCode.FRAME_SIZE_ERROR, f"{NAMES[kind]} of {length} bytes")
    if kind == PUSH_PROMISE:
        raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which nobody allowed")


# --- What is in a payload -------------------------------------------------------------------------------------------


def without_padding(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding (sections 6.1 and 6.2).

    Raises:
        ConnectionBrokenError: there is more padding than payload.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, "a frame is shorter than its padding")
    return payload[1 : len(payload) - payload[0]]


def block_of(flags: int, payload: bytes) -> bytes:
    """The part of a header block in a HEADERS frame; its priority is deprecated and passed over (section 5.3.2).

    Raises:
        ConnectionBrokenError: it is shorter than its flags say.
    """
    payload = without_padding(flags, payload)
    if not flags & PRIORITISED:
        return payload
    if len(payload) < _PRIORITY_BYTES:
        raise ConnectionBrokenError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is shorter than its priority")
    return payload[_PRIORITY_BYTES:]


def increment_of(payload: bytes) -> int:
    """Of a WINDOW_UPDATE."""
    (increment,) = _UINT32.unpack(payload)
    return int(increment) & _31_BITS


def code_of(payload: bytes) -> int:
    """The error code of a RST_STREAM."""
    (code,) = _UINT32.unpack(payload)
    return int(code)


def farewell_of(payload: bytes) -> tuple[int, int, bytes]:
    """Of a GOAWAY: the last stream, the error code, and what else was said."""
    last, code = _GOAWAY.unpack_from(payload)
    return last & _31_BITS, code, payload[_GOAWAY.size :]


def pairs_of(payload: bytes) -> Iterator[tuple[int, int]]:
    """Of a SETTINGS: identifiers and values, in order.

    Raises:
        ConnectionBrokenError: its length is no multiple of six.
    """
    if len(payload) % _SETTING.size:
        raise ConnectionBrokenError(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    return _SETTING.iter_unpack(payload)


# --- Writing --------------------------------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    length = len(payload)
    return _HEADER.pack(length >> 16, length & 0xFFFF, kind, flags, stream_id) + payload


def headers(stream_id: int, block: bytes, *, end: bool, max_bytes: int) -> bytes:
    """A header block in one HEADERS frame, and CONTINUATIONs if the peer takes no more than `max_bytes` in one."""
    flags = END_STREAM if end else 0
    if len(block) <= max_bytes:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    pieces = [block[at : at + max_bytes] for at in range(0, len(block), max_bytes)]
    out = [frame(HEADERS, flags, stream_id, pieces[0])]
    out += [frame(CONTINUATION, 0, stream_id, piece) for piece in pieces[1:-1]]
    out.append(frame(CONTINUATION, END_HEADERS, stream_id, pieces[-1]))
    return b"".join(out)


def settings(pairs: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in pairs))


def rst_stream(stream_id: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, _UINT32.pack(code))


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _UINT32.pack(increment))


def goaway(last_stream_id: int, code: int, reason: bytes = b"") -> bytes:
    """A GOAWAY frame, with the first MAX_REASON_BYTES of `reason`."""
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last_stream_id, code) + reason[:MAX_REASON_BYTES])
