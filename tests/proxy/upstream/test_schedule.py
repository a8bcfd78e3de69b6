"""Turns in proportion to weights."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.upstream.schedule import Schedule


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 1000), st.integers(0, 30))
def test_every_run_as_long_as_the_weights_holds_each_as_often_as_its_weight(
    weights: list[int], seed: int, start: int
) -> None:
    schedule = Schedule(range(len(weights)), lambda item: weights[item], random.Random(seed).random)
    for _ in range(start):
        schedule.next()
    count = Counter(schedule.next() for _ in range(sum(weights)))
    # Two that are due at the same moment may change places at the ends of the run.
    assert all(abs(count[item] - weight) <= 1 for item, weight in enumerate(weights))


def test_a_weight_may_change_with_every_turn() -> None:
    weights = {"a": 1.0, "b": 1.0}
    schedule = Schedule(weights, weights.__getitem__, random.Random(1).random)
    Counter(schedule.next() for _ in range(10))
    weights["a"] = 3.0
    found = Counter(schedule.next() for _ in range(400))
    assert 295 <= found["a"] <= 305
