"""When requests are due: decided before the first is sent, and not moved by any answer."""

import random
from collections.abc import Iterator
from itertools import count
from typing import Final

from benchmarks.load import plans

_SECOND: Final = 1_000_000_000


def constant(rate: float, seconds: float) -> Iterator[int]:
    """`rate` a second, evenly: nanoseconds from the start, in order."""
    for number in count():
        if (due := round(number * _SECOND / rate)) >= seconds * _SECOND:
            return
        yield due


def poisson(rate: float, seconds: float, seed: int) -> Iterator[int]:
    """`rate` a second on average, each independent of all others, as many clients' requests come.

    The same seed gives the same schedule.
    """
    gaps = random.Random(seed)
    due = 0.0
    while (due := due + gaps.expovariate(rate)) < seconds:
        yield round(due * _SECOND)


def arrivals(kind: str, rate: float, seconds: float, seed: int) -> Iterator[int]:
    """`plans.CONSTANT`, or `plans.POISSON` by a seed."""
    return poisson(rate, seconds, seed) if kind == plans.POISSON else constant(rate, seconds)
