"""What the pictures show of a run."""

import pytest

from benchmarks.load.histogram import Histogram
from benchmarks.pictures import data
from benchmarks.pictures.data import Bar, Chart, Row
from pymesh.errors import MeshError
from tests.benchmarks.pictures.document import MS, document


def bar(proxy: str, median: float) -> Bar:
    return Bar(proxy, median, median - 0.1, median + 0.1)


def test_ratios_with_their_targets_and_nothing_of_what_had_errors() -> None:
    assert data.charts(document()) == [
        Chart(
            "cpu",
            "CPU for the same work, next to envoy",
            (Row("h1-plain, µs/request", (bar("pymesh", 0.6), bar("nginx", 0.3)), 0.6),),
        ),
        Chart(
            "latency", "Latency at a fixed rate, next to envoy", (Row("h1-plain, p99", (bar("pymesh", 1.5),), None),)
        ),
        Chart(
            "memory",
            "Memory resident, next to envoy",
            (Row("idle, before", (bar("pymesh", 0.7),), None), Row("idle, after", (bar("pymesh", 0.5),), 0.6)),
        ),
    ]


def test_latencies_as_far_as_there_are_requests_enough() -> None:
    (picture,) = data.curves(document())
    assert picture.name == "latency-h1-plain"
    assert [curve.proxy for curve in picture.curves] == ["pymesh", "envoy"]  # nginx had errors
    # 1,000 answers: of the slowest five it can be told when they came, of the slowest one it could only be told once.
    assert [percent for percent, _ in picture.curves[0].points] == [0, 25, 50, 75, 90, 95, 99, 99.5]
    assert dict(picture.curves[0].points)[50.0] == pytest.approx(51, rel=0.01)


def test_a_single_answer_is_a_curve_of_its_least() -> None:
    found = document()
    found["scenarios"]["bulk"]["proxies"]["pymesh"] = {
        "figures": {"p50_ms": {}}, "errors": 0, "latencies": Histogram([MS]).document(),
    }  # fmt: skip
    assert data.curves(found)[1].curves[0].points == ((0.0, 1.0),)


@pytest.mark.parametrize("document_", [{}, {"scenarios": []}, {"scenarios": {"mesh": {}}}])
def test_something_else_is_refused(document_: dict[str, object]) -> None:
    with pytest.raises(MeshError, match="macro --json"):
        data.charts(document_)
