"""Saturating load: wrk, which sends the next request of each connection when the answer to the last one is there."""

import json
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Final

from benchmarks.load.target import Target
from benchmarks.macro.accounting import accounted
from benchmarks.macro.proxies import WRK
from benchmarks.macro.running import on_cores
from benchmarks.macro.sample import Sample, Unit
from benchmarks.macro.scenario import SESSION, Instrument, Turn
from pymesh.errors import MeshError

_SCRIPT: Final = Path(__file__).with_name("wrk.lua")
# Requests that differ, each in its session: no request is like the one before on its connection.
_VARIANTS: Final = 61
# Seconds that wrk has to end by itself.
_GRACE: Final = 30.0
_GIGABYTE: Final = 1e9


@dataclass(frozen=True, slots=True)
class Report:
    """One run of wrk. `errors` has only the kinds that happened: connect, read, write, status, timeout, short."""

    requests: int
    seconds: float
    bytes: int
    errors: dict[str, int]

    def count(self, unit: Unit) -> float:
        """How many of a unit there were; where the unit is the connection, each request had its own."""
        return self.bytes / _GIGABYTE if unit is Unit.GIGABYTE else self.requests


def saturate(connections: int, *, close: bool = False) -> Instrument:
    """Keep so many connections busy; with `close`, each is replaced by a new one after its first answer."""

    def instrument(turn: Turn) -> Sample:
        scenario = turn.scenario
        request = scenario.request.encode(turn.target, close=close)
        try:
            with accounted(turn) as used, on_cores(turn.cores.load):
                report = load(
                    turn.target, request, connections, turn.seconds, turn.folder, body_bytes=scenario.body_bytes
                )
        except MeshError as error:
            raise MeshError(f"{turn.contender.name} under load: {error}\n{turn.contender.said()}") from error
        return Sample(report.count(scenario.unit), report.seconds, used.cpu, used.load_cpu, report.errors)

    return instrument


def load(
    target: Target, request: bytes, connections: int, seconds: int, folder: Path, *, body_bytes: int = 0
) -> Report:
    """Run wrk. `folder` is one to write to, `body_bytes` the least that every answer has.

    Raises:
        MeshError: it is not installed, or there is nothing to report.
    """
    script = folder / "wrk.lua"
    requests = ", ".join(f'"{quoted(variant)}"' for variant in variants(request))
    script.write_text(Template(_SCRIPT.read_text()).substitute(REQUESTS=requests))
    line = command(WRK.require(), target, connections, seconds, script)
    try:
        ended = subprocess.run(line, capture_output=True, text=True, check=False, timeout=seconds + _GRACE)
    except subprocess.TimeoutExpired as error:
        raise MeshError(f"wrk did not end within {error.timeout:g} s") from error
    try:
        return parse(ended.stdout, body_bytes)
    except ValueError as error:
        raise MeshError(f"{error}: {ended.stderr or ended.stdout}".strip()) from error


def command(wrk: str, target: Target, connections: int, seconds: int, script: Path) -> list[str]:
    """The command line of one thread."""
    return [wrk, "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", str(script), str(target)]


def variants(request: bytes) -> list[bytes]:
    """The request with a session of its own each time, of the same length; the request alone if it has none."""
    session = SESSION.encode()
    if session not in request:
        return [request]
    return [request.replace(session, sha256(b"%d" % number).hexdigest()[: len(session)].encode())
            for number in range(_VARIANTS)]  # fmt: skip


def quoted(data: bytes) -> str:
    """The inside of a Lua string in double quotes."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03d}" for byte in data)


def parse(output: str, body_bytes: int) -> Report:
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
    return Report(requests, int(report["microseconds"]) / 1e6, int(report["bytes"]), errors)
