"""A message head: start line and header fields as they arrived, with the changes made on the way through.

The fields stay the bytes that came in for as long as nobody changes them: a head that passes untouched is written out
as one slice, with what was added behind it. Names are looked up in lower case.
"""

# Connection-specific fields (RFC 9110 7.6.1, and Proxy-Connection, which RFC 9112 C.2.2 says never to forward).
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"})


class Head:
    """The head of one request or response. Made by `codec/http1.py`.

    Attributes:
        method: request method; empty for a response.
        path: request target as in `:path` (`/reviews/1?x=y`, `*`, or `host:port` for CONNECT); absolute-form is split.
        authority: Host, or the absolute target's; empty where there is none.
        status: response status; 0 for a request.
        reason: response reason phrase.
        minor: the 1 in HTTP/1.1.
        pairs: (name, value) as received, in order; values may carry trailing white space.
        content_length: None without Content-Length.
        chunked: Transfer-Encoding is chunked.
        persistent: the peer keeps its connection open after this message, as far as it is concerned.
        upgrade: the protocol asked for (lower case) when Connection says upgrade; empty otherwise.
    """

    __slots__ = (
        "_added", "_index", "_raw", "_removed", "_unique", "authority", "chunked", "content_length", "method",
        "minor", "pairs", "path", "persistent", "reason", "status", "upgrade",
    )  # fmt: skip

    def __init__(self, raw: bytes, pairs: list[tuple[bytes, bytes]], index: dict[bytes, bytes]) -> None:
        self._raw = raw
        self._index = index
        self._added: list[tuple[bytes, bytes]] = []
        self._removed: set[bytes] = set()
        self._unique = len(pairs) == len(index)
        self.pairs = pairs
        self.method = self.path = self.authority = self.reason = self.upgrade = b""
        self.status = 0
        self.minor = 1
        self.content_length: int | None = None
        self.chunked = False
        self.persistent = True

    def get(self, name: bytes) -> bytes | None:
        """Value of `name` (lower case); several are joined by `, ` (RFC 9110 5.3), None if there is none."""
        value = self._index.get(name)
        return value if value is None else value.strip(b" \t")

    def has(self, name: bytes) -> bool:
        """Whether there is a field `name` (lower case)."""
        return name in self._index

    def has_any(self, names: tuple[bytes, ...]) -> bool:
        """Whether there is a field with one of a few `names` (lower case)."""
        index = self._index
        for name in names:  # noqa: SIM110 - `any` costs twice as much, and this is asked of every head
            if name in index:
                return True
        return False

    def has_underscore(self) -> bool:
        """Whether the name of a field holds an underscore."""
        return b"_" in self._raw and b"_" in b"".join(self._index)

    def names(self) -> list[bytes]:
        """The names of all fields, in lower case, each once."""
        return list(self._index)

    def add(self, name: bytes, value: bytes) -> None:
        """Append one more field `name` (lower case)."""
        self._added.append((name, value))
        present = self._index.get(name)
        if present is None:
            self._index[name] = value
        else:
            self._unique = False
            self._index[name] = b"%b, %b" % (present.strip(b" \t"), value)

    def set(self, name: bytes, value: bytes) -> None:
        """Replace every `name` (lower case) by one."""
        if name in self._index:
            self.remove(name)
        self._added.append((name, value))
        self._index[name] = value

    def remove(self, name: bytes) -> None:
        """Take away every `name` (lower case)."""
        if self._index.pop(name, None) is not None:
            self._removed.add(name)
            if self._added:
                self._added = [pair for pair in self._added if pair[0] != name]

    def remove_last(self, names: tuple[bytes, ...]) -> None:
        """Take away every field with one of `names` (lower case). Those that were received last are cut off, so that
        the others stay the bytes that came in.
        """
        pairs, index, end = self.pairs, self._index, len(self._raw)
        untouched = self._unique and not self._added and not self._removed
        while untouched and pairs and (name := pairs[-1][0].lower()) in names:
            pairs.pop()
            del index[name]
            end = self._raw.rfind(b"\n", 0, end - 1) + 1
        self._raw = self._raw[:end]
        for name in names:
            self.remove(name)

    def remove_hop_by_hop(self) -> None:
        """Take away what is meant for this connection only, the names that Connection lists included."""
        index = self._index
        if HOP_BY_HOP.isdisjoint(index):
            return
        connection = index.get(b"connection")
        if connection is not None:
            for token in connection.lower().split(b","):
                self.remove(token.strip(b" \t"))
        for name in HOP_BY_HOP:
            if name in index:
                self.remove(name)

    def items(self) -> list[tuple[bytes, bytes]]:
        """All fields as they will be sent: (name, value), received ones first."""
        removed = self._removed
        kept = [pair for pair in self.pairs if pair[0].lower() not in removed] if removed else self.pairs
        return [*kept, *self._added]

    def fields(self) -> bytes:
        """The field lines, each with its CRLF, without the empty line that ends the head.

        Where something was taken away they are written anew, with names in lower case unless a name is repeated.
        """
        if self._removed:
            pairs = self._index.items() if self._unique else self.items()
            return b"".join([b"%b: %b\r\n" % pair for pair in pairs])
        if self._added:
            return self._raw + b"".join([b"%b: %b\r\n" % pair for pair in self._added])
        return self._raw
