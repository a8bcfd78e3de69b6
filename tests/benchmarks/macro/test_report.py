"""What is printed, and above all what is not."""

import json
from dataclasses import replace

import pytest

from benchmarks.load.histogram import Histogram
from benchmarks.macro import document, report
from benchmarks.macro.machine import Cores, Machine
from benchmarks.macro.measure import Measured, Plan, Result
from benchmarks.macro.sample import LATE, Sample
from benchmarks.macro.scenarios import SCENARIOS

MACHINE = Machine("A CPU", 2, [1], [0], "6.1", "CPython 3.11.2", "abc", 0.5)
PLAN = Plan(SCENARIOS["h1-plain"], 5, 2, Cores(frozenset({1}), frozenset({0})))
LATENCIES = Histogram([1_000_000] * 100)


def measured(*costs: float, load: float = 1.0, **errors: int) -> Measured:
    """Rounds with these costs, in µs a request; the last one has the errors."""
    rounds = [Sample(20_000, 2.0, {"proxy": cost * 0.02}, load, {}, LATENCIES) for cost in costs]
    rounds[-1] = replace(rounds[-1], errors=errors)
    return Measured(rounds, idle_memory=23_000_000, loaded_memory=24_500_000)


def result(pymesh: Measured, **others: Measured) -> Result:
    return Result(PLAN, {"pymesh": pymesh, **others})


def lines(found: Result) -> list[str]:
    return report.text(report.result_section(found))


def test_medians_with_their_range_and_ratios_pair_by_pair() -> None:
    text = "\n".join(lines(result(measured(30, 31, 32, 30, 60), envoy=measured(60, 62, 64, 60, 60))))
    assert "5 rounds, in each twice 2 s of load on each proxy" in text
    assert "31.0 (30.0-60.0)" in text
    assert "0.50 (0.50-1.00)" in text
    assert "23.0 MB   24.5 MB" in text
    assert "pymesh / envoy, round by round: 0.50 0.50 0.50 0.50 1.00" in text


def test_a_goal_stands_beside_what_was_found() -> None:
    found = result(measured(*[27.6] * 5), envoy=measured(*[60] * 5), mitmproxy=measured(*[2000] * 5))
    said = lines(found)
    assert "CPU µs/request, pymesh / envoy: 0.46; target ≤ 0.60 met; stretch ≤ 0.45 missed" in said
    assert "CPU µs/request, pymesh / mitmproxy: 0.01; target ≤ 0.20 met; stretch ≤ 0.10 met" in said
    rows = report.text(report.summary_section([found], []))
    assert [row.split() for row in rows if "/ envoy" in row] == [
        ["h1-plain", "CPU", "µs/request,", "pymesh", "/", "envoy", "0.46", "≤", "0.60", "met", "≤", "0.45", "missed"]
    ]
    goals = document.document(MACHINE, {}, [found])["scenarios"]["h1-plain"]["goals"]  # type: ignore[index]  # a JSON document
    assert goals[0]["verdicts"] == {"target": "met", "stretch": "missed"}


def test_what_is_added_and_what_is_wanted_at_least() -> None:
    slow = [replace(each, latencies=Histogram([3_000_000])) for each in measured(*[60] * 5).rounds]
    asked = Result(replace(PLAN, scenario=SCENARIOS["policy-asked"]), {
        "pymesh": Measured(slow), "pymesh-without": measured(*[60] * 5),
    })  # fmt: skip
    assert "p50 ms, pymesh - pymesh-without: 2.00; target ≤ 1.00 missed" in lines(asked)
    checks = Result(replace(PLAN, scenario=SCENARIOS["policy-asked-checks"]), {"pymesh": measured(*[60] * 5)})
    assert "checks/s, pymesh: 10,000.00; target ≥ 4,000.00 met" in lines(checks)
    goals = document.document(MACHINE, {}, [asked])["scenarios"]["policy-asked"]["goals"]  # type: ignore[index]  # a JSON document
    assert (goals[0]["kind"], goals[0]["against"], goals[0]["verdicts"]) == (
        "added", "pymesh-without", {"target": "missed"},
    )  # fmt: skip


def test_with_an_error_there_is_no_comparison() -> None:
    broken = result(measured(30, 31), envoy=measured(60, 62, status=3, timeout=1))
    said = lines(broken)
    assert said[-1] == "no comparison: envoy answered with errors in round 2"
    assert "3 status, 1 timeout" in "\n".join(said)
    assert "0.50" not in "\n".join(said)
    assert next(line for line in said if line.startswith("pymesh")).endswith("-")
    [scenario] = document.document(MACHINE, {}, [broken])["scenarios"].values()  # type: ignore[attr-defined]  # a JSON document
    assert (scenario["ratios_to_envoy"], scenario["goals"]) == ({}, [])
    rows = report.text(report.summary_section([broken], ["idle"]))
    assert rows[-2:] == ["no comparison, since there were errors: h1-plain", "not measured: idle"]


def test_without_the_reference_there_is_no_comparison() -> None:
    assert "no comparison with envoy: there is nothing of it to compare with" in lines(result(measured(30)))


def test_few_rounds_are_said_to_show_nothing_and_are_not_judged() -> None:
    said = lines(result(measured(30, 31), envoy=measured(60, 62)))
    assert "fewer than 5 rounds" in said[-1]
    assert any("target ≤ 0.60 not judged" in line for line in said)


def test_unsteady_rounds_are_said_to_be() -> None:
    said = lines(result(measured(30, 60, 40, 50, 70), envoy=measured(60, 60, 60, 60, 60)))
    assert said[-1].startswith("not steady: pymesh")


def test_throughput_that_the_load_side_limited_is_marked() -> None:
    [row, _] = [line for line in lines(result(measured(30, load=1.96))) if line.startswith("pymesh")]
    assert "≥ 10,000" in row
    [row, _] = [line for line in lines(result(measured(30, load=1.5))) if line.startswith("pymesh")]
    assert "≥" not in row


def test_a_generator_that_was_late_says_so() -> None:
    late = measured(30, 31)
    late.rounds[0] = replace(late.rounds[0], most={LATE: 3.0})
    said = lines(result(late, envoy=measured(60, 62)))
    assert "the load generator was late: latencies of pymesh are partly its own" in said


def test_the_machine_and_the_versions_are_described() -> None:
    text = "\n".join(report.text(report.machine_section(MACHINE, {"envoy": "1.40.0"})))
    for part in ("A CPU", "2 cores", "core 1", "on 0", "Linux 6.1", "CPython 3.11.2", "abc", "envoy 1.40.0"):
        assert part in text


def test_one_core_for_everything_is_said() -> None:
    alone = Machine("A CPU", 1, [0], [0], "6.1", "CPython 3.11.2", "abc", 0.5)
    assert "one core for everything" in report.machine_section(alone, {}).before[0]


def test_the_document_has_every_round() -> None:
    made = document.document(MACHINE, {"wrk": "4.1.0"}, [result(measured(30, 31), envoy=measured(60, 62))])
    seen = json.loads(json.dumps(made))["scenarios"]["h1-plain"]
    pymesh = seen["proxies"]["pymesh"]
    assert [one["cpu_seconds"]["proxy"] for one in pymesh["rounds"]] == pytest.approx([0.6, 0.62])
    assert pymesh["rss_loaded_bytes"] == 24_500_000
    assert Histogram.of(pymesh["latencies"]).count == 200
    assert pymesh["figures"]["p50_ms"]["median"] == pytest.approx(1.0, rel=0.01)
    assert seen["ratios_to_envoy"]["pymesh"]["cpu_us_per_request"]["rounds"] == [0.5, 0.5]
    assert "envoy" not in seen["ratios_to_envoy"]


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    assert report.columns([("", "a"), ("long", "b")]) == ["      a", "long  b"]


def test_a_section_as_markdown() -> None:
    section = report.Section("idle", ["What it is."], [[("", "MB"), ("pymesh", "47")]], ["met"])
    assert report.markdown(section) == [
        "### idle", "", "What it is.", "", "|        | MB |", "|--------|----|", "| pymesh | 47 |", "", "- met",
    ]  # fmt: skip
