"""What turns of load add up to, and the figures made of it."""

import pytest

from benchmarks.load.histogram import Histogram
from benchmarks.macro import sample
from benchmarks.macro.sample import Sample, Unit


def test_turns_of_a_round_are_added_by_what_happened_not_by_their_rates() -> None:
    slow = Sample(10_000, 2.0, {"client": 0.6, "server": 0.4}, 0.5, {"timeout": 1})
    fast = Sample(30_000, 2.0, {"client": 0.5, "server": 0.5}, 0.5, {"timeout": 2, "read": 1})
    both = slow + fast
    assert (both.units, both.seconds, both.load_cpu) == (40_000, 4.0, 1.0)
    assert both.cpu == pytest.approx({"client": 1.1, "server": 0.9})
    assert both.errors == {"timeout": 3, "read": 1}
    assert sample.cost(Unit.REQUEST).of(both) == pytest.approx(50.0)  # and not the mean of 100 and 33.3


def test_latencies_are_joined_and_of_peaks_the_largest_stays() -> None:
    both = Sample(latencies=Histogram([1_000_000]), most={"stall_ms": 3.0}) + Sample(
        latencies=Histogram([9_000_000]), most={"stall_ms": 2.0, "late_ms": 1.0}
    )
    assert both.latencies == Histogram([1_000_000, 9_000_000])
    assert both.most == {"stall_ms": 3.0, "late_ms": 1.0}


def test_a_turn_at_a_fixed_rate_does_not_touch_the_cost() -> None:
    saturated = Sample(1000, 1.0, {"proxy": 0.05}, 0.5)
    both = saturated + Sample(latencies=Histogram([2_000_000]))
    shown = (sample.cost(Unit.REQUEST), sample.throughput(Unit.REQUEST), sample.BUSY)
    assert [figure.of(both) for figure in shown] == [50.0, 1000.0, 0.05]


def test_cost_is_told_by_the_unit() -> None:
    one = Sample(units=2.0, seconds=4.0, cpu={"client": 0.5, "server": 1.5}, load_cpu=3.0)
    assert sample.cost(Unit.GIGABYTE).of(one) == 1.0
    assert sample.cost(Unit.CONNECTION).of(one) == 1_000_000.0
    assert sample.part_of_cost("client", Unit.REQUEST).of(one) == 250_000.0
    assert sample.throughput(Unit.GIGABYTE).of(one) == 0.5
    assert (one.busy, one.load_busy) == (0.5, 0.75)
    assert [figure.title for figure in (sample.cost(Unit.GIGABYTE), sample.cost(Unit.REQUEST))] == [
        "CPU s/GB", "CPU µs/request",
    ]  # fmt: skip


def test_percentiles_are_in_milliseconds() -> None:
    one = Sample(latencies=Histogram([1_000_000] * 99 + [50_000_000]))
    p50, _, _, p999 = (figure.of(one) for figure in sample.PERCENTILES)
    assert (p50, p999) == (pytest.approx(1.0, rel=0.01), pytest.approx(50.0, rel=0.01))
    assert [figure.name for figure in sample.PERCENTILES] == ["p50_ms", "p90_ms", "p99_ms", "p99.9_ms"]


def test_figures_as_people_read_them() -> None:
    assert sample.BUSY.text(0.994) == "99%"
    assert sample.throughput(Unit.REQUEST).text(12_413.4) == "12,413"
    assert sample.cost(Unit.GIGABYTE).text(0.536) == "0.54"
