"""Figures from rounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.macro import figures
from benchmarks.macro.figures import Summary


def test_medians_with_their_range() -> None:
    assert figures.summary([3.0, 1.0, 2.0]) == Summary(median=2.0, least=1.0, most=3.0)
    assert figures.summary([4.0]) == Summary(4.0, 4.0, 4.0)


def test_ratios_are_of_the_same_round() -> None:
    # A machine half as fast in the second round: the ratios do not notice, a ratio of medians or means might.
    assert figures.ratios([30, 60, 31], [60, 120, 62]) == [0.5, 0.5, 0.5]


def test_ratios_of_unpaired_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        figures.ratios([1], [1, 2])


def test_nothing_is_a_multiple_of_nothing() -> None:
    assert figures.ratios([1, 2], [1, 0]) == []


def test_spread_is_that_of_the_middle_half() -> None:
    assert figures.spread([0.9, 1.0, 1.0, 1.0, 5.0]) == 0.0  # one wild round does not make figures unsteady
    assert figures.spread([0.8, 0.9, 1.0, 1.1, 1.2]) == pytest.approx(0.2)
    assert figures.spread([1.0]) == 0.0


def test_steady_rounds_end_when_there_are_as_many_as_wanted() -> None:
    assert not figures.enough([1.0] * 6, 7)
    assert figures.enough([1.0] * 7, 7)


def test_scattered_rounds_go_on_to_twice_as_many_and_then_end() -> None:
    scattered = [0.5, 1.0, 1.5, 0.6, 1.4, 0.7, 1.3]
    assert not figures.enough(scattered, 7)
    assert not figures.enough((scattered * 2)[:13], 7)
    assert figures.enough(scattered * 2, 7)


@given(names=st.lists(st.text(), min_size=1, max_size=6, unique=True), number=st.integers(0, 50))
def test_a_round_is_the_same_backwards_and_everybody_is_in_it_twice(names: list[str], number: int) -> None:
    order = figures.order(names, number)
    assert order == order[::-1]
    assert sorted(order) == sorted(names * 2)


def test_each_goes_first_in_turn() -> None:
    assert [figures.order(["a", "b", "c"], number)[0] for number in range(4)] == ["a", "b", "c", "a"]


def test_a_round_of_one_turn_is_not_repeated_backwards() -> None:
    assert figures.order(["a", "b", "c"], 1, turns=1) == ["b", "c", "a"]
