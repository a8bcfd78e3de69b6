"""What is made of a run with pushes, and that every scenario's control plane is there."""

import pytest

from benchmarks.load.histogram import Histogram
from benchmarks.load.results import Latencies
from benchmarks.macro import push
from benchmarks.macro.sample import LATE, Sample
from pymesh.errors import MeshError

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
