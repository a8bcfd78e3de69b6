"""How fast work goes on that must not be felt: a slice at a time, with the loop free in between.

A request that comes while a slice runs waits for its end, so a slice is short; and requests that come while there is
much to do must not find a slice in front of each of them, so the loop is left alone for longer than a slice takes. That
is what keeps the slow requests of such a time as fast as twice those of any other (`benchmarks/micro/config_push.py`).

The cyclic garbage collector would stop everything for as long as it takes to look at all that a large configuration
consists of. Of what was compiled nothing is cyclic, and nearly all of it stays: so the young objects are collected as
ever, which never takes long, the old ones not while slices run, and what is there after much work is frozen, as after
the start: no later collection looks at it. Frozen objects are freed by their reference counts like any others, and so
is everything that connections and requests leave behind (`tests/proxy/test_collector.py`). A cycle of somebody else's,
as a user's filter may make, is not: to collect before each freeze would be the stall that freezing avoids, so one full
collection follows when nobody is there to feel it.
"""

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, thread_time
from typing import Final, TypeVar

from pymesh.steps import Steps

T = TypeVar("T")

# Seconds that a slice runs before it lets others have the loop: what it adds to the slow requests of such a time. Its
# last step comes on top, and the largest of them take 1 ms of the 5 that nobody may have to wait longer for.
SLICE: Final = 0.0004
# Seconds of the loop to others after each slice while there is traffic; uvloop's timers are of milliseconds.
REST: Final = 0.002
# Seconds of work, about 10,000 objects, after which what it has made is frozen.
FREEZE_AFTER: Final = 0.05
# Seconds between two looks for traffic, and how many of them in a row must see none before frozen objects are
# collected: that takes as long as looking at everything does, 50 ms with 10,000 endpoints,
# and is done once after a push.
LOOK: Final = 1.0
QUIET: Final = 10
# Collections of the young before one of those that survived: never, while slices run.
_NEVER: Final = 1_000_000


class _Collector:
    """The garbage collector, told to leave the old objects alone for as long as somebody works."""

    def __init__(self) -> None:
        self._workers = 0
        self._thresholds = gc.get_threshold()

    @contextmanager
    def only_the_young(self) -> Iterator[None]:
        """Collect nothing but young objects meanwhile."""
        if not self._workers:
            self._thresholds = gc.get_threshold()
            gc.set_threshold(self._thresholds[0], _NEVER, _NEVER)
        self._workers += 1
        try:
            yield
        finally:
            self._workers -= 1
            if not self._workers:
                gc.set_threshold(*self._thresholds)


# As the collector itself, one for the process.
_only_the_young: Final = _Collector().only_the_young


class Pace:
    """Takes the steps of long work, one work after the other.

    What cannot wait for all of the others' has a pace of its own: then a turn of the loop may have a slice of each.

    `busy` says whether there is traffic that would suffer; `ran` is told how long each slice took, in seconds, and how
    much CPU time; what is made stays, if it is `lasting`.
    """

    def __init__(
        self,
        busy: Callable[[], bool] = lambda: True,
        ran: Callable[[float, float], None] = lambda _, __: None,
        *,
        lasting: bool = True,
    ) -> None:
        self._busy = busy
        self._ran = ran
        self._lasting = lasting
        self._lock = asyncio.Lock()
        self._unfrozen = 0.0
        self._frozen = False  # something, and was not looked at since

    async def tidy(self) -> None:
        """For ever: after each freeze wait for a time without traffic, and collect what of it is dead by then."""
        quiet = 0
        while True:
            await asyncio.sleep(LOOK)
            quiet = 0 if self._busy() else quiet + 1
            if self._frozen and quiet >= QUIET and not self._lock.locked():
                self._collect()

    def _collect(self) -> None:
        began, used = perf_counter(), thread_time()
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._frozen = False
        self._ran(perf_counter() - began, thread_time() - used)

    async def take(self, steps: Steps[T]) -> T:
        """All of `steps`, in slices; their result. Works that come meanwhile wait for their turn."""
        async with self._lock:
            with _only_the_young():
                result = await self._in_slices(steps)
            if self._lasting and self._unfrozen > FREEZE_AFTER:
                gc.freeze()
                self._frozen = True
                self._unfrozen = 0.0
            return result

    async def _in_slices(self, steps: Steps[T]) -> T:
        while True:
            began = now = perf_counter()
            used = thread_time()
            try:
                while now < began + SLICE:
                    next(steps)
                    now = perf_counter()
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                now = perf_counter()
                self._unfrozen += now - began
                self._ran(now - began, thread_time() - used)
            await asyncio.sleep(REST if self._busy() else 0)
