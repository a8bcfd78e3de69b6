"""The load generator: wrk's command line, and what it reports."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.macro.scenarios import Scenario

SCRIPT: Final = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """One run of wrk. `errors` has only the kinds that happened: connect, read, write, status, timeout, short."""

    requests: int
    seconds: float
    errors: dict[str, int]


def command(wrk: str, scenario: Scenario, port: int, seconds: int) -> list[str]:
    """The command line for one thread that keeps the scenario's connections busy for so many seconds."""
    headers = [word for name, value in scenario.headers for word in ("-H", f"{name}: {value}")]
    size = ["-t", "1", "-c", str(scenario.connections), "-d", f"{seconds}s"]
    return [wrk, *size, "-s", str(SCRIPT), *headers, f"http://127.0.0.1:{port}{scenario.path}"]


def parse(output: str, body_bytes: int) -> Load:
    """What `wrk.lua` printed at the end of wrk's own report.

    Args:
        output: all that wrk printed.
        body_bytes: of each answer. wrk takes any complete answer for a good one; fewer bytes than the bodies alone
            would have are errors too (kind `short`, in answers).

    Raises:
        ValueError: there is no such report, or it has no requests.
    """
    found = [line for line in output.splitlines() if line.startswith("{")]
    if len(found) != 1:
        raise ValueError("wrk gave no report")
    report = json.loads(found[0])
    requests = int(report["requests"])
    if not requests:
        raise ValueError("not one request was answered")
    errors = {kind: int(count) for kind, count in report["errors"].items() if count}
    missing = requests * body_bytes - int(report["bytes"])
    if missing > 0 and not errors:
        errors["short"] = -(-missing // body_bytes)
    return Load(requests, int(report["microseconds"]) / 1e6, errors)
