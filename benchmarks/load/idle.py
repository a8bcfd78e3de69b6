"""Connections that are opened, used once, and then kept: what they cost by being there."""

import asyncio
from collections.abc import Awaitable, Callable

from benchmarks.load.exchange import Dialler, Exchange
from benchmarks.load.failures import FailedError, Failures, judge
from benchmarks.load.plans import Idle
from benchmarks.load.results import Held

# Connections that are being made at a time: a listener's backlog is short.
_AT_A_TIME = 50


async def hold(plan: Idle, report: Callable[[Held], None], until: Callable[[], Awaitable[None]]) -> None:
    """Open them all, report, wait, and report again how many are still there; then close them.

    Raises:
        MeshError: the plan cannot be carried out.
    """
    dialler = Dialler(plan.target, plan.request, plan.trust, close=False)
    failures = Failures()
    exchanges: list[Exchange] = []
    waiting = iter(range(plan.connections))

    async def open_some() -> None:
        for _ in waiting:
            try:
                async with asyncio.timeout(plan.timeout):
                    exchanges.append(exchange := await dialler.dial())
                    if error := judge(await exchange.answer, plan.body_bytes):
                        raise error
            except FailedError as error:
                failures.add(error)
            except TimeoutError:
                failures.add(FailedError("timeout", f"no answer within {plan.timeout:g} s"))

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_A_TIME):
            group.create_task(open_some())
    try:
        report(_count(plan, exchanges, failures))
        await until()
        report(_count(plan, exchanges, failures))
    finally:
        for exchange in exchanges:
            exchange.transport.abort()


def _count(plan: Idle, exchanges: list[Exchange], failures: Failures) -> Held:
    there = sum(not exchange.lost.done() for exchange in exchanges)
    return Held(str(plan.target), plan.connections, there, dict(failures.counts), dict(failures.examples))
