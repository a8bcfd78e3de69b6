"""What is found wrong with one resource."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Protocol

from pymesh.errors import ConfigError
from pymesh_controlplane.pilot.model import Problem, Severity

# RFC 9110, section 5.1: a header's name is a token.
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_HOST: Final = re.compile(r"(?:\*|(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_-]+)*)")
_MAX_HOST: Final = 253  # characters; RFC 1035, section 2.3.4


class HasErrors(Protocol):
    """A resource, whatever it is of."""

    def error(self, sentence: str, path: str = "") -> ConfigError:
        """An error that says where in the resource it is."""
        ...


class Findings:
    """Collects the problems of one resource."""

    def __init__(self, resource: HasErrors) -> None:
        self._resource = resource
        self.problems: list[Problem] = []

    def error(self, path: str, sentence: str) -> None:
        """The resource is refused."""
        self.problems.append(Problem.of(self._resource.error(sentence, path)))

    def dangling(self, path: str, sentence: str) -> None:
        """The resource is refused for as long as what it names is not there, or not as it is named."""
        problem = Problem.of(self._resource.error(sentence, path))
        self.problems.append(replace(problem, dangling=True))

    def warning(self, path: str, sentence: str) -> None:
        """The resource is accepted, but may not do what its author meant."""
        self.problems.append(Problem.of(self._resource.error(sentence, path), Severity.WARNING))

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


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean reviews.default.svc.cluster.local?`, or nothing if no known name is close."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def listed(words: Iterable[object], limit: int = 8) -> str:
    """`a, b, c`, cut off after `limit`."""
    texts = [str(word) for word in words]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more if texts else "none"
