"""What the sidecar is told to ask, and that pymesh is compared with itself. That it runs is seen by running it."""

import subprocess
from pathlib import Path
from string import Template

import pytest
import yaml
from xds.type.v3.typed_struct_pb2 import TypedStruct

from benchmarks.macro import checks, policy
from benchmarks.macro.machine import Cores
from benchmarks.macro.scenario import Scenario
from benchmarks.macro.scenarios import SCENARIOS
from pymesh.errors import MeshError
from pymesh.resources.parse import parse
from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.model import Severity
from pymesh_controlplane.policy.rules import rules_of
from tests.support.waiting import eventually_sync

CORES = Cores(frozenset({0}), frozenset({0}))
OURS = [scenario for name, scenario in SCENARIOS.items() if name.startswith("policy-")]


def test_the_rules_are_right_and_the_sidecar_may_ask_about_them() -> None:
    parsed = parse(policy.RULES.read_text(), "rules.yaml")
    assert not parsed.errors
    there = world.build(parsed.resources)
    assert [str(each) for each in check(parsed.resources, there) if each.severity is Severity.ERROR] == []
    rules = rules_of(there)
    rates = {f"RateLimit default/{name}" for name in ("asked", "leased", "open")}
    assert set(rules.by_name) == {"Check default/remembered", *rates}
    assert {*rules.accounts.values()} == {frozenset({"spiffe://cluster.local/ns/default/sa/server"})}
    assert {*rules.pods.values()} == {frozenset({"reviews-1.default"})}
    modes = {name: rule.failure_mode for name, rule in rules.by_name.items()}
    assert modes.pop("RateLimit default/open") == "Open", "its service is away half of the time"
    assert {*modes.values()} == {"Closed"}, "who is not answered is no cheap request"


@pytest.mark.parametrize(
    ("rule", "kind"),
    [("Check default/remembered", "check"), ("RateLimit default/leased", "rate"), (checks.RULE, "check")],
)
def test_a_sidecar_asks_about_one_rule_in_the_way_that_is_measured(rule: str, kind: str) -> None:
    told = TypedStruct()
    assert policy.filter_for(rule).typed_config.Unpack(told)
    [only] = told.value["rules"]
    assert (only["name"], only["kind"]) == (rule, kind)


def test_what_is_measured_without_policy_is_the_same_otherwise() -> None:
    ours, without = (_loaded(policy.FOLDER / name) for name in ("bootstrap.yaml", "without.yaml"))
    manager = ours["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["http_filters"].pop(0) == {"name": "asks"}
    cluster = ours["static_resources"]["clusters"].pop()
    assert cluster["name"] == "outbound|9091||policy.pymesh-system.svc.cluster.local"
    assert ours == without


def test_a_service_that_goes_away_stands_still_and_goes_on_at_the_end() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        status = Path(f"/proc/{process.pid}/stat")

        def stopped() -> bool:
            return status.read_text().rpartition(")")[2].split()[0] == "T"

        try:
            with policy._standing_still(process.pid):
                eventually_sync(stopped, what="a stop")
                eventually_sync(lambda: not stopped(), what="that it goes on")
                eventually_sync(stopped, what="another stop")
            eventually_sync(lambda: not stopped(), what="that it goes on at the end")
        finally:
            process.kill()


def _loaded(
    file: Path,
) -> dict[str, dict[str, list[dict[str, list[dict[str, list[dict[str, dict[str, list[object]]]]]]]]]]:
    values = {**dict.fromkeys(Template(text := file.read_text()).get_identifiers(), "1"), "FILTER": '{"name": "asks"}'}
    return yaml.safe_load(Template(text).substitute(values))


@pytest.mark.parametrize("scenario", OURS, ids=lambda scenario: scenario.name)
def test_without_pymesh_there_is_nothing_to_measure(scenario: Scenario, tmp_path: Path) -> None:
    assert scenario.start is not None
    with pytest.raises(MeshError, match="this is about pymesh"), scenario.start(scenario, [], tmp_path, CORES):
        pass
