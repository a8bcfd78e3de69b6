"""wrk's command line, its script and its report; and wrk itself, before a real server."""

import json
from pathlib import Path
from string import Template

import pytest

from benchmarks.load.target import Target
from benchmarks.macro import wrk
from benchmarks.macro.sample import Unit
from benchmarks.macro.scenario import SESSION
from benchmarks.macro.scenarios import BROWSER
from benchmarks.macro.wrk import Report

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
    assert wrk.parse(output(), 1024) == Report(requests=50_000, seconds=2.0, bytes=60_000_000, errors={})


@pytest.mark.parametrize("kind", list(NO_ERRORS))
def test_every_kind_of_error_is_one(kind: str) -> None:
    assert wrk.parse(output(**{kind: 3}), 1024).errors == {kind: 3}


def test_answers_that_are_too_short_are_errors() -> None:
    assert wrk.parse(output(requests=10, size=10 * 1024 + 10 * 150), 1024).errors == {}
    assert wrk.parse(output(requests=10, size=8 * 1024), 1024).errors == {"short": 2}
    assert wrk.parse(output(requests=10, size=10 * 1024 - 1), 1024).errors == {"short": 1}


@pytest.mark.parametrize("said", ["", "unable to connect to 127.0.0.1:1 Connection refused\n", TEXT])
def test_no_report_is_no_figure(said: str) -> None:
    with pytest.raises(ValueError, match="no report"):
        wrk.parse(said, 1024)


def test_no_request_is_no_figure() -> None:
    with pytest.raises(ValueError, match="not one request"):
        wrk.parse(output(requests=0, size=0, timeout=32), 1024)


def test_what_is_counted_is_the_scenarios_unit() -> None:
    report = Report(requests=300, seconds=1.0, bytes=3_000_000_000, errors={})
    assert [report.count(unit) for unit in (Unit.REQUEST, Unit.CONNECTION, Unit.GIGABYTE)] == [300, 300, 3.0]


def test_the_command_line_has_the_target_and_the_script() -> None:
    target = Target("127.0.0.1", 8443, True, "127.0.0.1:8443", "/reviews?full=true")
    command = wrk.command("/usr/bin/wrk", target, 8, 3, Path("/folder/wrk.lua"))
    assert command[0] == "/usr/bin/wrk"
    assert command[-1] == "https://127.0.0.1:8443/reviews?full=true"
    for option, value in (("-t", "1"), ("-c", "8"), ("-d", "3s"), ("-s", "/folder/wrk.lua")):
        assert command[command.index(option) + 1] == value


def test_any_byte_can_stand_in_the_script() -> None:
    assert wrk.quoted(b'a"b\\c\r\n\x00\xff0') == "a\\034b\\092c\\013\\010\\000\\2550"
    assert Template((Path(wrk.__file__).with_name("wrk.lua")).read_text()).get_identifiers() == ["REQUESTS"]


def test_no_request_is_like_the_one_before_if_it_has_a_session() -> None:
    found = wrk.variants(f"GET / HTTP/1.1\r\nCookie: session={SESSION}\r\n\r\n".encode())
    assert len(set(found)) == len(found) > 32
    assert len({len(one) for one in found}) == 1
    assert wrk.variants(b"GET / HTTP/1.1\r\n\r\n") == [b"GET / HTTP/1.1\r\n\r\n"]
    assert SESSION in dict(BROWSER)["Cookie"]
