"""What one turn of load tells, and how variants are compared."""

import pytest

from benchmarks.mesh.variants import Load, Turn, added_latency, compared, parse_load

REPORT = (
    "Running 2s test @ http://server:8080/\n"
    '{"requests": 4000, "microseconds": 2000000, "p50_us": 400, "p99_us": 1900, "errors": '
    '{"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}}\n'
)


def test_a_report_is_read() -> None:
    assert parse_load(REPORT) == Load(4000, 400, 1900)


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("unable to connect", "no report"),
        (REPORT.replace('"status": 0', '"status": 7'), "'status': 7"),
        (REPORT.replace('"requests": 4000', '"requests": 0'), "0 requests"),
    ],
)
def test_a_run_with_failures_gives_no_figures(output: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_load(output)


def turn(server: float, p50: float) -> Turn:
    return Turn(1000, {"client": 100.0, "server": server}, p50, 2000.0)


def test_variants_are_compared_round_by_round() -> None:
    turns = {"off": [turn(100, 400), turn(200, 800)], "asked": [turn(150, 500), turn(300, 900)]}
    assert compared(turns, "off", "server") == {"off": 1.0, "asked": 1.5}
    assert added_latency(turns, "off") == {"off": 0, "asked": 100}


def test_rounds_that_do_not_pair_are_not_compared() -> None:
    with pytest.raises(ValueError):
        compared({"off": [turn(100, 400)], "asked": [turn(1, 1), turn(1, 1)]}, "off", "server")
