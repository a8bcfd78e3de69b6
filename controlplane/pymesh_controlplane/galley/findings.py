"""What is found wrong with one resource."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from pymesh.errors import ConfigError
from pymesh_controlplane.pilot.model import Problem, Severity
from pymesh_controlplane.wording import near

# RFC 9110, section 5.1: a header's name is a token.
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_HOST: Final = re.compile(r"(?:\*|(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_-]+)*)")
_MAX_HOST: Final = 253  # characters; RFC 1035, section 2.3.4
# Problems of one kind that are kept of one resource: more are read by nobody, and show up when these are mended.
MAX_PROBLEMS: Final = 100
# Names for which a similar one is looked for in one resource: each look compares with every name there is.
MAX_HINTS: Final = 20


class HasErrors(Protocol):
    """A resource, whatever it is of."""

    def error(self, sentence: str, path: str = "") -> ConfigError:
        """An error that says where in the resource it is."""
        ...


class _Kind(NamedTuple):
    """What a problem means for its resource."""

    severity: Severity
    dangling: bool = False


_ERROR: Final = _Kind(Severity.ERROR)
_DANGLING: Final = _Kind(Severity.ERROR, dangling=True)
_WARNING: Final = _Kind(Severity.WARNING)
_MORE: Final = {_ERROR: "errors", _DANGLING: "names of what is not there", _WARNING: "warnings"}


class Findings:
    """Collects the problems of one resource, at most MAX_PROBLEMS of each kind."""

    def __init__(self, resource: HasErrors) -> None:
        self._resource = resource
        self._kept: list[Problem] = []
        self._counts: Counter[_Kind] = Counter()
        self._hints = 0

    @property
    def problems(self) -> list[Problem]:
        """All that were kept, and for each kind of which there were more, one that says how many more."""
        more = [
            self._problem(kind, "", f"and {count - MAX_PROBLEMS} more {_MORE[kind]}")
            for kind, count in self._counts.items()
            if count > MAX_PROBLEMS
        ]
        return self._kept + more

    def error(self, path: str, sentence: str) -> None:
        """The resource is refused."""
        self._found(_ERROR, path, sentence)

    def dangling(self, path: str, sentence: str) -> None:
        """The resource is refused for as long as what it names is not there, or not as it is named."""
        self._found(_DANGLING, path, sentence)

    def warning(self, path: str, sentence: str) -> None:
        """The resource is accepted, but may not do what its author meant."""
        self._found(_WARNING, path, sentence)

    def near(self, name: str, known: Iterable[str]) -> str:
        """As the function `near`, for the first MAX_HINTS names; `known` is not looked at for the others."""
        self._hints += 1
        return near(name, known) if self._hints <= MAX_HINTS else ""

    def _found(self, kind: _Kind, path: str, sentence: str) -> None:
        self._counts[kind] += 1
        if self._counts[kind] <= MAX_PROBLEMS:
            self._kept.append(self._problem(kind, path, sentence))

    def _problem(self, kind: _Kind, path: str, sentence: str) -> Problem:
        return replace(Problem.of(self._resource.error(sentence, path), kind.severity), dangling=kind.dangling)

    def check_host(self, path: str, host: str) -> None:
        """Refuse what is no host name, with or without a wildcard for its first label."""
        if len(host) > _MAX_HOST or not _HOST.fullmatch(host):
            self.error(path, f"{host!r} is not a host: write a name such as reviews or *.example.com, without a port")

    def check_exported(self, path: str, export_to: Iterable[str]) -> None:
        """Refuse a narrower visibility than everybody's, which is not there yet."""
        if any(place != "*" for place in export_to):
            self.error(path, "only exportTo: ['*'] is supported yet: remove it, resources hold for the whole mesh")

    def check_header_name(self, path: str, name: str) -> None:
        """Refuse what cannot be a header's name."""
        if not _HEADER_NAME.fullmatch(name):
            self.error(path, f"{name!r} is not the name of a header")
