"""Connections as load: made anew for every request, or kept and idle."""

import time
from typing import Final

from benchmarks.load import run
from benchmarks.load.plans import Churn, Idle
from benchmarks.load.target import Trust
from benchmarks.macro.accounting import accounted
from benchmarks.macro.running import settled_memory
from benchmarks.macro.sample import Sample, largest
from benchmarks.macro.scenario import Contender, Instrument, Turn

_CONNECTED: Final = "rss_connected_bytes"
_DISCONNECTED: Final = "rss_disconnected_bytes"
# What `idle` sees of memory, in megabytes: while the connections are there, and when they are gone.
MEMORY: Final = (
    largest(_CONNECTED, "RSS with them, MB", scale=1e-6),
    largest(_DISCONNECTED, "RSS after, MB", scale=1e-6),
)
# Seconds after the last of the connections has gone in which a proxy may give back what they had.
_CLOSED: Final = 1.0


def churn(connections: int, *, resume: bool = False) -> Instrument:
    """A connection for every request, so many at a time; with `resume`, TLS sessions are taken up again."""

    def instrument(turn: Turn) -> Sample:
        scenario = turn.scenario
        plan = Churn(
            turn.target,
            connections,
            turn.seconds,
            scenario.request,
            Trust(verify=False),  # certificates are ours, and of this run
            body_bytes=scenario.body_bytes,
            resume=resume,
        )
        with accounted(turn) as used:
            found = run.churned(plan, turn.cores.load)
        made = found.histogram.count
        errors = dict(found.errors)
        if resume and found.resumed < made // 2:
            errors["not resumed"] = made - found.resumed
        return Sample(made, found.seconds, used.cpu, used.load_cpu, errors)

    return instrument


def idle(connections: int) -> Instrument:
    """So many connections, with one request each, that then stay open and silent: what they cost by being there."""

    def instrument(turn: Turn) -> Sample:
        scenario = turn.scenario
        plan = Idle(turn.target, connections, scenario.request, Trust(verify=False), body_bytes=scenario.body_bytes)
        begun = time.monotonic()
        with accounted(turn) as used, run.held(plan, turn.cores.load) as ended:
            seconds = time.monotonic() - begun
            connected = _memory(turn.contender)
            there = ended()
        time.sleep(_CLOSED)
        lost = {"lost": connections - there.there} if there.there < connections else {}
        memory = {_CONNECTED: connected, _DISCONNECTED: _memory(turn.contender)}
        return Sample(connections, seconds, used.cpu, used.load_cpu, lost, most=memory)

    return instrument


def _memory(contender: Contender) -> float:
    return float(sum(settled_memory(contender.pids.values()).values()))
