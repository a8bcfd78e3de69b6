"""How long the event loop did not turn: the longest that anybody's bytes had to wait for somebody else's work.

A timer that is due every few milliseconds sees how late it comes. It sees every stall that is longer than its period,
and of the shorter ones a sample; who knows that it holds the loop, as the slices of a configuration push do, tells
exactly (`occupied`). Those have a histogram of their own: there are so many of them that they would hide the rest. The
timer costs a hundred turns a second while there is traffic, 0.1 % of a core, and four without.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from time import monotonic
from typing import Final

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

# Seconds between two looks, with traffic and without.
PERIOD: Final = 0.01
IDLE_PERIOD: Final = 0.25
# Seconds; dense around the 5 ms that a push of configuration may take of the loop at a time. uvloop's timers are of
# milliseconds, so that up to one is no stall.
BUCKETS: Final = (0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
# Seconds that the longest is remembered for, at least; at most twice as many.
WINDOW: Final = 30.0


class _Histogram:
    """Counts seconds in BUCKETS."""

    def __init__(self) -> None:
        self.sum = 0.0
        self._buckets = [0] * (len(BUCKETS) + 1)

    def count(self, seconds: float) -> None:
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def family(self, name: str, text: str) -> Metric:
        bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
        found = HistogramMetricFamily(name, text)
        found.add_metric((), list(zip(bounds, accumulate(self._buckets), strict=True)), self.sum)
        return found


class LoopMeter:
    """Counts delays of one loop; `busy` says whether there is traffic."""

    def __init__(self, loop: asyncio.AbstractEventLoop, busy: Callable[[], bool]) -> None:
        self._loop = loop
        self._busy = busy
        self._delays = _Histogram()
        self._slices = _Histogram()
        self._longest = self._longest_before = 0.0
        self._window_ends = monotonic() + WINDOW
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def longest(self) -> float:
        """The longest delay of the last half minute, or of up to a minute, in seconds."""
        return max(self._longest, self._longest_before)

    def occupied(self, seconds: float) -> None:
        """A slice of long work held the loop for so long."""
        self._slices.count(seconds)
        self._longest = max(self._longest, seconds)

    def start(self) -> None:
        """Look from now on."""
        period = PERIOD if self._busy() else IDLE_PERIOD
        self._due = monotonic() + period
        self._timer = self._loop.call_later(period, self._look)

    def close(self) -> None:
        """Look no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def collect(self) -> Iterator[Metric]:
        """See exposition.Collector."""
        yield self._delays.family("pymesh_loop_delay_seconds", "How late a timer of the event loop came")
        yield self._slices.family("pymesh_loop_slice_seconds", "How long slices of long work held the event loop")
        text = "The longest time that the event loop did not turn, in the last minute"
        yield GaugeMetricFamily("pymesh_loop_delay_longest_seconds", text, value=self.longest)

    def _look(self) -> None:
        now = monotonic()
        late = max(0.0, now - self._due)
        self._delays.count(late)
        self._longest = max(self._longest, late)
        if now >= self._window_ends:
            self._longest_before, self._longest = self._longest, 0.0
            self._window_ends = now + WINDOW
        self.start()
