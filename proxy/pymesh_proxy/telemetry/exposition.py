"""Metrics as Prometheus reads them, written a piece of a family at a time: a scrape must not hold up requests.

The format is prometheus_client's. Its `generate_latest` writes a whole registry at once, which for a thousand clusters
takes longer than a request should have to wait, and so does a single family of theirs.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector as Registry

from pymesh.steps import Steps, whole

R = TypeVar("R")

# Samples of a family that are made and written at once: about 0.4 ms.
PIECE: Final = 50


class Collector(Protocol):
    """What has metrics to tell."""

    def collect(self) -> Iterator[Metric]:
        """Every family with its current values; one of many samples in pieces, one behind the other (`pieces`)."""


@dataclass(frozen=True, slots=True)
class _Only(Registry):
    """A registry with one family."""

    family: Metric

    def collect(self) -> Iterable[Metric]:
        return (self.family,)


def pieces(rows: Sequence[R]) -> Iterator[Sequence[R]]:
    """What a family has samples of, so many at a time; where there is nothing, one empty piece: the family exists."""
    for start in range(0, max(len(rows), 1), PIECE):
        yield rows[start : start + PIECE]


def render(collectors: Iterable[Collector]) -> bytes:
    """All of their metrics in the text format."""
    return whole(rendering(collectors))


def rendering(collectors: Iterable[Collector]) -> Steps[bytes]:
    """`render` in steps of a piece of a family."""
    found: list[bytes] = []
    before = ""
    for collector in collectors:
        for family in collector.collect():
            yield
            text = generate_latest(_Only(family))
            # What a family is, two lines, stands before the first of its pieces.
            found.append(text.split(b"\n", 2)[2] if family.name == before else text)
            before = family.name
    return b"".join(found)
