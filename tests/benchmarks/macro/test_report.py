"""What is printed, and above all what is not."""

import json

import pytest

from benchmarks.macro import report
from benchmarks.macro.figures import Round
from benchmarks.macro.machine import Cores, Machine
from benchmarks.macro.measure import Measured, Plan, Result
from benchmarks.macro.scenarios import SCENARIOS

MACHINE = Machine("A CPU", 2, [1], [0], "6.1", "CPython 3.11.2", "abc", 0.5)
PLAN = Plan(SCENARIOS["h1-plain"], 5, 2, Cores(frozenset({1}), frozenset({0})))


def measured(*costs: float, load: float = 1.0, **errors: int) -> Measured:
    """Rounds with these costs, in µs a request; the last one has the errors."""
    rounds = [Round(20_000, 2.0, cost * 0.02, load) for cost in costs]
    last = rounds[-1]
    rounds[-1] = Round(last.requests, last.seconds, last.cpu_seconds, last.load_cpu_seconds, errors)
    return Measured(rounds, idle_memory=23_000_000, loaded_memory=24_500_000)


def result(pymesh: Measured, envoy: Measured | None) -> Result:
    return Result(PLAN, {"pymesh": pymesh} | ({} if envoy is None else {"envoy": envoy}))


def test_medians_with_their_range_and_ratios_pair_by_pair() -> None:
    text = "\n".join(report.result_lines(result(measured(30, 31, 32, 30, 60), measured(60, 62, 64, 60, 60))))
    assert "5 rounds, in each twice 2 s of load on each proxy" in text
    assert "31.0 (30.0-60.0)" in text
    assert "0.50 (0.50-1.00)" in text
    assert "23.0 MB   24.5 MB" in text
    assert text.endswith("pymesh / envoy, round by round: 0.50 0.50 0.50 0.50 1.00")


def test_with_an_error_there_is_no_comparison() -> None:
    broken = result(measured(30, 31), measured(60, 62, status=3, timeout=1))
    lines = report.result_lines(broken)
    assert lines[-1] == "no comparison: envoy answered with errors in round 2"
    assert "3 status, 1 timeout" in "\n".join(lines)
    assert all(line.endswith("-") for line in lines if line.startswith(("pymesh", "envoy")))
    document = report.document(MACHINE, {}, [broken])
    assert document["scenarios"]["h1-plain"]["cpu_ratio_to_envoy"] == {}  # type: ignore[index]  # a JSON document


def test_without_the_reference_there_is_no_comparison() -> None:
    assert report.result_lines(result(measured(30), None))[-1] == "no comparison: envoy was not measured"


def test_few_rounds_are_said_to_show_nothing() -> None:
    assert "fewer than 5 rounds" in report.result_lines(result(measured(30, 31), measured(60, 62)))[-1]


def test_unsteady_rounds_are_said_to_be() -> None:
    lines = report.result_lines(result(measured(30, 60, 40, 50, 70), measured(60, 60, 60, 60, 60)))
    assert lines[-1].startswith("not steady: pymesh")


def test_throughput_that_the_load_side_limited_is_marked() -> None:
    [row] = [line for line in report.result_lines(result(measured(30, load=1.96), None)) if line.startswith("pymesh")]
    assert "≥ 10,000" in row
    [row] = [line for line in report.result_lines(result(measured(30, load=1.5), None)) if line.startswith("pymesh")]
    assert "≥" not in row


def test_the_machine_and_the_versions_are_described() -> None:
    text = "\n".join(report.machine_lines(MACHINE, {"envoy": "1.40.0"}))
    for part in ("A CPU", "2 cores", "core 1", "on 0", "Linux 6.1", "CPython 3.11.2", "abc", "envoy 1.40.0"):
        assert part in text


def test_one_core_for_everything_is_said() -> None:
    alone = Machine("A CPU", 1, [0], [0], "6.1", "CPython 3.11.2", "abc", 0.5)
    assert "one core for everything" in report.machine_lines(alone, {})[0]


def test_the_document_has_every_round() -> None:
    document = report.document(MACHINE, {"wrk": "4.1.0"}, [result(measured(30, 31), measured(60, 62))])
    seen = json.loads(json.dumps(document))["scenarios"]["h1-plain"]
    assert [one["cpu_seconds"] for one in seen["proxies"]["pymesh"]["rounds"]] == pytest.approx([0.6, 0.62])
    assert seen["proxies"]["pymesh"]["rss_loaded_bytes"] == 24_500_000
    assert seen["cpu_ratio_to_envoy"]["pymesh"]["rounds"] == [0.5, 0.5]


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    assert report.table([("", "a"), ("long", "b")]) == ["      a", "long  b"]
