"""What the connections of one connection manager share, beside its configuration: counters, log writers, and whether
they go on.
"""

from typing import Protocol

from pymesh_proxy.filters.loop import Filters
from pymesh_proxy.telemetry.metrics import HttpStats
from pymesh_proxy.telemetry.record import RequestRecord


class Writer(Protocol):
    """Where records go: a file, a collector."""

    def write(self, record: RequestRecord) -> None:
        """Take a finished record. Never raises, never waits."""


class Serving:
    """Made with the first connection of a manager, and kept by its connections.

    Attributes:
        stats: counters of its `stat_prefix`.
        asked, shown, told: those of its filters that have something to say to requests, to responses, and at the end.
        last: the request in hand is the last one of any connection: the proxy drains, or the manager is not in force
            any more: what holds now holds for the next connection.
        writers: of its access logs, as they are in force; None if they are to be looked up (`Runtime.writers`).
    """

    __slots__ = ("__weakref__", "asked", "last", "shown", "stats", "told", "writers")

    def __init__(self, stats: HttpStats, filters: Filters, *, last: bool) -> None:
        self.stats = stats
        self.asked: Filters = tuple([item for item in filters if item.on_request is not None])
        self.shown: Filters = tuple([item for item in filters if item.on_response is not None])
        self.told: Filters = tuple([item for item in filters if item.on_complete is not None])
        self.last = last
        self.writers: tuple[Writer, ...] | None = None
