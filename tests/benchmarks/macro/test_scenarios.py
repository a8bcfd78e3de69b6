"""Scenarios: their rows, their folders, and the names they go by."""

import itertools
import json
from pathlib import Path
from string import Template

import pytest
import yaml
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC
from google.protobuf.json_format import ParseDict

from benchmarks.macro import scenarios
from benchmarks.macro.__main__ import taking_part
from benchmarks.macro.generated import policies, virtual_hosts
from benchmarks.macro.proxies import NEEDED, PROXIES
from benchmarks.macro.sample import RSS_IDLE, RSS_LOADED
from benchmarks.macro.scenario import Scenario
from benchmarks.macro.scenarios import SCENARIOS, choose
from pymesh_proxy.codec.http1 import parse_request
from pymesh_proxy.config.rbac import rbac
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from tests.proxy.filters.context import Context
from tests.support.repository import ROOT

STARTED = [scenario for scenario in SCENARIOS.values() if scenario.start is None]


def names(wanted: list[str]) -> list[str]:
    return [scenario.name for scenario in choose(wanted)[0]]


def test_names_and_what_they_stand_for() -> None:
    assert names([]) == list(SCENARIOS)
    assert names(["post"]) == ["post-fixed", "post-chunked"]
    assert names(["bulk", "h1-plain", "bulk"]) == ["h1-plain", "bulk"], "in the table's order, each once"
    assert choose(["h1-plain", "h3", "pos"])[1] == ["h3", "pos"]


@pytest.mark.parametrize("scenario", STARTED, ids=lambda scenario: scenario.name)
def test_every_hop_of_a_proxy_has_a_file_with_both_ports(scenario: Scenario) -> None:
    for proxy, hop in itertools.product(taking_part(scenario, list(PROXIES.values())), scenario.hops):
        template = Template(proxy.template(scenario.folder / hop).read_text())
        assert {"LISTEN", "UPSTREAM"} <= set(template.get_identifiers()), proxy.name


@pytest.mark.parametrize("scenario", STARTED, ids=lambda scenario: scenario.name)
def test_those_that_are_compared_take_part_everywhere(scenario: Scenario) -> None:
    assert {proxy.name for proxy in taking_part(scenario, [PROXIES[name] for name in NEEDED])} == set(NEEDED)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
def test_goals_are_of_figures_that_are_told(scenario: Scenario) -> None:
    told = {figure.name for figure in (*scenario.figures, *scenario.latency)} | {RSS_IDLE, RSS_LOADED}
    assert {goal.figure for goal in scenario.goals} <= told
    assert {goal.against for goal in scenario.goals} <= {"", *PROXIES}
    assert len(told) == len(scenario.figures) + len(scenario.latency) + 2, "no name twice"


def test_where_envoy_has_a_file_of_its_own_it_only_counts_more() -> None:
    theirs = list(Path(scenarios.__file__).parent.glob("configs/**/envoy.yaml"))
    assert theirs, "features has one"
    for file in theirs:
        shared, own = (_loaded(path) for path in (file.with_name("bootstrap.yaml"), file))
        assert _less(own, {"virtual_clusters", "stat_prefix", "track_cluster_stats"}) == _less(shared, {"stat_prefix"})


def _loaded(file: Path) -> object:
    values = dict.fromkeys(Template(text := file.read_text()).get_identifiers(), "1")
    return yaml.safe_load(Template(text).substitute(values))


def _less(document: object, fields: set[str]) -> object:
    """Without these fields, however deep."""
    if isinstance(document, dict):
        return {key: _less(value, fields) for key, value in document.items() if key not in fields}
    return [_less(each, fields) for each in document] if isinstance(document, list) else document


def test_the_request_of_routes_is_for_the_very_last_one() -> None:
    scenario, hosts = SCENARIOS["routes"], virtual_hosts(1000, 10)
    assert len(hosts) == 1000
    assert hosts[-1]["domains"] == [dict(scenario.request.headers)["Host"]]
    prefixes = [json.loads(json.dumps(route))["match"]["prefix"] for route in hosts[-1]["routes"]]  # type: ignore[attr-defined]  # a JSON document
    assert [scenario.path.startswith(prefix) for prefix in prefixes] == [False] * 9 + [True]


def test_all_but_the_last_access_rule_are_about_somebody_elses_requests() -> None:
    scenario = SCENARIOS["authz"]
    made = ParseDict({"rules": {"policies": policies(20)}}, RBAC())
    parsed = parse_request(scenario.request.encode(scenario.target(80)))
    assert parsed is not None
    for name in sorted(made.rules.policies):
        alone = RBAC()
        alone.rules.policies[name].CopyFrom(made.rules.policies[name])
        hook = rbac(alone, "f").on_request
        assert hook is not None
        let_in = (
            hook(Context(parsed[0], RequestRecord(Facts("inbound", "127.0.0.1:1", "127.0.0.1:2"), 0.0, 0.0))) is None
        )
        assert let_in is (name == max(made.rules.policies))


def test_what_is_measured_without_rules_is_the_same_otherwise() -> None:
    folder = Path(scenarios.__file__).parent / "configs" / "authz"
    ruled = _less(_loaded(folder / "bootstrap.yaml"), {"http_filters"})
    assert ruled == _less(_loaded(folder / "without.yaml"), {"http_filters"})
    assert "rbac" not in (folder / "without.yaml").read_text()


def test_the_page_tells_of_every_scenario() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text()
    table = page.partition("## Scenarios")[2].partition("\n## ")[0]
    assert [name for name in SCENARIOS if f"`{name}`" not in table] == []
