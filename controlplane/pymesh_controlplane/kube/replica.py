"""The objects of one kind as the API server has them, rebuilt from lists and watches. Pure.

The rules, of which none may be broken or an object is missed:

- A list is taken whole: all of its pages, or nothing. What it does not have is gone.
- A watch goes on from the version that was seen last: of the list, then of every event, bookmarks among them.
- A version that the server does not know any more (410 Gone) is forgotten; then there is a list again.

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Efficient detection of changes".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from pymesh.resources.documents import MAX_DEPTH
from pymesh.resources.nesting import cut, is_deeper

Object: TypeAlias = Mapping[str, Any]
Trim: TypeAlias = Callable[[dict[str, Any]], Object]

GONE: Final = 410
# Levels around an object: a list and its items, an event.
_AROUND: Final = 2


class Name(NamedTuple):
    """Which object of its kind. Cluster-wide kinds have an empty namespace."""

    namespace: str
    name: str


class ExpiredError(Exception):
    """The version that was to be gone on from is not known any more (410 Gone): list anew."""


class RefusedError(Exception):
    """What the API server says instead of what was asked for.

    Attributes:
        code: HTTP status code.
        retry_after: seconds that it asks to wait; 0 if it does not.
    """

    def __init__(self, code: int, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{code}: {message}" if message else str(code))
        self.code = code
        self.retry_after = retry_after


class Page(NamedTuple):
    """A part of a list. `rest` is what to ask for to get the next part; empty: that was all."""

    objects: dict[Name, Object]
    version: str
    rest: str


class Event(NamedTuple):
    """Something that happened to an object; `object` is empty where it is gone, and in a bookmark."""

    kind: str  # ADDED, MODIFIED, DELETED, BOOKMARK
    name: Name
    object: Object
    version: str


class _Meta(msgspec.Struct):
    version: str = msgspec.field(default="", name="resourceVersion")
    rest: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class Status(msgspec.Struct):
    """Status meta/v1, in which the API server says why it does not do something."""

    code: int = 0
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """How what the API server sends becomes objects: plain values, only what is needed of them.

    An object of which what is needed is nested deeper than MAX_DEPTH is cut off one level below, and so still says that
    it is: whoever reads objects refuses it, and no other object is kept back by it.

    Attributes:
        api_version, kind: the items of a list do not say them.
        trim: makes of an object what is kept. It may change what it is given.
    """

    api_version: str
    kind: str
    trim: Trim

    def page(self, data: bytes) -> Page:
        """A part of a list.

        Raises:
            ValueError: it is none.
        """
        try:
            return self._page(data)
        except RecursionError:
            return self._page(cut(data, MAX_DEPTH + _AROUND))

    def event(self, line: bytes) -> Event:
        """One line of a watch.

        Raises:
            ExpiredError: the watch cannot go on from where it began.
            RefusedError: another error is what the line tells of.
            ValueError: it is no event.
        """
        try:
            return self._event(line)
        except RecursionError:
            return self._event(cut(line, MAX_DEPTH + _AROUND))

    def _page(self, data: bytes) -> Page:
        found = msgspec.json.decode(data, type=_List)
        if not found.metadata.version:
            raise ValueError("a list says no resourceVersion")
        objects: dict[Name, Object] = {}
        for item in found.items or []:
            name, value, _ = _identified(item)
            objects[name] = self._kept(value, item)
        return Page(objects, found.metadata.version, found.metadata.rest)

    def _event(self, line: bytes) -> Event:
        found = msgspec.json.decode(line, type=_Event)
        if found.type == "ERROR":
            status = msgspec.json.decode(found.object, type=Status)
            if status.code == GONE:
                raise ExpiredError(status.message)
            raise RefusedError(status.code, status.message)
        if found.type not in {"ADDED", "MODIFIED", "DELETED", "BOOKMARK"}:
            raise ValueError(f"{found.type!r} is no event of a watch")
        name, value, version = _identified(found.object)
        here = found.type in {"ADDED", "MODIFIED"}
        return Event(found.type, name, self._kept(value, found.object) if here else {}, version)

    def _kept(self, value: dict[str, Any], data: msgspec.Raw) -> Object:
        kept = self._trimmed(value)
        if is_deeper(kept, MAX_DEPTH):
            return self._trimmed(msgspec.json.decode(cut(bytes(data), MAX_DEPTH), type=dict[str, Any]))
        return kept

    def _trimmed(self, value: dict[str, Any]) -> Object:
        return self.trim({"apiVersion": self.api_version, "kind": self.kind, **value})


def _identified(data: msgspec.Raw) -> tuple[Name, dict[str, Any], str]:
    value = msgspec.json.decode(data, type=dict[str, Any])
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        raise ValueError("an object has no metadata")
    name = Name(str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))
    return name, value, str(metadata.get("resourceVersion") or "")


@dataclass(slots=True)
class Replica:
    """The objects, and the version that they are of.

    Attributes:
        objects: by name. An object that is read again and says the same stays the same Python object.
        version: where to watch from; empty: a list is due.
    """

    objects: dict[Name, Object] = field(default_factory=dict)
    version: str = ""

    def replace(self, objects: Mapping[Name, Object], version: str) -> bool:
        """Take a whole list; whether anything is new, different or gone."""
        before, self.version = self.objects, version
        self.objects = {name: _same(before.get(name), found) for name, found in objects.items()}
        return len(before) != len(self.objects) or any(before.get(n) is not o for n, o in self.objects.items())

    def apply(self, event: Event) -> bool:
        """Take an event; whether it makes a difference."""
        self.version = event.version or self.version
        if event.kind == "BOOKMARK":
            return False
        before = self.objects.get(event.name)
        if event.kind == "DELETED":
            return self.objects.pop(event.name, None) is not None
        self.objects[event.name] = _same(before, event.object)
        return self.objects[event.name] is not before

    def expire(self) -> None:
        """The version is not known any more. The objects stay until there is a list."""
        self.version = ""


def _same(before: Object | None, found: Object) -> Object:
    return before if before is not None and before == found else found
