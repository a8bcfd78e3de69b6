"""Metrics as Prometheus reads them, written a piece at a time: a scrape must not hold up requests.

The format is Prometheus' text, version 0.0.4. What prometheus_client writes, it writes family by family: for a thousand
clusters each takes longer than a request should have to wait, and its types cost ten times what the lines do. So what
may have many samples is lines from the beginning (`written`), and all else is the library's.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal, Protocol, TypeVar

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector as Registry

from pymesh.steps import Steps, whole

R = TypeVar("R")

# Samples of a family that are written at once: about 0.2 ms.
PIECE: Final = 200


class Collector(Protocol):
    """What has metrics to tell."""

    def collect(self) -> Iterator[Metric | str]:
        """Every family with its current values; one of many samples as pieces of its text (`written`)."""


@dataclass(frozen=True, slots=True)
class _Only(Registry):
    """A registry with one family."""

    family: Metric

    def collect(self) -> Iterable[Metric]:
        return (self.family,)


def label(name: str, value: str) -> str:
    """As a sample has it between its braces."""
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'{name}="{escaped}"'


def written(
    kind: Literal["counter", "gauge"],
    name: str,
    text: str,
    rows: Iterable[tuple[str, R]],
    value: Callable[[R], float],
) -> Iterator[str]:
    """The text of a family in pieces: for each row its labels, and the value of what else is in it, which is finite.

    `name` is without the `_total` of counters; `text` is one line, without a backslash.
    """
    full = f"{name}_total" if kind == "counter" else name
    head = f"# HELP {full} {text}\n# TYPE {full} {kind}\n"
    lines = (f"{full}{{{labels}}} {float(value(found))}\n" for labels, found in rows)
    yield head + "".join(islice(lines, PIECE))
    while piece := "".join(islice(lines, PIECE)):
        yield piece


def render(collectors: Iterable[Collector]) -> bytes:
    """All of their metrics in the text format."""
    return whole(rendering(collectors))


def rendering(collectors: Iterable[Collector]) -> Steps[bytes]:
    """`render` in steps of a family, or a piece of one."""
    found: list[bytes] = []
    for collector in collectors:
        for family in collector.collect():
            yield
            found.append(family.encode() if isinstance(family, str) else generate_latest(_Only(family)))
    return b"".join(found)
