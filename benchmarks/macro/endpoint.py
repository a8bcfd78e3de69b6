"""Somebody's own endpoint under load: how much it takes, and how long at a fixed rate. Its CPU is not ours to see."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.load import run
from benchmarks.load.plans import Requests
from benchmarks.load.target import Request, Trust, parse_target
from benchmarks.macro import figures, wrk
from benchmarks.macro.figures import summary
from benchmarks.macro.report import Section, between
from benchmarks.macro.sample import LATE, PERCENTILES, Sample, Unit, throughput

_REQUEST: Final = Request()
_FIGURES: Final = (throughput(Unit.REQUEST), *PERCENTILES)


@dataclass(frozen=True, slots=True)
class Asked:
    """What to measure of a URL: `rounds` times, `seconds` long each, as much as it takes and then `rate` a second."""

    url: str
    rate: float
    connections: int
    rounds: int
    seconds: int
    verify: bool = True


def measure(asked: Asked, say: Callable[[str], None]) -> tuple[Section, bool]:
    """What was found, and whether there were errors.

    Raises:
        MeshError: it is no URL, nobody listens there, or wrk is not installed.
    """
    seen = []
    with tempfile.TemporaryDirectory(prefix="pymesh-bench-") as folder:
        for number in range(1, asked.rounds + 1):
            seen.append(_round(asked, Path(folder)))
            say(f"round {number}: {', '.join(f'{each.title} {each.text(each.of(seen[-1]))}' for each in _FIGURES)}")
    return _section(asked, seen), any(one.errors for one in seen)


def _round(asked: Asked, folder: Path) -> Sample:
    target = parse_target(asked.url)
    plan = Requests(target, asked.rate, asked.connections, asked.seconds, _REQUEST, Trust(verify=asked.verify))
    found = run.latencies(plan)  # first, since it verifies certificates, and wrk does not
    full = wrk.load(target, _REQUEST.encode(target), asked.connections, asked.seconds, folder)
    late = {} if found.kept_schedule else {LATE: found.late.quantile(0.99) / 1e6}
    saturated = Sample(full.requests, full.seconds, errors=full.errors)
    return saturated + Sample(errors=dict(found.errors), latencies=found.histogram, most=late)


def _section(asked: Asked, seen: list[Sample]) -> Section:
    found = [between(summary([each.of(one) for one in seen]), each.digits) for each in _FIGURES]
    errors = figures.counted(sum(seen, Sample()).errors)
    behind = [f"errors: {errors or 'none'}"]
    if any(LATE in one.most for one in seen):
        behind.append("the load generator was late: latencies are partly its own")
    how = f"{asked.connections} connections, {asked.rounds} x {asked.seconds} s: median (least-most)"
    before = [f"as much as it takes, and at {asked.rate:g} requests a second; {how}"]
    return Section(asked.url, before, [[[each.title for each in _FIGURES], found]], behind)
