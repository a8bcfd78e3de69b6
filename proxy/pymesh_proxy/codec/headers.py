"""A message head: start line and header fields as they arrived, with the changes made on the way through.

A head is a list of lines. Those that nobody takes away stay the bytes that came in, and what is added stands behind
them; which line is which says the head's shape (`codec/shape.py`). Names are looked up in lower case.
"""

from typing import Final

from pymesh_proxy.codec.shape import HOP_BY_HOP, NO_FIELDS, Shape, known_without, without

_NONE: Final[frozenset[bytes]] = frozenset()


class Head:
    """The head of one request or response. Made by `codec/http1.py`; without arguments it has no fields.

    Attributes:
        shape: of the received lines that are left.
        method: request method; empty for a response.
        path: request target as in `:path` (`/reviews/1?x=y`, `*`, or `host:port` for CONNECT); absolute-form is split.
        authority: Host, or the absolute target's; empty where there is none.
        status: response status; 0 for a request.
        reason: response reason phrase.
        minor: the 1 in HTTP/1.1.
        content_length: None without Content-Length.
        chunked: Transfer-Encoding is chunked.
        persistent: the peer keeps its connection open after this message, as far as it is concerned.
        listed: what Connection lists besides the connection-specific fields, in lower case.
        upgrade: the protocol asked for (lower case) when Connection says upgrade; empty otherwise.
    """

    __slots__ = (
        "_added", "_lines", "authority", "chunked", "content_length", "listed", "method", "minor", "path",
        "persistent", "reason", "shape", "status", "upgrade",
    )  # fmt: skip

    def __init__(self, lines: list[bytes] | None = None, shape: Shape = NO_FIELDS) -> None:
        """`lines`: the field lines as received, without their CRLF, which are the head's from now on."""
        self._lines: list[bytes] = [] if lines is None else lines
        self.shape = shape
        # Name to line; to several, with a CRLF between them, where a name was added more than once.
        self._added: dict[bytes, bytes] = {}
        self.method = self.path = self.authority = self.reason = self.upgrade = b""
        self.status = 0
        self.minor = 1
        self.content_length: int | None = None
        self.chunked = False
        self.persistent = True
        self.listed = _NONE

    def get(self, name: bytes) -> bytes | None:
        """Value of `name` (lower case); several are joined by `, ` (RFC 9110 5.3), None if there is none."""
        shape, added = self.shape, self._added
        if name in added:
            line = added[name]
            if name not in shape.where and b"\r" not in line:
                return line[len(name) + 1 :].strip()
        elif name not in shape.where:
            return None
        elif not shape.repeated or name not in shape.repeated:
            return self._lines[shape.where[name]][len(name) + 1 :].strip()
        return b", ".join(self.values(name)).strip()

    def values(self, name: bytes) -> list[bytes]:
        """The value of each field `name` (lower case), in their order."""
        shape = self.shape
        lines = [self._lines[place] for place, found in enumerate(shape.names) if found == name]
        if name in self._added:
            lines += self._added[name].split(b"\r\n")
        return [line[len(name) + 1 :].strip() for line in lines]

    def has(self, name: bytes) -> bool:
        """Whether there is a field `name` (lower case)."""
        return name in self.shape.where or name in self._added

    def has_any(self, names: frozenset[bytes]) -> bool:
        """Whether there is a field with one of `names` (lower case, a constant of the code)."""
        return self.shape.has_any(names) or (bool(self._added) and not names.isdisjoint(self._added))

    def names(self) -> list[bytes]:
        """The names of all fields, in lower case, each once."""
        return list(self.shape.where | dict.fromkeys(self._added))

    def add(self, name: bytes, value: bytes) -> None:
        """Append one more field `name` (lower case)."""
        line = b"%b: %b" % (name, value)
        self._added[name] = b"%b\r\n%b" % (self._added[name], line) if name in self._added else line

    def set(self, name: bytes, value: bytes) -> None:
        """Replace every `name` (lower case) by one."""
        self.set_line(name, b"%b: %b" % (name, value))

    def set_line(self, name: bytes, line: bytes) -> None:
        """Replace every `name` (lower case) by one whose whole `line`, without its CRLF, is made already."""
        if name in self.shape.where:
            self.remove(name)
        self._added[name] = line

    def remove(self, name: bytes) -> None:
        """Take away every `name` (lower case)."""
        if name in self.shape.where or name in self._added:
            self.remove_all(frozenset((name,)))

    def remove_all(self, names: frozenset[bytes]) -> None:
        """Take away every field with one of `names` (lower case)."""
        shape = self.shape
        places, self.shape = known_without(shape, names) if shape.small else without(shape, names)
        for place in places:
            del self._lines[place]
        if self._added:
            for name in names.intersection(self._added):
                del self._added[name]

    def remove_hop_by_hop(self, names: frozenset[bytes] = HOP_BY_HOP) -> None:
        """Take away what is meant for this connection only: received fields that Connection lists, and `names`."""
        if self.listed and any(name in self.shape.where for name in self.listed):
            places, self.shape = without(self.shape, self.listed)  # a peer's own words are not remembered
            for place in places:
                del self._lines[place]
        self.remove_all(names)

    def items(self) -> list[tuple[bytes, bytes]]:
        """All fields as they will be sent: (name as spelled, value), received ones first."""
        added = [line for lines in self._added.values() for line in lines.split(b"\r\n")]
        pairs = [line.partition(b":") for line in (*self._lines, *added)]
        return [(name, value.strip()) for name, _, value in pairs]

    def fields(self) -> bytes:
        """The field lines, each with its CRLF, without the empty line that ends the head."""
        return b"\r\n".join([*self._lines, *self._added.values(), b""])

    def with_start(self, start: bytes, more: bytes = b"", body: bytes = b"") -> bytes:
        """The whole head behind the start line `start`, and `body`; `more`: field lines, each with its CRLF."""
        # A line that is empty ends the head: what is joined to it is the body.
        return b"\r\n".join([start, *self._lines, *self._added.values(), more, body])


def quotable(text: str) -> str:
    """`text` for between double quotes in a header: printable ASCII, quote and backslash escaped (RFC 8941 3.3.3).

    A certificate's subject and an operating system's message may hold anything, line breaks included.
    """
    printable = "".join(char if " " <= char <= "~" else "?" for char in text)
    return printable.replace("\\", "\\\\").replace('"', '\\"')
