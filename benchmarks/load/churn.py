"""Connections that live for one request: so many at a time, each replaced by a new one when it has its answer."""

import asyncio
import resource
import time

from benchmarks.load.exchange import Dialler
from benchmarks.load.failures import FailedError, Failures, judge
from benchmarks.load.histogram import Histogram
from benchmarks.load.plans import Churn
from benchmarks.load.results import Churned


async def measure(plan: Churn) -> Churned:
    """Make connections for the time of the plan; those that are then under way are finished, and count.

    Raises:
        MeshError: the plan cannot be carried out.
    """
    run = _Run(plan)
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(plan.connections):
            group.create_task(run.one_after_the_other(began + plan.seconds))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Churned(
        target=str(plan.target),
        connections=plan.connections,
        seconds=time.monotonic() - began,
        histogram=run.histogram,
        resumed=run.resumed,
        errors=dict(run.failures.counts),
        examples=run.failures.examples,
        cpu_seconds=used.ru_utime + used.ru_stime,
    )


class _Run:
    def __init__(self, plan: Churn) -> None:
        self._plan = plan
        self._dialler = Dialler(plan.target, plan.request, plan.trust, close=True, resume=plan.resume)
        self.histogram = Histogram()
        self.resumed = 0
        self.failures = Failures()

    async def one_after_the_other(self, end: float) -> None:
        """New connections until `end`, by `time.monotonic()`."""
        while time.monotonic() < end:
            try:
                async with asyncio.timeout(self._plan.timeout):
                    await self._one()
            except FailedError as error:
                self.failures.add(error)
            except TimeoutError:
                self.failures.add(FailedError("timeout", f"no end within {self._plan.timeout:g} s"))

    async def _one(self) -> None:
        begun = time.monotonic_ns()
        exchange = await self._dialler.dial()
        try:
            answer = await exchange.answer
            took = time.monotonic_ns() - begun
            if error := judge(answer, self._plan.body_bytes):
                raise error
            self.resumed += self._dialler.answered(exchange)
            self.histogram.record(took)
            exchange.transport.close()
            await exchange.lost
        finally:
            exchange.transport.abort()
