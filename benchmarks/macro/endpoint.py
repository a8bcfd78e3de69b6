"""Somebody's own endpoint under load: how much it takes, and how long at a fixed rate. Its CPU is not ours to see."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.load import run
from benchmarks.load.plans import Requests
from benchmarks.load.target import Request, Trust, parse_target
from benchmarks.macro import figures, wrk
from benchmarks.macro.figures import summary
from benchmarks.macro.report import Section, between
from benchmarks.macro.sample import LATE, PERCENTILES, Sample, Unit, throughput

_FULL: Final = throughput(Unit.REQUEST)
_FIGURES: Final = (_FULL, *PERCENTILES)


@dataclass(frozen=True, slots=True)
class Asked:
    """What to measure of a URL: `rounds` times, `seconds` long: as much as it takes, and `rate` requests a second."""

    url: str
    rate: float
    connections: int
    rounds: int
    seconds: int
    verify: bool = True
    request: Request = field(default_factory=Request)


def measure(asked: Asked, say: Callable[[str], None]) -> tuple[Section, bool]:
    """What was found, and whether there were errors.

    Raises:
        MeshError: it is no URL, nobody listens there, or wrk is not installed.
    """
    seen = []
    with tempfile.TemporaryDirectory(prefix="pymesh-bench-") as folder:
        for number in range(1, asked.rounds + 1):
            seen.append(_round(asked, Path(folder)))
            told = zip(_FIGURES, _row(seen[-1:]), strict=True)
            say(f"round {number}: {', '.join(f'{each.title} {value}' for each, value in told)}")
    return _section(asked, seen), any(one.errors for one in seen)


def _round(asked: Asked, folder: Path) -> Sample:
    target = parse_target(asked.url)
    plan = Requests(target, asked.rate, asked.connections, asked.seconds, asked.request, Trust(verify=asked.verify))
    found = run.latencies(plan)  # first, since it verifies certificates, and wrk does not
    full = wrk.load(target, asked.request.encode(target), asked.connections, asked.seconds, folder)
    late = {} if found.kept_schedule else {LATE: found.late.quantile(0.99) / 1e6}
    saturated = Sample(full.requests, full.seconds, errors=full.errors)
    return saturated + Sample(errors=dict(found.errors), latencies=found.histogram, most=late)


def _section(asked: Asked, seen: list[Sample]) -> Section:
    all_rounds = sum(seen, Sample())
    behind = [f"errors: {figures.counted(all_rounds.errors) or 'none'}"]
    taken = all_rounds.units / all_rounds.seconds
    if taken < asked.rate:
        behind.append(
            f"it takes {taken:,.0f} requests a second: at {asked.rate:g} they wait for one another, and the latencies "
            f"are those of a queue that grows; ask for a lower --rate"
        )
    if any(LATE in one.most for one in seen):
        behind.append("the load generator was late: latencies are partly its own")
    how = f"{asked.connections} connections, {asked.rounds} x {asked.seconds} s: median (least-most)"
    before = [f"as much as it takes, and at {asked.rate:g} requests a second; {how}"]
    return Section(asked.url, before, [[[each.title for each in _FIGURES], _row(seen)]], behind)


def _row(seen: list[Sample]) -> list[str]:
    """The figures as text; of latencies there are none where nothing was answered."""
    answered = [one for one in seen if one.latencies.count]
    full = between(summary([_FULL.of(one) for one in seen]), _FULL.digits)
    at_rate = [between(summary([p.of(one) for one in answered]), p.digits) if answered else "-" for p in PERCENTILES]
    return [full, *at_rate]
