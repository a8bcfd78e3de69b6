"""Metadata and deadlines as HTTP/2 headers."""

import base64
import binascii
import math
import re
from collections.abc import Iterable
from typing import TypeAlias

from pymesh.grpc.status import Metadata

Headers: TypeAlias = list[tuple[bytes, bytes]]

_KEY = re.compile(r"[0-9a-z_.-]+", re.ASCII)
# Without blanks around it: no field value may have them (RFC 9113 section 8.2.1).
_VALUE = re.compile(r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?", re.ASCII)
# HTTP's own and gRPC's own: never metadata of the application.
_RESERVED = {b"te", b"content-type", b"user-agent", b"host", b"connection", b"transfer-encoding", b"trailer"}
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_TIMEOUT_DIGITS = 8


class MetadataError(ValueError):
    """Metadata or a deadline that gRPC does not allow."""


def encode_metadata(metadata: Metadata) -> Headers:
    """Metadata as headers: text as it is, bytes (only under keys that end in `-bin`) in base64 without padding.

    Raises:
        MetadataError: a key or value that may not be sent.
    """
    headers: Headers = []
    for key, value in metadata:
        if not _KEY.fullmatch(key) or key.startswith("grpc-") or key.encode() in _RESERVED:
            raise MetadataError(f"{key!r} is not allowed as a metadata key")
        if key.endswith("-bin"):
            if not isinstance(value, bytes):
                raise MetadataError(f"the value of {key!r} must be bytes")
            headers.append((key.encode(), base64.b64encode(value).rstrip(b"=")))
        elif isinstance(value, str) and _VALUE.fullmatch(value):
            headers.append((key.encode(), value.encode("ascii")))
        else:
            raise MetadataError(f"the value of {key!r} must be printable ASCII text without blanks around it")
    return headers


def decode_metadata(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str | bytes]]:
    """The application's metadata among `headers`: pseudo-headers and gRPC's own are left out.

    Raises:
        MetadataError: a `-bin` value is not base64.
    """
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name[:1] == b":" or name.startswith(b"grpc-") or name in _RESERVED:
            continue
        key = name.decode("latin-1")
        if name.endswith(b"-bin"):
            metadata += [(key, _from_base64(part.strip(), key)) for part in value.split(b",")]
        else:
            metadata.append((key, value.decode("latin-1")))
    return metadata


def _from_base64(value: bytes, key: str) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise MetadataError(f"the value of {key!r} is not base64") from error


def encode_timeout(seconds: float) -> bytes:
    """grpc-timeout: at most eight digits and a unit, rounded up, so that the peer never gives up before we do.

    In milliseconds or more: with a finer unit no head would be like the one before, and both ends know heads again.
    """
    for unit in (b"m", b"S", b"M", b"H"):
        count = math.ceil(max(seconds, 0.0) / _SECONDS[unit])
        if count < 10**_MAX_TIMEOUT_DIGITS:
            return b"%d%b" % (count, unit)
    return b"99999999H"


def decode_timeout(value: bytes) -> float:
    """Seconds behind a grpc-timeout.

    Raises:
        MetadataError: it is not one.
    """
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise MetadataError(f"grpc-timeout {value!r} is not up to eight digits and a unit of HMSmun")
    return int(match[1]) * _SECONDS[match[2]]
