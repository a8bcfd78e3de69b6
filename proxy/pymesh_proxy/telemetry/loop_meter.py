"""How long the event loop did not turn: the longest that anybody's bytes had to wait for somebody else's work.

A timer that is due every few milliseconds sees how late it comes. It sees every stall that is longer than its period,
and of the shorter ones a sample; who knows that it holds the loop, as the slices of a configuration push do, tells
exactly (`occupied`). Those have a histogram of their own: there are so many of them that they would hide the rest. The
timer costs a hundred turns a second while there is traffic, 0.1 % of a core, and four without.

A loop also stands still while its thread does not run: another process has the core, a limit of CPU is used up, or the
hypervisor has given the core away. That is nothing that the proxy does. So the CPU time of the thread is told beside:
of a slice exactly; of a delay at most, since all that the thread used since the timer was set, but for the slices, may
have been in it.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from time import monotonic, thread_time
from typing import Final

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

# Seconds between two looks, with traffic and without.
PERIOD: Final = 0.01
IDLE_PERIOD: Final = 0.25
# Seconds; dense around the 5 ms that a push of configuration may take of the loop at a time. uvloop's timers are of
# milliseconds, so that up to one is no stall.
BUCKETS: Final = (0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
# Seconds that the longest is remembered for, at least; at most twice as many.
WINDOW: Final = 30.0


class _Longest:
    """The largest of some seconds, remembered for a window at least, and for two at most."""

    def __init__(self) -> None:
        self._now = self._before = 0.0

    @property
    def seconds(self) -> float:
        return max(self._now, self._before)

    def see(self, seconds: float) -> None:
        self._now = max(self._now, seconds)

    def next_window(self) -> None:
        self._now, self._before = 0.0, self._now


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
        self._cpu = _Histogram()
        self._longest, self._longest_cpu = _Longest(), _Longest()
        self._window_ends = monotonic() + WINDOW
        self._due = 0.0
        self._used = 0.0  # of CPU, by this thread, until the timer was set, and by slices since
        self._timer: asyncio.TimerHandle | None = None

    @property
    def longest(self) -> float:
        """The longest delay of the last half minute, or of up to a minute, in seconds."""
        return self._longest.seconds

    @property
    def longest_cpu(self) -> float:
        """The most CPU time that a delay or slice of that time took this thread, in seconds."""
        return self._longest_cpu.seconds

    def occupied(self, seconds: float, cpu: float) -> None:
        """A slice of long work held the loop for so long, and so much of that the thread was running."""
        self._slices.count(seconds)
        self._used += cpu
        self._seen(seconds, cpu)

    def start(self) -> None:
        """Look from now on."""
        period = PERIOD if self._busy() else IDLE_PERIOD
        self._due = monotonic() + period
        self._used = thread_time()
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
        text = "The CPU time of the loop's thread in a delay or slice, at most: the rest it did not run"
        yield self._cpu.family("pymesh_loop_delay_cpu_seconds", text)
        text = "The most CPU time that a delay or slice took the loop's thread, in the last minute"
        yield GaugeMetricFamily("pymesh_loop_delay_cpu_longest_seconds", text, value=self.longest_cpu)

    def _look(self) -> None:
        now = monotonic()
        late = max(0.0, now - self._due)
        self._delays.count(late)
        self._seen(late, min(late, thread_time() - self._used))
        if now >= self._window_ends:
            self._longest.next_window()
            self._longest_cpu.next_window()
            self._window_ends = now + WINDOW
        self.start()

    def _seen(self, seconds: float, cpu: float) -> None:
        self._longest.see(seconds)
        self._cpu.count(cpu)
        self._longest_cpu.see(cpu)
