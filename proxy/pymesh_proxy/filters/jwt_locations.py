"""Where tokens stand in a request, and how they are removed from there. Sans-IO.

Every value of a location is a token that has to be good, also where a name occurs twice in a query or among cookies:
the app may read another one of them than we do.

Source: envoy.extensions.filters.http.jwt_authn.v3.JwtProvider; RFC 6750 section 2 (bearer tokens), RFC 6265 section 5.4
"""

import re
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from pymesh_proxy.codec.headers import Head

# The first character that can belong to a token: what stands between it and the prefix is skipped, as in Envoy.
_BEGIN: Final = re.compile(rb"[A-Za-z0-9_.-]")


class Location(Protocol):
    """A place in a request."""

    def tokens(self, head: Head) -> list[bytes]:
        """What stands there, good or not."""

    def remove(self, head: Head) -> None:
        """Remove what stands there."""


@dataclass(frozen=True, slots=True)
class HeaderLocation:
    """A header (its name in lower case), and what stands before the token, as in `Bearer `; perhaps nothing."""

    name: bytes
    prefix: bytes

    def tokens(self, head: Head) -> list[bytes]:
        """See Location."""
        if not head.has(self.name):
            return []
        value = b",".join(head.values(self.name))  # several fields are one (RFC 9110 5.2), and no token
        if not self.prefix:
            return [value]
        _, prefix, rest = value.partition(self.prefix)
        if not prefix:
            return []
        begin = _BEGIN.search(rest)
        return [value if begin is None else rest[begin.start() :]]

    def remove(self, head: Head) -> None:
        """See Location."""
        head.remove(self.name)


@dataclass(frozen=True, slots=True)
class ParamLocation:
    """A parameter of the query."""

    name: bytes

    def tokens(self, head: Head) -> list[bytes]:
        """See Location."""
        _, mark, query = head.path.partition(b"?")
        if not mark:
            return []
        pairs = [part.partition(b"=") for part in query.split(b"&")]
        return [unquote_to_bytes(value) for name, _, value in pairs if unquote_to_bytes(name) == self.name]

    def remove(self, head: Head) -> None:
        """See Location. The others stay as they are written."""
        path, _, query = head.path.partition(b"?")
        kept = [part for part in query.split(b"&") if unquote_to_bytes(part.partition(b"=")[0]) != self.name]
        head.path = path + b"?" + b"&".join(kept) if kept else path


@dataclass(frozen=True, slots=True)
class CookieLocation:
    """A cookie."""

    name: bytes

    def tokens(self, head: Head) -> list[bytes]:
        """See Location."""
        if not head.has(b"cookie"):
            return []
        pairs = [part.partition(b"=") for value in head.values(b"cookie") for part in value.split(b";")]
        return [_unquoted(value.strip()) for name, _, value in pairs if name.strip() == self.name]

    def remove(self, head: Head) -> None:
        """See Location. The others stay, in one field."""
        parts = [part.strip() for value in head.values(b"cookie") for part in value.split(b";")]
        kept = [part for part in parts if part.partition(b"=")[0].strip() != self.name]
        if kept:
            head.set(b"cookie", b"; ".join(kept))
        else:
            head.remove(b"cookie")


def _unquoted(value: bytes) -> bytes:
    return value[1:-1] if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"') else value
