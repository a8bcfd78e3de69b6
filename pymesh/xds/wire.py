"""Protobuf's wire format, as far as it takes to cut a large message into the messages that it holds.

A discovery response or a route configuration of many megabytes cannot be parsed at once without stopping whoever has
but one thread. Its top level is a sequence of fields, and the one that makes it large is repeated: cut out, its values
are parsed one by one, and what is left is parsed as the small message that it is. Since the encoding of a message is
defined field by field, that gives what parsing the whole would, and bytes that are no message are refused by the one
parser or the other.

Source: protobuf.dev/programming-guides/encoding. Groups (wire types 3 and 4), which proto3 cannot declare, are refused.
"""

from typing import Final

from pymesh.errors import ConfigError
from pymesh.steps import Steps

# Values of one field in one message: twenty times the largest mesh that was tried, and far from what would hurt.
MAX_PIECES: Final = 200_000
# Fields between two chances for others: about 0.2 ms.
_FIELDS_AT_ONCE: Final = 512

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# Bytes of the longest varint.
_MAX_VARINT: Final = 10
_MAX_TAG: Final = 2**32 - 1

Range = tuple[int, int]


def split(data: bytes, number: int) -> Steps[tuple[bytes, list[Range]]]:
    """`data` without its field `number`, and where each value of that field, a message or string, stands in it.

    Raises:
        ConfigError: `data` is not a message, or holds the field more than MAX_PIECES times.
    """
    wanted = number << 3 | _LENGTH
    pieces: list[Range] = []
    rest: list[bytes] = []
    kept = at = done = 0
    size = len(data)
    while at < size:
        start = at
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _varint(data, start)
        begin, at = _value(data, tag, at)
        if at > size:
            raise ConfigError(f"is cut short in the field at byte {start}")
        if tag == wanted:
            if len(pieces) == MAX_PIECES:
                raise ConfigError(f"holds field {number} more than {MAX_PIECES} times")
            pieces.append((begin, at))
            if kept < start:
                rest.append(data[kept:start])
            kept = at
        done += 1
        if not done % _FIELDS_AT_ONCE:
            yield
    if kept < size:
        rest.append(data[kept:])
    return b"".join(rest), pieces


def _value(data: bytes, tag: int, at: int) -> Range:
    """Where the content of the field's value begins, and where it ends; that may be behind the end of `data`."""
    kind = tag & 7
    if tag >> 3 == 0 or tag > _MAX_TAG:
        raise ConfigError(f"has {tag:#x} where a field should begin, before byte {at}")
    if kind == _LENGTH:
        length, at = _varint(data, at)
        return at, at + length
    if kind == _VARINT:
        return at, _varint(data, at)[1]
    if kind == _FIXED64:
        return at, at + 8
    if kind == _FIXED32:
        return at, at + 4
    raise ConfigError(f"has a field of wire type {kind} before byte {at}, which no message here has")


def _varint(data: bytes, at: int) -> Range:
    """A varint's value, and where it ends."""
    value = shift = 0
    for end, byte in enumerate(data[at : at + _MAX_VARINT], start=at + 1):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, end
        shift += 7
    raise ConfigError(f"has no end to the number at byte {at}")
