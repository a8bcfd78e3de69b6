"""Filters in plain Python: what a class of a user's own sees. `python_hooks` makes a filter of the chain of it.

    class Greeter:
        def __init__(self, config: Mapping[str, object]) -> None: ...
        def on_request(self, request: Request) -> Reply | None: ...
        async def on_request(self, request: Request) -> Reply | None: ...    # or this, where it has to wait
        def on_response(self, request: Request, response: Response) -> None: ...
        def on_complete(self, request: Request) -> None: ...

It has at least one of the hooks, and derives from nothing. docs/filters.md tells the whole.

A hook that raises, or takes longer than it may, is contained: it ends with its request (500, and `Proxy-Status` names
the filter), or goes on as if it had not been asked where the configuration has `failure_mode_allow`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, overload

from pymesh.names import FRAMING_HEADERS
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.filters.base import RequestContext

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Where a message ends and whom it is for, the proxy alone says.
_OF_REQUESTS: Final = FRAMING_HEADERS | {"host"}
# Characters of a note, which go into the log and the record of the request.
_MAX_NOTE: Final = 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer instead of the upstream's. `headers` are added to the proxy's own."""

    status: int
    body: bytes | str = b""
    headers: Mapping[str, str] | None = None


class Headers:
    """The header fields of a message: names in any case, values as text (each character one byte).

    Several fields of a name read as one value, joined by `, `. Changes are kept beside the message and made when the
    hook has ended well: one that fails, or is ended in the middle of something, leaves the message as it was.
    """

    __slots__ = ("_changed", "_changes", "_head", "_kept")

    def __init__(self, head: Head, kept: frozenset[str] = FRAMING_HEADERS) -> None:
        """`kept`: names that cannot be changed."""
        self._head = head
        self._kept: frozenset[str] | None = kept
        self._changes: list[tuple[Callable[..., None], tuple[bytes, ...]]] = []
        self._changed: dict[bytes, list[bytes]] = {}  # the values that a name has by now

    @overload
    def get(self, name: str, default: str) -> str: ...

    @overload
    def get(self, name: str, default: None = None) -> str | None: ...

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of `name`, or `default`."""
        values = self._values(name.lower().encode("latin-1"))
        return b", ".join(values).decode("latin-1") if values else default

    def add(self, name: str, value: str) -> None:
        """Add one more field. Raises ValueError, as setting one does."""
        key, encoded = self._name(name), header_value(value)
        self._changed[key] = [*self._values(key), encoded]
        self._changes.append((self._head.add, (key, encoded)))

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        """Set the one field `name`; what CGI and WSGI servers cannot tell from it (`X_Name`) is taken away.

        Raises:
            ValueError: it cannot be a header, or says where a message ends or whom it is for: the proxy says that.
        """
        key, encoded = self._name(name), header_value(value)
        self._drop_lookalikes(key)
        self._changed[key] = [encoded]
        self._changes.append((self._head.set, (key, encoded)))

    def __delitem__(self, name: str) -> None:
        """Take every field `name` away, and what CGI and WSGI servers cannot tell from it; none is no error."""
        key = self._name(name)
        self._drop_lookalikes(key)
        self._changed[key] = []
        self._changes.append((self._head.remove, (key,)))

    def __contains__(self, name: str) -> bool:
        return bool(self._values(name.lower().encode("latin-1")))

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys([*self._head.names(), *self._changed])
        return iter([name.decode("latin-1") for name in names if self._values(name)])

    def make(self) -> None:
        """Make the changes."""
        for change, arguments in self._changes:
            change(*arguments)
        self.drop()

    def drop(self) -> None:
        """Forget the changes."""
        self._changes = []
        self._changed = {}

    def sent(self) -> None:
        """From now on there is nothing to be changed."""
        self._kept = None

    def _drop_lookalikes(self, name: bytes) -> None:
        dashed = name.replace(b"_", b"-")
        for other in [*self._head.names(), *self._changed]:
            if other != name and other.replace(b"_", b"-") == dashed:
                self._changed[other] = []
                self._changes.append((self._head.remove, (other,)))

    def _values(self, name: bytes) -> list[bytes]:
        return self._changed[name] if name in self._changed else self._head.values(name)

    def _name(self, name: str) -> bytes:
        if self._kept is None:
            raise ValueError("the request was sent: its headers cannot be changed any more")
        return header_name(name, self._kept)


def header_name(name: str, kept: frozenset[str]) -> bytes:
    """`name` as it goes into a message. Raises ValueError: it cannot be a header's, or is one of `kept`."""
    name = name.lower()
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} cannot be the name of a header")
    if name in kept:
        raise ValueError(f"a filter must not change {name}")
    return name.encode("latin-1")


def header_value(value: str) -> bytes:
    """`value` as it goes into a message. Raises ValueError: it cannot be a header's."""
    if _VALUE.fullmatch(value) is None:
        raise ValueError(f"{value!r} cannot be the value of a header")
    return value.strip().encode("latin-1")


class Request:
    """A request, as a filter sees it.

    Attributes:
        method: such as `GET`.
        path: path and query, in the one form that routes and rules are matched with (`normalize_path` and the like).
        authority: Host, and port where there is one, in that form, too.
        original_path: path and query as the client sent them.
        headers: its header fields; changes go upstream.
        state: for this filter to keep something from hook to hook of the one request.
    """

    __slots__ = (
        "_context", "_name", "_note", "_record", "authority", "headers", "method", "original_path", "path", "state",
    )  # fmt: skip

    def __init__(self, context: RequestContext, name: str) -> None:
        """`name`: of the filter."""
        head = context.request
        self._context = context
        self._name = name
        self._note: str | None = None
        self._record = context.record
        self.method = head.method.decode("latin-1")
        self.path = head.path.decode("latin-1")
        self.authority = head.authority.decode("latin-1")
        self.original_path = context.record.path
        self.headers = Headers(head, _OF_REQUESTS)
        self.state: dict[str, Any] = {}

    @property
    def id(self) -> str:
        """x-request-id."""
        return self._record.request_id

    @property
    def direction(self) -> str:
        """`inbound`, `outbound` (a gateway's too) or `unspecified`."""
        return self._record.facts.direction

    @property
    def client(self) -> str:
        """Address of the other end of the connection, `ip:port`."""
        return self._record.facts.remote

    @property
    def principal(self) -> str:
        """SPIFFE identity that the client has proved by mTLS; empty without."""
        return self._record.facts.peer

    @property
    def route(self) -> str:
        """Name of the route that it takes; empty where none matches or the route has no name. Asking settles it:
        changes of headers do not lead to another one any more.
        """
        found = self._context.route
        return "" if found is None else found.name

    @property
    def status(self) -> int:
        """Status of the answer; 0 as long as there is none."""
        return self._record.status

    def note(self, text: str) -> None:
        """Have `text` in the record of this request, under the filter's name: in logs, `/requests` and a journey."""
        self._note = text[:_MAX_NOTE]

    def make(self) -> None:
        """Do what the hook asked for."""
        self.headers.make()
        if self._note is not None:
            self._record.notes[self._name] = self._note
            self._note = None

    def drop(self) -> None:
        """Forget what the hook asked for."""
        self.headers.drop()
        self._note = None

    def go_on_after(self, why: str) -> None:
        """Have it in the record that a hook failed, and that this is allowed."""
        self._record.notes[self._name] = f"let through, though {why}"


class Response:
    """The head of the upstream's answer.

    Attributes:
        status: such as 200.
        headers: its header fields; changes go to the client.
    """

    __slots__ = ("headers", "status")

    def __init__(self, head: Head) -> None:
        self.status = head.status
        self.headers = Headers(head)

    def make(self) -> None:
        """Do what the hook asked for."""
        self.headers.make()

    def drop(self) -> None:
        """Forget what the hook asked for."""
        self.headers.drop()
