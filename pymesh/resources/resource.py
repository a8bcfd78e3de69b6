"""A resource as it was written: who it is, what it says, and where each of its fields stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Generic, NamedTuple, TypeGuard, TypeVar

import msgspec

from pymesh.errors import ConfigError, Position, printable
from pymesh.resources.redaction import redacted

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Key(NamedTuple):
    """What a resource is known by. Cluster-wide kinds have an empty namespace."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}")


@dataclass(frozen=True, slots=True)
class Positions:
    """Where the fields of one resource stand in its file.

    Attributes:
        file: name of the file, as a person would type it.
        marks: (line, column), counted from 1, by field path as in `spec.http[0].route`; the path "" is the document.
        root: path of the resource in its document: empty, or `items[3]` in a List.
        blocks: where the text of a literal block (`key: |`) begins, by its field's path.
    """

    file: str
    marks: Mapping[str, tuple[int, int]]
    root: str = ""
    blocks: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def at(self, path: str) -> Position:
        """Where `path` stands, or, if it was not written, the nearest field around it that was."""
        whole = self._whole(path)
        while whole not in self.marks and whole:
            whole = parent_path(whole)
        line, column = self.marks.get(whole, (0, 0))
        return Position(self.file, line, column)

    def inside(self, path: str, place: Position) -> Position:
        """Where `place`, a line and column of the text that the field `path` holds, stands in the file.

        Only a literal block keeps the lines of a text as they are; of any other it is known where the field stands.
        """
        block = self.blocks.get(self._whole(path))
        if block is None or not place.line:
            return self.at(path)
        return Position(self.file, block[0] + place.line - 1, block[1] + place.column - 1)

    def below(self, root: str) -> "Positions":
        """The positions of the resource at `root` of this document."""
        return Positions(self.file, self.marks, root, self.blocks)

    def _whole(self, path: str) -> str:
        return f"{self.root}.{path}" if self.root and path else self.root or path


@dataclass(frozen=True, slots=True, eq=False)
class Resource(Generic[T_co]):
    """One resource.

    Attributes:
        key: kind, namespace and name.
        api_version: as written, `networking.istio.io/v1`.
        value: the typed content, an instance of the kind's struct.
        raw: the document as plain values, every field of it.
        positions: where its fields stand.
    """

    key: Key
    api_version: str
    value: T_co
    raw: Mapping[str, object] = field(repr=False)
    positions: Positions = field(repr=False)

    @property
    def file(self) -> str:
        """The file that it was read from."""
        return self.positions.file

    @property
    def digest(self) -> str:
        """A short name for what it says: equal for equal content, wherever and however that was written.

        Of a Secret it tells no more than `redacted` shows.
        """
        return digest_of(self.raw)

    def error(self, sentence: str, path: str = "") -> ConfigError:
        """An error about the field at `path`, with everything that helps a person to find it."""
        return ConfigError(sentence, path=path, position=self.positions.at(path), resource=str(self.key))

    def says_the_same_as(self, other: "Resource[object]") -> bool:
        """Whether both have the same content, wherever it was written."""
        return self.key == other.key and self.raw == other.raw


def digest_of(document: Mapping[str, object]) -> str:
    """`Resource.digest` of a document, as plain values."""
    return sha256(msgspec.json.encode(redacted(document), order="sorted")).hexdigest()[:16]


def holds(resource: Resource[object], kind: type[T]) -> TypeGuard[Resource[T]]:
    """Whether `resource` is of this kind."""
    return isinstance(resource.value, kind)


def parent_path(path: str) -> str:
    """`spec.http[0]` for `spec.http[0].route`, `spec.http` for `spec.http[0]`, "" for `spec`."""
    cut = max(path.rfind("."), path.rfind("["))
    return path[:cut] if cut > 0 else ""


def child_path(path: str, name: str | int) -> str:
    """The path of a field or of a list's item below `path`."""
    if isinstance(name, int):
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else name
