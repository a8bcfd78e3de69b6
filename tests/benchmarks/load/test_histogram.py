"""Counted durations, next to sorted lists of them."""

import json
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.histogram import ERROR, Histogram

DURATIONS = st.one_of(st.integers(0, 300), st.integers(0, 10**6), st.integers(0, 10**13))
SOME = st.lists(DURATIONS, min_size=1, max_size=200)


def exact(values: list[int], part: float) -> int:
    """The nearest rank, of a sorted list."""
    return sorted(values)[max(ceil(part * len(values)), 1) - 1]


@given(SOME, st.floats(0, 1))
def test_a_quantile_is_never_too_short_and_hardly_too_long(values: list[int], part: float) -> None:
    found, wanted = Histogram(values).quantile(part), exact(values, part)
    assert wanted <= found <= wanted * (1 + ERROR)


@given(SOME)
def test_the_ends_the_sum_and_the_count_are_exact(values: list[int]) -> None:
    histogram = Histogram(values)
    assert (histogram.count, histogram.total) == (len(values), sum(values))
    assert (histogram.least, histogram.most) == (min(values), max(values))
    assert histogram.quantile(1.0) == max(values)
    assert histogram.mean == sum(values) / len(values)


@given(SOME, st.lists(DURATIONS, max_size=50))
def test_two_added_are_one_of_all(some: list[int], others: list[int]) -> None:
    assert Histogram(some) + Histogram(others) == Histogram(some + others) == Histogram(others) + Histogram(some)


@given(st.lists(DURATIONS, max_size=100))
def test_it_survives_json(values: list[int]) -> None:
    histogram = Histogram(values)
    assert Histogram.of(json.loads(json.dumps(histogram.document()))) == histogram


@given(SOME, st.lists(st.floats(0, 1), max_size=5))
def test_several_quantiles_at_once(values: list[int], parts: list[float]) -> None:
    histogram = Histogram(values)
    assert histogram.quantiles(parts) == [histogram.quantile(part) for part in parts]


def test_nothing_counted() -> None:
    empty = Histogram()
    assert (empty.count, empty.least, empty.most, empty.mean, empty.quantile(0.5)) == (0, 0, 0, 0.0, 0)
    assert empty + Histogram([7]) == Histogram([7])


def test_a_clock_that_was_set_back_makes_no_negative_duration() -> None:
    assert Histogram([-5]).most == 0


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"count": 1, "total": 1, "least": 1, "most": 1, "buckets": []},
        {"count": 1, "total": 1, "least": 1, "most": 1, "buckets": [[1, -1]]},
        {"count": 1, "total": 1, "least": 1, "most": 1, "buckets": {"1": 1}},
        {"count": "1", "total": 1, "least": 1, "most": 1, "buckets": [[1, 1]]},
    ],
)
def test_what_is_no_histogram_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no histogram"):
        Histogram.of(document)
