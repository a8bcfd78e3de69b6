"""Loads of priorities, by the cases of Envoy's documentation, to the percent as its code has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.upstream.priorities import Counts, spread


# From Envoy's documentation, "Priority levels", 100 endpoints a level.
@pytest.mark.parametrize(
    ("healthy", "loads"),
    [
        ([100, 100], (100, 0)),
        ([72, 100], (100, 0)),
        ([71, 100], (99, 1)),
        ([50, 100], (70, 30)),
        ([25, 100], (35, 65)),
        ([0, 100], (0, 100)),
        ([50, 25, 25], (70, 30, 0)),
        ([25, 25, 25], (35, 35, 30)),
        ([25, 25, 0], (50, 50, 0)),
        ([100, 100, 100], (100, 0, 0)),
        ([72, 72, 100], (100, 0, 0)),
        ([71, 71, 100], (99, 1, 0)),
        ([50, 50, 100], (70, 30, 0)),
        ([25, 100, 100], (35, 65, 0)),
        ([25, 25, 100], (35, 35, 30)),
    ],
)
def test_loads_of_healthy_endpoints(healthy: list[int], loads: tuple[int, ...]) -> None:
    found = spread([Counts(100, count) for count in healthy], panic=0.0)
    assert found.healthy == loads
    assert found.degraded == (0,) * len(healthy)


# From the documentation's section "Degraded endpoints": one level of 100 endpoints.
@pytest.mark.parametrize(
    ("healthy", "degraded", "loads"),
    [(100, 0, (100, 0)), (71, 0, (100, 0)), (71, 29, (99, 1)), (50, 50, (70, 30)), (25, 65, (35, 65)),
     (5, 95, (7, 93)), (0, 100, (0, 100))],
)  # fmt: skip
def test_loads_of_degraded_endpoints(healthy: int, degraded: int, loads: tuple[int, int]) -> None:
    found = spread([Counts(100, healthy, degraded)], panic=0.0)
    assert (*found.healthy, *found.degraded) == loads


# The documentation's section "Panic threshold", 50 %.
@pytest.mark.parametrize(
    ("healthy", "loads", "panic"),
    [
        ([72, 72], (100, 0), (False, False)),
        ([71, 71], (99, 1), (False, False)),
        ([50, 60], (70, 30), (False, False)),
        ([25, 100], (35, 65), (False, False)),
        ([25, 25], (50, 50), (True, True)),
        ([5, 65], (8, 92), (True, False)),
    ],
)
def test_panic(healthy: list[int], loads: tuple[int, ...], panic: tuple[bool, ...]) -> None:
    found = spread([Counts(100, count) for count in healthy])
    assert (found.healthy, found.panic) == (loads, panic)


def test_in_a_panic_everywhere_size_counts() -> None:
    assert spread([Counts(1, 0), Counts(3, 0)]).healthy == (25, 75)
    assert spread([Counts(0, 0), Counts(3, 1)]).healthy == (0, 100)
    assert spread([Counts(0, 0)]).healthy == (100,)


LEVEL = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)).map(
    lambda drawn: Counts(sum(drawn), drawn[0], drawn[1])
)


@given(st.lists(LEVEL, min_size=1, max_size=5), st.floats(0, 1), st.integers(0, 2**64 - 1))
def test_loads_always_add_up_and_every_number_has_a_place(levels: list[Counts], panic: float, number: int) -> None:
    found = spread(levels, panic)
    assert sum(found.healthy) + sum(found.degraded) == 100
    priority, degraded = found.choose(number)
    assert (found.degraded if degraded else found.healthy)[priority] > 0


@given(st.lists(LEVEL, min_size=1, max_size=5), st.floats(0, 1))
def test_without_a_panic_load_goes_where_somebody_is(levels: list[Counts], panic: float) -> None:
    found = spread(levels, panic)
    for level, healthy, degraded, panics in zip(levels, found.healthy, found.degraded, found.panic, strict=True):
        if not panics and any(one.healthy or one.degraded for one in levels):
            assert level.healthy or not healthy
            assert level.degraded or not degraded
