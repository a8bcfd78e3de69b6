"""The hash functions of consistent hashing, bit for bit those of Envoy. Pure.

The same key has to lead to the same endpoint whichever proxy asks, so nothing of the interpreter's own will do: its
hashes are salted. Both functions take 2 to 4 µs for a short key; they run once for a request with a hash policy, and
once for each place on a ring.

Sources: the XXH64 specification (github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md); MurmurHash64A by Austin
Appleby, as libstdc++ has it in `std::_Hash_bytes`, whose seed Envoy takes.
"""

from collections.abc import Iterable
from struct import unpack_from
from typing import Final

MASK: Final = (1 << 64) - 1

_P1: Final = 0x9E3779B185EBCA87
_P2: Final = 0xC2B2AE3D27D4EB4F
_P3: Final = 0x165667B19E3779F9
_P4: Final = 0x85EBCA77C2B2AE63
_P5: Final = 0x27D4EB2F165667C5

_MURMUR_SEED: Final = 0xC70F6907
_MURMUR_MULTIPLIER: Final = 0xC6A4A7935BD1E995


def xxh64(data: bytes, seed: int = 0) -> int:
    """XXH64 of `data`: 64 bits."""
    length, at = len(data), 0
    if length >= 32:
        total, at = _stripes(data, seed)
    else:
        total = (seed + _P5) & MASK
    total = (total + length) & MASK
    while at + 8 <= length:
        total ^= _round(0, unpack_from("<Q", data, at)[0])
        total = ((total << 27 | total >> 37) * _P1 + _P4) & MASK
        at += 8
    if at + 4 <= length:
        total ^= unpack_from("<I", data, at)[0] * _P1 & MASK
        total = (((total << 23 | total >> 41) & MASK) * _P2 + _P3) & MASK
        at += 4
    for byte in data[at:]:
        total ^= byte * _P5 & MASK
        total = ((total << 11 | total >> 53) * _P1) & MASK
    total ^= total >> 33
    total = total * _P2 & MASK
    total ^= total >> 29
    total = total * _P3 & MASK
    return total ^ total >> 32


def xxh64_of_all(values: Iterable[bytes]) -> int:
    """One hash of several values, each hashed with the hash of those before it as its seed."""
    total = 0
    for value in values:
        total = xxh64(value, total)
    return total


def murmur2(data: bytes) -> int:
    """MurmurHash64A of `data` with the seed of libstdc++: 64 bits."""
    length = len(data)
    whole = length & ~7
    total = (_MURMUR_SEED ^ length * _MURMUR_MULTIPLIER) & MASK
    for at in range(0, whole, 8):
        mixed = _mix(unpack_from("<Q", data, at)[0] * _MURMUR_MULTIPLIER & MASK) * _MURMUR_MULTIPLIER & MASK
        total = (total ^ mixed) * _MURMUR_MULTIPLIER & MASK
    if length & 7:
        total = (total ^ int.from_bytes(data[whole:], "little")) * _MURMUR_MULTIPLIER & MASK
    total = _mix(total) * _MURMUR_MULTIPLIER & MASK
    return _mix(total)


def _mix(value: int) -> int:
    return value ^ value >> 47


def _round(accumulator: int, lane: int) -> int:
    accumulator = (accumulator + lane * _P2) & MASK
    return ((accumulator << 31 | accumulator >> 33) * _P1) & MASK


def _stripes(data: bytes, seed: int) -> tuple[int, int]:
    """The 32-byte stripes of `data`: what they add up to, and where they end."""
    v1, v2, v3, v4 = (seed + _P1 + _P2) & MASK, (seed + _P2) & MASK, seed, (seed - _P1) & MASK
    end = len(data) & ~31
    for at in range(0, end, 32):
        a, b, c, d = unpack_from("<4Q", data, at)
        v1, v2, v3, v4 = _round(v1, a), _round(v2, b), _round(v3, c), _round(v4, d)
    total = (v1 << 1 | v1 >> 63) + (v2 << 7 | v2 >> 57) + (v3 << 12 | v3 >> 52) + (v4 << 18 | v4 >> 46)
    total &= MASK
    for value in (v1, v2, v3, v4):
        total = ((total ^ _round(0, value)) * _P1 + _P4) & MASK
    return total, end
