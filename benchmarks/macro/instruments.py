"""What puts load on a contender, by our own load generator (`benchmarks.load`); wrk is in `wrk.py`."""

from functools import reduce
from operator import add
from typing import Final

from benchmarks.load import run
from benchmarks.load.plans import Requests
from benchmarks.load.target import Trust
from benchmarks.macro.sample import LATE, Sample
from benchmarks.macro.scenario import Instrument, Turn

# Seconds of requests before those that count: connections are made, and Python's caches filled.
_WARM_UP: Final = 0.5


def both(*instruments: Instrument) -> Instrument:
    """One after the other, as one turn."""
    return lambda turn: reduce(add, (instrument(turn) for instrument in instruments))


def at_rate(rate: float, connections: int) -> Instrument:
    """So many requests a second, whatever the answers do; each is timed from when it was due."""

    def instrument(turn: Turn) -> Sample:
        scenario = turn.scenario
        plan = Requests(
            turn.target,
            rate,
            connections,
            turn.seconds,
            scenario.request,
            Trust(verify=False),  # certificates are ours, and of this run
            warm_up=_WARM_UP,
            body_bytes=scenario.body_bytes,
        )
        found = run.latencies(plan, turn.cores.load)
        late = {} if found.kept_schedule else {LATE: found.late.quantile(0.99) / 1e6}
        return Sample(errors=dict(found.errors), latencies=found.histogram, most=late)

    return instrument
