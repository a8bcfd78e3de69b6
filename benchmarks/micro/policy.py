"""What the policy filter costs a request, in Python alone: with a slot that is held, where there is none, and with an
answer that is remembered.

    python -m benchmarks.micro.policy [--rules N]

As `request_path`: real connection, exchange, pool and filter, with transports that do nothing, and a policy service
that has granted what there is. Prints microseconds of CPU per request, the best of several rounds taken in turn.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass
from time import process_time
from typing import Any

import uvloop

from benchmarks.micro.request_path import REQUEST, RESPONSE, prepare
from pymesh.policy_api import FILTER, Grant
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import parse_request
from pymesh_proxy.connection import DownstreamConnection
from pymesh_proxy.control.services import FilterServices
from pymesh_proxy.filters.authz import Answer, Memory, Ours
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.filters.policy import CheckSettings, PolicyFilter, PolicySettings
from pymesh_proxy.filters.remembered import attributes_of
from pymesh_proxy.filters.slots import SlotSettings
from pymesh_proxy.filters.standing import Mode
from pymesh_proxy.routing import Route
from pymesh_proxy.telemetry.filter_metrics import FilterMetrics
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.upstream.connection import UpstreamConnection

LIMIT = 100
CHECK = "Check bookinfo/bearers"
BY = ("request.headers[authorization]",)
REQUESTS = 20_000
ROUNDS = 7


class Nowhere:
    """A proxy around the services that nothing is asked of: every answer is there."""

    snapshot: Any = None
    upstreams: Any = None

    def __init__(self) -> None:
        self.loop: Any = asyncio.get_running_loop()

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
        rule.answer(Grant(rule.name, slots, LIMIT), now=0.0, in_time=True)
        rule.waiting.exhausted = not slots
    return HttpFilter(FILTER, found.on_request, on_complete=found.on_complete)


@dataclass
class Asked:
    """The request that the answer was about: see filters.base.RequestContext."""

    request: Head
    record: RequestRecord
    route: Route | None = None
    client: str = ""


def remembering() -> HttpFilter:
    """A policy filter with a check whose answer is remembered."""
    by = attributes_of(BY)
    rule = CheckSettings(CHECK, Mode.CLOSED, Mode.CLOSED, by, remembered=True)
    found = PolicyFilter(PolicySettings("policy", 0.2, (rule,)))
    services = FilterServices(Nowhere(), FilterMetrics())
    found.connect(services)
    parsed = parse_request(REQUEST, 60_000, 100)
    assert parsed is not None
    asked = Asked(parsed[0], RequestRecord(Facts("inbound", "10.0.0.1:1", "10.0.0.2:2"), 0.0, 0.0, parsed[0]))
    client = services.policies["policy"]
    answer = Answer(True, ours=Ours(memories={CHECK: Memory(3600.0, sys.maxsize, BY)}))
    client.remembered.put(CHECK, by, ("",), answer, context=asked, now=client.clock())
    return HttpFilter(FILTER, found.on_request)  # as config.policy_filter has it: no request holds anything


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
        "an answer remembered": (await prepare((), None, (remembering(),)), True),
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
