"""What makes a message well-formed (RFC 9113 section 8): names, values, pseudo-header fields, promises. Pure.

What is malformed is refused whole and handed to nobody: what a proxy would pass on of it, the next one might read
differently (section 8.1.1).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pymesh.http2.events import Fields

# RFC 9110 section 5.6.2, in lower case (RFC 9113 section 8.2.1).
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# RFC 9110 section 5.5: visible characters and obs-text; spaces and tabs within.
_VALUE: Final = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*")
_PATH: Final = re.compile(rb"/[\x21-\x7e\x80-\xff]*")
_AUTHORITY: Final = re.compile(rb"[\x21-\x3f\x41-\x7e]*")  # no userinfo, section 8.3.1
_STATUS: Final = re.compile(rb"[1-9][0-9]{2}")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")  # a body of 10**18 bytes does not come to an end
# Section 8.2.2. They speak of a connection of HTTP/1.1, and could be made to end a message early on the next one.
_OF_A_CONNECTION: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade",
})  # fmt: skip
_REQUEST: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_RESPONSE: Final = frozenset({b":status"})


class MalformedError(ValueError):
    """What is wrong with a message."""


class Kind(Enum):
    """What a header block is, by where it comes."""

    REQUEST = auto()
    RESPONSE = auto()
    TRAILERS = auto()


@dataclass(frozen=True, slots=True)
class Section:
    """A well-formed header block.

    Attributes:
        length: what content-length promises of the body, in bytes; None if nothing does.
        status: of a response; 0 for any other.
    """

    fields: Fields
    length: int | None = None
    status: int = 0


def section(kind: Kind, fields: Fields) -> Section:
    """`fields` as what they are to be.

    Raises:
        MalformedError: they are not.
    """
    pseudo, length = _read(fields)
    status = 0
    match kind:
        case Kind.REQUEST:
            _check_request(pseudo, fields)
        case Kind.RESPONSE:
            status = _check_response(pseudo)
        case Kind.TRAILERS:
            if pseudo:
                raise MalformedError(f"{_text(next(iter(pseudo)))} in trailers")
            length = None  # of a body that has been; there it says nothing
    return Section(fields, length, status)


def _read(fields: Fields) -> tuple[Mapping[bytes, bytes], int | None]:
    """The pseudo-header fields, and what content-length says."""
    pseudo: dict[bytes, bytes] = {}
    regular = False
    length: bytes | None = None
    for name, value in fields:
        if not _VALUE.fullmatch(value):
            raise MalformedError(f"the value of {_text(name)} has characters that it must not have")
        if name[:1] == b":":
            if regular:
                raise MalformedError(f"{_text(name)} comes after other fields")
            if name in pseudo:
                raise MalformedError(f"{_text(name)} comes twice")
            pseudo[name] = value
            continue
        regular = True
        if not _NAME.fullmatch(name):
            raise MalformedError(f"{_text(name)} is no name of a field")
        if name in _OF_A_CONNECTION or (name == b"te" and value.lower() != b"trailers"):
            raise MalformedError(f"{_text(name)} has no place in HTTP/2")
        if name == b"content-length":
            if length is not None or not _LENGTH.fullmatch(value):
                raise MalformedError(f"content-length {_text(value)}")
            length = value
    return pseudo, None if length is None else int(length)


def _check_request(pseudo: Mapping[bytes, bytes], fields: Fields) -> None:
    """Section 8.3.1; CONNECT: section 8.5. `:protocol` (RFC 8441) was not offered."""
    if not pseudo.keys() <= _REQUEST:
        raise MalformedError(f"{_text(min(pseudo.keys() - _REQUEST))} in a request")
    method, authority = pseudo.get(b":method", b""), pseudo.get(b":authority")
    if not _METHOD.fullmatch(method):
        raise MalformedError(f":method {_text(method)}")
    if authority is not None and not _AUTHORITY.fullmatch(authority):
        raise MalformedError(f":authority {_text(authority)}")
    hosts = [value for name, value in fields if name == b"host"]
    if hosts and hosts != [authority if authority is not None else hosts[0]]:
        raise MalformedError("host and :authority do not name the same one")
    if not authority and not any(hosts):
        raise MalformedError("neither :authority nor host")
    if method == b"CONNECT":
        if b":scheme" in pseudo or b":path" in pseudo or not authority:
            raise MalformedError("CONNECT has an :authority, no :scheme and no :path")
        return
    scheme, path = pseudo.get(b":scheme", b""), pseudo.get(b":path", b"")
    if not _SCHEME.fullmatch(scheme):
        raise MalformedError(f":scheme {_text(scheme)}")
    if not _PATH.fullmatch(path) and not (path == b"*" and method == b"OPTIONS"):
        raise MalformedError(f":path {_text(path)}")


def _check_response(pseudo: Mapping[bytes, bytes]) -> int:
    """Section 8.3.2; 101 has no place here, section 8.6."""
    status = pseudo.get(b":status", b"")
    if pseudo.keys() != _RESPONSE or not _STATUS.fullmatch(status) or status == b"101":
        raise MalformedError(f"a response of {', '.join(map(_text, pseudo)) or 'no :status'} {_text(status)}")
    return int(status)


def _text(data: bytes) -> str:
    """For people: bounded, and without what could forge a line of a log."""
    return ascii(data[:64].decode("latin-1"))
