"""When requests are due."""

from itertools import pairwise

import pytest

from benchmarks.load.plans import CONSTANT, POISSON
from benchmarks.load.schedule import arrivals, constant, poisson

MILLISECOND = 1_000_000


def test_evenly() -> None:
    assert list(constant(1000, 0.005)) == [number * MILLISECOND for number in range(5)]
    assert list(constant(3, 1)) == [0, 333_333_333, 666_666_667]
    assert len(list(constant(7777, 3))) == 3 * 7777


def test_at_random_by_the_rate() -> None:
    due = list(poisson(1000, 50, seed=1))
    gaps = [later - earlier for earlier, later in pairwise(due)]
    assert due == sorted(due)
    assert due[-1] < 50_000 * MILLISECOND
    assert len(due) == pytest.approx(50_000, rel=0.03)
    # Of an exponential distribution: the part of gaps longer than the mean is 1/e, the one longer than 3 means 1/e^3.
    assert sum(gap > MILLISECOND for gap in gaps) / len(gaps) == pytest.approx(0.368, rel=0.05)
    assert sum(gap > 3 * MILLISECOND for gap in gaps) / len(gaps) == pytest.approx(0.0498, rel=0.15)


def test_a_seed_is_a_schedule() -> None:
    assert list(arrivals(POISSON, 100, 1, 7)) == list(poisson(100, 1, 7)) != list(poisson(100, 1, 8))
    assert list(arrivals(CONSTANT, 100, 1, 7)) == list(constant(100, 1))
