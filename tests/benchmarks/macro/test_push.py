"""What is made of a run with pushes, and that every scenario's control plane is there."""

import asyncio

import pytest

from benchmarks.load.histogram import Histogram
from benchmarks.load.results import Latencies
from benchmarks.macro import push
from benchmarks.macro.sample import LATE, Sample
from pymesh.errors import MeshError
from pymesh_proxy.telemetry.exposition import render
from pymesh_proxy.telemetry.loop_meter import LoopMeter

MS = 1_000_000


def latencies(*windows: list[int], late: int = 0) -> Latencies:
    """Windows of 0.1 s from 100.0 s on."""
    return Latencies(
        "", 1000.0, 16, 0.1 * len(windows), 100.0, 0.1, tuple(Histogram(window) for window in windows),
        Histogram([late]), 0, 0, {}, {}, {}, 0.0,
    )  # fmt: skip


def test_before_the_first_push_and_during_all_of_them() -> None:
    found = latencies([1 * MS] * 99 + [2 * MS], [3 * MS], [9 * MS], [8 * MS], [50 * MS], [4 * MS])
    # The first push touches windows 2 and 3, the second window 5; what is between counts for neither.
    most = push.figures(found, [(100.25, 100.35), (100.55, 100.55)])
    sample = Sample(most=most)
    assert push.BEFORE.of(sample) == pytest.approx(2, rel=0.01)
    assert push.MEANWHILE.of(sample) == pytest.approx(9, rel=0.01)
    assert push.TIMES.of(sample) == pytest.approx(4.5, rel=0.02)
    assert push.SLOWEST.of(sample) == 9
    assert push.IN_FORCE.of(sample) == pytest.approx(100)
    assert LATE not in most


def test_a_late_generator_is_told() -> None:
    assert push.figures(latencies([MS], [MS], late=5 * MS), [(100.1, 100.2)])[LATE] == pytest.approx(5, rel=0.01)


@pytest.mark.parametrize("windows", [[[], [MS]], [[MS], []]])
def test_without_answers_there_is_nothing_to_tell(windows: list[list[int]]) -> None:
    with pytest.raises(MeshError, match="no request was answered"):
        push.figures(latencies(*windows), [(100.15, 100.15)])


def counters(longest: float, **stalls: int) -> str:
    """As pymesh-proxy tells them: so many stalls of at most so many milliseconds, cumulative."""
    buckets = {"0.001": stalls["ms1"], "0.005": stalls["ms5"], "0.01": stalls["ms10"], "+Inf": stalls["more"]}
    lines = [f'pymesh_loop_delay_seconds_bucket{{le="{bound}"}} {count}.0' for bound, count in buckets.items()]
    return "\n".join(["# HELP ...", *lines, f"pymesh_loop_delay_longest_seconds {longest}", ""])


@pytest.mark.parametrize(
    ("after", "longest"),
    [
        (counters(0.0042, ms1=20, ms5=21, ms10=22, more=23), 0.0042),  # nothing longer than before, and known
        (counters(0.5, ms1=20, ms5=21, ms10=22, more=23), 0.005),  # the longest was before: the bound
        (counters(0.5, ms1=20, ms5=20, ms10=21, more=22), 0.001),
        (counters(0.5, ms1=10, ms5=10, ms10=12, more=13), 0.01),
        (counters(0.6, ms1=10, ms5=10, ms10=11, more=13), 0.6),
    ],
)
def test_the_longest_stall_of_the_pushes_is_not_one_from_the_start(after: str, longest: float) -> None:
    assert push.longest(push.DELAY, counters(0.5, ms1=10, ms5=10, ms10=11, more=12), after) == longest


def test_without_a_meter_there_is_no_stall_to_tell() -> None:
    with pytest.raises(MeshError, match="does not tell"):
        push.longest(push.DELAY, "", "pymesh_requests_total 5\n")


def test_the_counters_are_the_proxy_s() -> None:
    loop = asyncio.new_event_loop()
    try:
        meter = LoopMeter(loop, lambda: True)
        began = render((meter,)).decode()
        meter.occupied(0.0015, 0.0001)
        before = render((meter,)).decode()
        meter.occupied(0.0031, 0.0004)
        found = push.stalls(began, before, render((meter,)).decode())
        assert push.STALL.of(Sample(most=found)) == pytest.approx(3.1)
        assert push.STALL_CPU.of(Sample(most=found)) == pytest.approx(0.4)
        assert push.STALL_BEFORE.of(Sample(most=found)) == pytest.approx(1.5)
    finally:
        loop.close()
