"""What the connections of one connection manager share, beside its configuration: counters, log writers, and whether
it still holds for them.
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
    """Made with the first connection of a manager that came in by the listeners in force; kept by its connections.

    Attributes:
        stats: counters of its `stat_prefix`.
        asked, shown, told: those of its filters that have something to say to requests, to responses, and at the end.
        outdated: listeners have changed: each of its connections finds out before its next request who serves it now.
        last: the request in hand is the last one of any connection, and without one they end soon, since `over_since`
            (monotonic seconds).
        writers: of its access logs, as they are in force; None if they are to be looked up (`Runtime.writers`).
    """

    __slots__ = ("__weakref__", "asked", "last", "outdated", "over_since", "shown", "stats", "told", "writers")

    def __init__(self, stats: HttpStats, filters: Filters, *, outdated: bool = False) -> None:
        self.stats = stats
        self.asked: Filters = tuple([item for item in filters if item.on_request is not None])
        self.shown: Filters = tuple([item for item in filters if item.on_response is not None])
        self.told: Filters = tuple([item for item in filters if item.on_complete is not None])
        self.outdated = outdated
        self.last = False
        self.over_since = 0.0
        self.writers: tuple[Writer, ...] | None = None

    def end(self, now: float) -> None:
        """Its connections are to end, from `now` on."""
        self.last, self.over_since = True, now
