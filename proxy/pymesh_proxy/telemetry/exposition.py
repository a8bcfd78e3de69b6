"""Metrics as Prometheus reads them, written family by family: a scrape must not hold up requests.

The format is prometheus_client's. Its `generate_latest` writes a whole registry at once, which for a thousand clusters
takes longer than a request should have to wait.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector as Registry

from pymesh.steps import Steps, whole


class Collector(Protocol):
    """What has metrics to tell."""

    def collect(self) -> Iterator[Metric]:
        """Every family with its current values."""


@dataclass(frozen=True, slots=True)
class _Only(Registry):
    """A registry with one family."""

    family: Metric

    def collect(self) -> Iterable[Metric]:
        return (self.family,)


def render(collectors: Iterable[Collector]) -> bytes:
    """All of their metrics in the text format."""
    return whole(rendering(collectors))


def rendering(collectors: Iterable[Collector]) -> Steps[bytes]:
    """`render` in steps of a family."""
    found: list[bytes] = []
    for collector in collectors:
        for family in collector.collect():
            yield
            found.append(generate_latest(_Only(family)))
    return b"".join(found)
