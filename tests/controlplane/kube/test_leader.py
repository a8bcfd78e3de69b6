"""Several replicas and one Lease: never two that lead, soon one again; in virtual time, and on the double's Lease."""

import asyncio
import random
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh_controlplane.kube.asking import CONFLICT, KubernetesError
from pymesh_controlplane.kube.client import connect
from pymesh_controlplane.kube.election import DURATION, RENEW_DEADLINE, RETRY_PERIOD, Record
from pymesh_controlplane.kube.leader import Leader, LeaseLock
from pymesh_controlplane.metrics import Metrics
from tests.support import virtual_time
from tests.support.kubernetes.server import ApiServer
from tests.support.waiting import eventually

EPOCH = datetime(2026, 11, 23, tzinfo=UTC)
# Of a run, seconds: trouble until here, then quiet.
TROUBLE, QUIET = 120.0, 60.0


@dataclass
class Shelf:
    """Where the Lease is."""

    record: Record | None = None
    version: int = 0


@dataclass
class FarLock:
    """The Lease as one replica reaches it: late, for a while not at all, and sometimes without hearing that it did."""

    shelf: Shelf
    dice: random.Random
    loss: float
    delay: float
    dead: bool = False
    away_until: float = 0.0

    async def read(self) -> tuple[Record, str] | None:
        await self._travel()
        found = (self.shelf.record, str(self.shelf.version)) if self.shelf.record else None
        await self._travel()
        return found

    async def write(self, record: Record, version: str) -> None:
        await self._travel()
        if version != (str(self.shelf.version) if self.shelf.record else ""):
            raise KubernetesError("it has changed", CONFLICT)
        self.shelf.record, self.shelf.version = record, self.shelf.version + 1
        await self._travel()

    async def _travel(self) -> None:
        now = asyncio.get_running_loop().time()
        quiet = now > TROUBLE
        if not quiet and self.dice.random() < self.loss / 10:
            self.away_until = min(now + self.dice.uniform(0, 40), TROUBLE)
        await asyncio.sleep(self.dice.random() * (0.05 if quiet else self.delay))
        if self.dead or now < self.away_until or (not quiet and self.dice.random() < self.loss / 4):
            raise KubernetesError("lost on the way")


@dataclass
class Witness:
    """Sees who works."""

    dice: random.Random
    working: set[str] = field(default_factory=set)
    most: int = 0
    terms: int = 0

    async def work(self, name: str) -> None:
        """Work until cancelled; and to stop may take most of what is left of the Lease."""
        self.working.add(name)
        self.terms += 1
        self.most = max(self.most, len(self.working))
        try:
            await asyncio.Event().wait()
        finally:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(self.dice.random() * (DURATION - RENEW_DEADLINE - 0.1))
            self.working.discard(name)


async def _replica(name: str, lock: FarLock, witness: Witness, dice: random.Random) -> None:
    """Runs; is sometimes killed (what it holds stays its own), and sometimes ends properly; and comes back."""
    loop = asyncio.get_running_loop()
    skew = timedelta(seconds=dice.uniform(-3600, 3600))
    life = 0
    while loop.time() < TROUBLE + QUIET:
        life += 1
        identity = f"{name}-{life}"

        def work(identity: str = identity) -> Coroutine[None, None, None]:
            return witness.work(identity)

        clock = lambda: EPOCH + skew + timedelta(seconds=loop.time())  # noqa: E731  one expression, used once
        leader = Leader(lock, identity, Metrics(), time_of_day=clock, rng=dice)
        task = loop.create_task(leader.run(work))
        ends = TROUBLE + QUIET if loop.time() >= TROUBLE else min(loop.time() + dice.uniform(1, 60), TROUBLE)
        await asyncio.sleep(ends - loop.time())
        lock.dead = dice.random() < 0.5
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        lock.dead = False


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.floats(0, 1), delay=st.floats(0, 2))
def test_there_are_never_two_and_soon_one_again(seed: int, loss: float, delay: float) -> None:
    """Clocks that differ by an hour, answers late or lost, replicas killed: two never work at once."""
    dice = random.Random(seed)

    async def mesh() -> Witness:
        shelf, witness = Shelf(), Witness(dice)
        names = ("a", "b", "c")
        tasks = [
            asyncio.get_running_loop().create_task(_replica(name, FarLock(shelf, dice, loss, delay), witness, dice))
            for name in names
        ]
        await asyncio.sleep(TROUBLE + QUIET - 1)
        assert len(witness.working) == 1, "nobody leads after a minute of quiet"
        await asyncio.gather(*tasks)
        return witness

    witness = virtual_time.run(mesh())
    assert witness.most == 1
    assert witness.terms >= 1


def test_who_cannot_renew_stops_before_the_lease_has_run_out() -> None:
    """And says so."""

    async def scenario() -> tuple[float, Metrics]:
        loop, metrics = asyncio.get_running_loop(), Metrics()
        lock = FarLock(Shelf(), random.Random(0), 0, 0)
        stopped = loop.create_future()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set_result(loop.time())

        leader = Leader(lock, "a", metrics, time_of_day=lambda: EPOCH)
        task = loop.create_task(leader.run(work))
        await asyncio.sleep(20)
        assert leader.leading
        cut_at = loop.time()
        lock.dead = True
        lasted = await stopped - cut_at
        await asyncio.sleep(0.001)
        assert not leader.leading
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return lasted, metrics

    lasted, metrics = virtual_time.run(scenario())
    assert lasted <= RENEW_DEADLINE
    assert metrics.counted("controlplane_leader_errors") >= 3


def test_who_sees_that_another_one_holds_the_lease_stops_at_once() -> None:
    """Somebody has written into it."""

    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        shelf = Shelf()
        witness = Witness(random.Random(0))
        lock = FarLock(shelf, random.Random(0), 0, 0)
        task = loop.create_task(Leader(lock, "a", Metrics(), time_of_day=lambda: EPOCH).run(lambda: witness.work("a")))
        await asyncio.sleep(5)
        assert shelf.record is not None
        assert witness.working == {"a"}
        shelf.record, shelf.version = shelf.record._replace(holder="b"), shelf.version + 1
        taken_at = loop.time()
        while witness.working:
            await asyncio.sleep(0.1)
        lasted = loop.time() - taken_at
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return lasted

    assert virtual_time.run(scenario()) < RENEW_DEADLINE - RETRY_PERIOD


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


async def test_on_a_real_lease_the_next_takes_over_at_once_when_it_is_given_back(api: ApiServer) -> None:
    """And the Lease says who holds it, as `kubectl get lease` shows."""
    client, metrics = connect(api.kubeconfig()), Metrics()
    witness = Witness(random.Random(0))
    witness.dice.random = lambda: 0.0  # type: ignore[method-assign]  # stops at once
    locks = [LeaseLock(client, "default", "lead") for _ in range(2)]
    leaders = {
        name: Leader(lock, name, metrics, time_of_day=lambda: datetime.now(UTC))
        for name, lock in zip("ab", locks, strict=True)
    }
    tasks = {
        name: asyncio.get_running_loop().create_task(leaders[name].run(lambda n=name: witness.work(n)))
        for name in leaders
    }
    try:
        await eventually(lambda: len(witness.working) == 1)
        (first,) = witness.working
        [lease] = api.objects("coordination.k8s.io", "leases", "default")
        assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseDurationSeconds"]) == (first, DURATION)
        tasks[first].cancel()
        await eventually(lambda: witness.working == set("ab") - {first})
        [lease] = api.objects("coordination.k8s.io", "leases", "default")
        assert lease["spec"]["leaseTransitions"] == 1
        assert witness.most == 1
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        await client.close()
    [lease] = api.objects("coordination.k8s.io", "leases", "default")
    assert lease["spec"].get("holderIdentity", "") == ""
