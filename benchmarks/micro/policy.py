"""What the policy filter costs a request, in Python alone: with a slot that is held, and where there is none.

    python -m benchmarks.micro.policy [--rules N]

As `request_path`: real connection, exchange, pool and filter, with transports that do nothing, and a policy service
that has granted what there is. Prints microseconds of CPU per request, the best of several rounds taken in turn.
"""

import argparse
import asyncio
from time import process_time
from typing import Any

import uvloop

from benchmarks.micro.request_path import REQUEST, RESPONSE, prepare
from pymesh.policy_api import FILTER, Grant
from pymesh_proxy.connection import DownstreamConnection
from pymesh_proxy.control.services import FilterServices
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.filters.policy import PolicyFilter, PolicySettings
from pymesh_proxy.filters.slots import SlotSettings
from pymesh_proxy.filters.waiting import Mode
from pymesh_proxy.telemetry.filter_metrics import FilterMetrics
from pymesh_proxy.upstream.connection import UpstreamConnection

LIMIT = 100
REQUESTS = 20_000
ROUNDS = 7


class Nowhere:
    """A proxy around the services that nothing is asked of: every answer is there."""

    loop: Any = None
    snapshot: Any = None
    upstreams: Any = None

    def spawn(self, work: Any) -> Any:
        """See control.leases.Host: no stream is opened, since no configuration comes into force."""
        raise AssertionError(work)


def policy(rules: int, slots: int) -> HttpFilter:
    """A policy filter with so many rules, of each of which so many slots are granted."""
    names = [f"ConcurrencyLimit bookinfo/reviews-{number}" for number in range(rules)]
    settings = tuple(SlotSettings(name, LIMIT, Mode.LAST_DECISION, Mode.CLOSED) for name in names)
    found = PolicyFilter(PolicySettings("policy", 0.2, settings))
    services = FilterServices(Nowhere(), FilterMetrics())
    found.connect(services)
    for rule in services.policies["policy"].leases.rules.values():
        rule.report(0.0)
        rule.answer(Grant(rule.name, slots, LIMIT), in_time=True)
        rule.full = not slots
    return HttpFilter(FILTER, found.on_request, on_complete=found.on_complete)


def requests(downstream: DownstreamConnection, upstream: UpstreamConnection, count: int, *, answered: bool) -> float:
    """CPU in microseconds per request; `answered` by the upstream, if it gets there."""
    begun = process_time()
    for _ in range(count):
        downstream.data_received(REQUEST)
        if answered:
            upstream.data_received(RESPONSE)
    return (process_time() - begun) / count * 1e6


async def main(rules: int) -> None:
    """Run the rounds."""
    cases = {
        "no filter": (await prepare((), None), True),
        f"slots held, {rules} rule(s)": (await prepare((), None, (policy(rules, LIMIT),)), True),
        "limit reached, 429": (await prepare((), None, (policy(1, 0),)), False),
    }
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(ROUNDS):
        for name, (ends, answered) in cases.items():
            best[name] = min(best[name], requests(*ends, REQUESTS, answered=answered))
            await asyncio.sleep(0)
    for name, cost in best.items():
        print(f"{cost:6.1f} us  {name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rules", type=int, default=1)
    uvloop.run(main(parser.parse_args().rules))
