"""Just enough of protobuf's wire format to put encoded messages into another one. Pure.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from typing import Final

_LENGTH_DELIMITED: Final = 2


def nested(field: int, message: bytes) -> bytes:
    """The field number `field` (below 16) with an encoded `message` in it."""
    return b"%c%b%b" % (field << 3 | _LENGTH_DELIMITED, varint(len(message)), message)


def varint(number: int) -> bytes:
    """`number`, not negative, seven bits a byte, the lowest first."""
    if number < 0x80:
        return b"%c" % number
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
