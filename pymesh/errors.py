"""What a person did wrong, where it stands, and what to do about it."""

from dataclasses import dataclass


def printable(text: str) -> str:
    """`text` with everything that is not to be seen (line ends, terminals' commands) written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file people wrote. Lines and columns count from 1; 0 means that the file as a whole is meant."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        file = printable(self.file)
        return f"{file}:{self.line}:{self.column}" if self.line else file


class MeshError(Exception):
    """Base of every error whose text is meant for the person at the keyboard."""


class ConfigError(MeshError):
    """Configuration that is refused. Whatever it quotes of that is printable, and stands in one line.

    Attributes:
        problem: one sentence that says what is wrong and, where it can, what to write instead.
        path: the field, as in `spec.http[0].route[1].weight` or `static_resources.clusters[0].type`; may be empty.
        position: file, line and column, where the configuration came from a file.
        resource: kind and namespace/name of the resource, as in `VirtualService default/reviews`; may be empty.
    """

    def __init__(self, problem: str, *, path: str = "", position: Position | None = None, resource: str = "") -> None:
        self.problem = printable(problem)
        self.path = printable(path)
        self.position = position
        self.resource = printable(resource)
        super().__init__(self.problem)

    def __str__(self) -> str:
        where = ": ".join(str(part) for part in (self.position, self.resource, self.path) if part)
        return f"{where}: {self.problem}" if where else self.problem

    def placed(self, position: Position | None, resource: str = "") -> "ConfigError":
        """The same error, now that it is known where it stands; and of which resource, unless that was known before."""
        return ConfigError(self.problem, path=self.path, position=position, resource=resource or self.resource)

    def at(self, prefix: str) -> "ConfigError":
        """The same error, seen from one level further out: `prefix` is put before its path."""
        joiner = "" if not self.path or self.path.startswith("[") else "."
        return ConfigError(
            self.problem, path=f"{prefix}{joiner}{self.path}", position=self.position, resource=self.resource
        )
