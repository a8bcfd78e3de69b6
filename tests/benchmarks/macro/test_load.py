"""wrk's command line and its report."""

import json

import pytest

from benchmarks.macro import load
from benchmarks.macro.load import Load
from benchmarks.macro.scenarios import SCENARIOS

NO_ERRORS = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}
# wrk's own words, before what its script prints.
TEXT = """Running 2s test @ http://127.0.0.1:18080/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.29ms  371.93us   7.20ms   87.63%
    Req/Sec    25.11k     1.03k   26.82k    70.00%
  50000 requests in 2.00s, 60.12MB read
Requests/sec:  24997.12
Transfer/sec:     30.06MB
"""


def output(requests: int = 50_000, size: int = 60_000_000, **errors: int) -> str:
    report = {"requests": requests, "microseconds": 2_000_000, "bytes": size, "errors": NO_ERRORS | errors}
    return TEXT + json.dumps(report) + "\n"


def test_a_report() -> None:
    assert load.parse(output(), 1024) == Load(requests=50_000, seconds=2.0, errors={})


@pytest.mark.parametrize("kind", list(NO_ERRORS))
def test_every_kind_of_error_is_one(kind: str) -> None:
    assert load.parse(output(**{kind: 3}), 1024).errors == {kind: 3}


def test_answers_that_are_too_short_are_errors() -> None:
    assert load.parse(output(requests=10, size=10 * 1024 + 10 * 150), 1024).errors == {}
    assert load.parse(output(requests=10, size=8 * 1024), 1024).errors == {"short": 2}
    assert load.parse(output(requests=10, size=10 * 1024 - 1), 1024).errors == {"short": 1}


@pytest.mark.parametrize("said", ["", "unable to connect to 127.0.0.1:1 Connection refused\n", TEXT])
def test_no_report_is_no_figure(said: str) -> None:
    with pytest.raises(ValueError, match="no report"):
        load.parse(said, 1024)


def test_no_request_is_no_figure() -> None:
    with pytest.raises(ValueError, match="not one request"):
        load.parse(output(requests=0, size=0, timeout=32), 1024)


def test_the_command_sends_what_the_scenario_says() -> None:
    scenario = SCENARIOS["h1-plain"]
    command = load.command("/usr/bin/wrk", scenario, 8080, 3)
    assert command[0] == "/usr/bin/wrk"
    assert command[-1] == f"http://127.0.0.1:8080{scenario.path}"
    assert command[command.index("-c") + 1] == "32"
    assert command[command.index("-d") + 1] == "3s"
    assert command.count("-H") == len(scenario.headers) == 10
