"""What is left of a run, also of one that did not go well."""

import json
from pathlib import Path

from benchmarks.macro.machine import Cores, Machine
from benchmarks.macro.measure import Measured, Plan, Result
from benchmarks.macro.outcome import Outcome
from benchmarks.macro.sample import Sample
from benchmarks.macro.scenarios import SCENARIOS
from pymesh.errors import MeshError

MACHINE = Machine("A CPU", 2, [1], [0], "6.1", "CPython 3.11.2", "abc", 0.5)
PLAN = Plan(SCENARIOS["routes"], 1, 1, Cores(frozenset({1}), frozenset({0})))


def test_a_scenario_that_fails_leaves_the_others_and_is_told(tmp_path: Path) -> None:
    outcome = Outcome(MACHINE, {"wrk": "4.1.0"})
    assert outcome.sound
    outcome.fail(SCENARIOS["h1-plain"], MeshError("envoy ended with status 1"))
    outcome.add(Result(PLAN, {"pymesh": Measured([Sample(1000, 1.0, {"proxy": 0.05}, 0.5)], 40, 50)}))
    outcome.write(tmp_path / "new" / "figures.json", tmp_path / "figures.md")
    assert not outcome.sound

    page = (tmp_path / "figures.md").read_text()
    titles = [line for line in page.splitlines() if line.startswith("#")]
    assert titles == ["### machine", "### summary", "### h1-plain", "### routes"]
    assert "not measured: envoy ended with status 1" in page
    assert "- not measured: h1-plain" in page
    document = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert list(document["scenarios"]) == ["routes"]


def test_errors_make_a_run_unsound() -> None:
    outcome = Outcome(MACHINE, {})
    outcome.add(Result(PLAN, {"pymesh": Measured([Sample(1000, 1.0, {"proxy": 0.05}, 0.5, {"read": 1})], 40, 50)}))
    assert not outcome.sound
