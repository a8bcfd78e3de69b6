"""A proxy that does not do what is measured is not measured."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.macro import measure
from benchmarks.macro.machine import Cores
from benchmarks.macro.measure import Measured, Plan, Result
from benchmarks.macro.proxies import NGINX, Proxy
from benchmarks.macro.sample import RSS_IDLE, Sample
from benchmarks.macro.scenarios import SCENARIOS
from pymesh.errors import MeshError

AVAILABLE = frozenset(os.sched_getaffinity(0))
PLAN = Plan(SCENARIOS["h1-plain"], 1, 1, Cores(AVAILABLE, AVAILABLE))

# An nginx that takes the place of a proxy, and what it answers.
CONFIG = """daemon off; master_process off; pid ${FOLDER}/pid; error_log stderr;
events {}
http { access_log off; server { listen 127.0.0.1:${LISTEN}; location / { %s } } } # ${UPSTREAM}
"""


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    monkeypatch.setattr("benchmarks.macro.scenario.CONFIGS", tmp_path)
    monkeypatch.setattr("benchmarks.macro.sites._CONFIGURED_TIMEOUT", 0.0)
    (tmp_path / "h1-plain").mkdir()
    return Proxy(NGINX, ("proxy.conf",), ("-c", "${CONFIG}", "-e", "stderr"))


def answers(folder: Path, action: str) -> None:
    (folder / "h1-plain" / "proxy.conf").write_text(CONFIG % action)


def run(proxy: Proxy) -> Result:
    return measure.measure(PLAN, [proxy], lambda _: None)


@pytest.mark.parametrize(("action", "seen"), [("return 503;", "503"), ('return 200 "x";', "200, 1 bytes")])
def test_another_answer_than_the_upstreams_is_refused(tmp_path: Path, proxy: Proxy, action: str, seen: str) -> None:
    answers(tmp_path, action)
    with pytest.raises(MeshError, match=f"nginx answers {seen}"):
        run(proxy)


def test_a_configuration_that_does_not_work_is_quoted(tmp_path: Path, proxy: Proxy) -> None:
    answers(tmp_path, "no_such_directive;")
    with pytest.raises(MeshError, match="no_such_directive"):
        run(proxy)


def test_errors_under_load_end_it(tmp_path: Path, proxy: Proxy) -> None:
    # The first request of a connection is answered; one in two of all is refused afterwards.
    good = f'return 200 "{PLAN.scenario.body}";'
    answers(tmp_path, f"if ($$connection_requests ~ [02468]$$) {{ return 500; }} {good}")
    with pytest.raises(MeshError, match=r"nginx had errors while warming up: .*\d+ status"):
        run(proxy)


GOOD = Sample(1000, 1.0, {"proxy": 0.05}, 0.1)


def test_errors_of_the_last_round_leave_no_ratios() -> None:
    cost = PLAN.scenario.figures[0].name
    bad = GOOD + Sample(errors={"read": 1})
    seen = Result(PLAN, {"pymesh": Measured([GOOD, bad]), "envoy": Measured([GOOD, GOOD])})
    assert seen.errors == {"pymesh": {"read": 1}}
    assert seen.ratios("pymesh", cost) == []
    assert Result(PLAN, {"pymesh": Measured([GOOD]), "envoy": Measured([GOOD])}).ratios("pymesh", cost) == [1.0]


def test_ratios_are_taken_with_whoever_is_named_and_of_memory_too() -> None:
    cheap = Sample(1000, 1.0, {"proxy": 0.005}, 0.1)
    seen = Result(PLAN, {"pymesh": Measured([cheap], 30, 60), "mitmproxy": Measured([GOOD], 60, 60)})
    assert seen.ratios("pymesh", PLAN.scenario.figures[0].name) == [], "envoy was not there"
    assert seen.ratios("pymesh", PLAN.scenario.figures[0].name, "mitmproxy") == pytest.approx([0.1])
    assert seen.ratios("pymesh", RSS_IDLE, "mitmproxy") == [0.5]
    assert seen.values("pymesh", RSS_IDLE) == [30.0]


def test_a_turn_without_one_answer_is_no_figure(tmp_path: Path, proxy: Proxy) -> None:
    answers(tmp_path, f'return 200 "{PLAN.scenario.body}";')
    scenario = replace(PLAN.scenario, instrument=lambda _: Sample(errors={"refused": 7}))
    with pytest.raises(MeshError, match="nginx answered nothing: 7 refused"):
        measure.measure(replace(PLAN, scenario=scenario), [proxy], lambda _: None)
