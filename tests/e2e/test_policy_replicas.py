"""Twenty sidecars, three replicas of the policy service, one Redis: real processes, and the proxies' own client code.

The sidecars are whole proxies in the test's process, each with an identity and streams of its own; their filters' rules
are asked as the filter asks them, by requests without a network below, so that it is the counting that is tested.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import grpc.aio
import pytest

from pymesh import policy_api
from pymesh.policy_api import WHOLE_SHARE, Demand, LeaseRequest
from pymesh_controlplane.policy.store import LEASE, SETTLE
from pymesh_proxy.filters.rates import RateRule
from pymesh_proxy.filters.slots import SlotRule
from pymesh_proxy.filters.waiting import Refusal
from tests.controlplane.pilot.worlds import pod, service
from tests.proxy.control.lease_site import ROUTER, policy, slots
from tests.proxy.filters.test_slots import request
from tests.support.inprocess import Running, bootstrap, cluster, http_listener, route, running
from tests.support.proxy_process import free_port
from tests.support.redis_server import listens, redis_server
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.mesh]

SLOTS, RATE = "ConcurrencyLimit default/web", "RateLimit default/web"
MOST, PER_SECOND = 30, 300
SIDECARS = 20
# Seconds, for answers of the service: this is about counts, and the machine of the test may be busy.
WAIT = 2.0
LIMITS = f"""
---
apiVersion: policy.pymesh.io/v1alpha1
kind: ConcurrencyLimit
metadata: {{name: web, namespace: default}}
spec: {{targetRefs: [{{name: web}}], max: {MOST}}}
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {{name: web, namespace: default}}
spec: {{targetRefs: [{{name: web}}], requests: {PER_SECOND}, per: Second}}
"""
RATE_RULE = {
    "name": RATE, "kind": "rate", "requests": PER_SECOND, "period": "1s", "burst": PER_SECOND,
    "failure_mode": "LAST_DECISION", "otherwise": "CLOSED",
}  # fmt: skip


def world() -> str:
    pods = [pod(f"web-{number}", f"10.244.1.{number}", "web") for number in range(SIDECARS + 1)]
    return "---\n".join([service("web"), *pods]) + LIMITS


def node(number: int) -> str:
    return f"sidecar~10.244.1.{number}~web-{number}.default~default.svc.cluster.local"


@dataclass
class Replica:
    """A process of the policy service."""

    port: int
    process: "subprocess.Popen[bytes]"


@dataclass
class Crowd:
    """What the sidecars together let in.

    Attributes:
        inside: requests in the apps; `most` at once, ever.
        let_in, refused: how many, by sidecar.
        odd: anything else that became of one.
    """

    inside: int = 0
    most: int = 0
    let_in: list[int] = field(default_factory=lambda: [0] * SIDECARS)
    refused: list[int] = field(default_factory=lambda: [0] * SIDECARS)
    odd: list[object] = field(default_factory=list)


@dataclass
class Site:
    replicas: list[Replica]
    sidecars: list[Running]
    redis: "subprocess.Popen[bytes]"
    redis_port: int

    def slot(self, number: int) -> SlotRule:
        found = self._rule(number, SLOTS)
        assert isinstance(found, SlotRule)
        return found

    def rate(self, number: int) -> RateRule:
        found = self._rule(number, RATE)
        assert isinstance(found, RateRule)
        return found

    def _rule(self, number: int, name: str) -> SlotRule | RateRule:
        [client] = self.sidecars[number].proxy.services.policies.values()
        return client.leases.rules[name]

    async def admit(self, number: int, rule: SlotRule | RateRule) -> Callable[[], None] | Refusal:
        """What the filter does: what ends the request, or why it is refused."""
        [client] = self.sidecars[number].proxy.services.policies.values()
        record = request()
        record.t_start = client.clock()
        if rule.take(record):
            return lambda: rule.release(record)
        refusal = rule.waiting.refusal() or await client.wait(rule, record, WAIT)
        return refusal or (lambda: rule.release(record))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("replicas")
    (made / "world.yaml").write_text(world())
    return made


@asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        redis_port, redis = stack.enter_context(redis_server(directory))
        replicas = []
        for _ in range(3):
            port = free_port()
            command = [sys.executable, "-m", "tests.support.policy_replica", str(directory / "world.yaml")]
            process = stack.enter_context(subprocess.Popen([*command, str(port), f"redis://127.0.0.1:{redis_port}"]))
            stack.callback(process.kill)
            replicas.append(Replica(port, process))
        for replica in replicas:
            await eventually(lambda port=replica.port: listens(port), what="a replica listens", timeout=30)
        sidecars = []
        for number in range(SIDECARS):
            endpoints = [("127.0.0.1", replicas[(number + turn) % 3].port) for turn in range(3)]
            filters = [policy(slots(SLOTS, most=MOST), RATE_RULE, timeout=f"{WAIT:g}s")]
            text = bootstrap(
                [http_listener([route("policy")], http_filters=[*filters, ROUTER])], [cluster("policy", *endpoints)]
            )
            sidecar = await stack.enter_async_context(running(text, settle=False))
            sidecar.proxy.services.node = node(number)
            sidecars.append(sidecar)
        found = Site(replicas, sidecars, redis, redis_port)
        await eventually(lambda: all(known(found, number) for number in range(SIDECARS)), what="grants", timeout=20)
        yield found


def known(at: Site, number: int) -> bool:
    return not at.slot(number).standing.down and at.slot(number).standing.granted and at.rate(number).standing.granted


async def busy(at: Site, crowd: Crowd, over: asyncio.Event, number: int) -> None:
    """A client that asks again and again; the first sidecars have the most of them."""
    while not over.is_set():
        outcome = await at.admit(number, at.slot(number))
        if isinstance(outcome, Refusal):
            crowd.refused[number] += 1
            if outcome is not Refusal.LIMIT:
                crowd.odd.append(outcome)
            await asyncio.sleep(0.02)
            continue
        crowd.let_in[number] += 1
        crowd.inside += 1
        crowd.most = max(crowd.most, crowd.inside)
        await asyncio.sleep(0.03)
        crowd.inside -= 1
        outcome()


async def test_twenty_sidecars_and_three_replicas_keep_the_limits_whatever_dies(directory: Path) -> None:
    """In one go, since what takes time is to start."""
    async with site(directory) as at:
        await an_uneven_load_gets_all_of_a_rate_while_a_sidecar_vanishes(at)
        await never_more_at_once_than_the_limit_and_all_of_it(at)
        await without_redis_what_was_granted_goes_on(at, directory)


async def an_uneven_load_gets_all_of_a_rate_while_a_sidecar_vanishes(at: Site) -> None:
    """Twice the rate is offered, half of it at one sidecar; another one has vanished with half of the slots."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{at.replicas[0].port}") as channel:
        await greedy(channel)
    over, let_in = asyncio.Event(), [0]

    async def ask(number: int) -> None:
        outcome = await at.admit(number, at.rate(number))
        let_in[0] += not isinstance(outcome, Refusal)

    async with asyncio.TaskGroup() as clients:
        try:
            for number in range(SIDECARS):
                per_second = PER_SECOND if number == 0 else PER_SECOND / (SIDECARS - 1)
                clients.create_task(offer(clients, ask, over, number, per_second))
            back = "the slots of the one that vanished are back: there is one for each"
            await eventually(lambda: granted(at) >= SIDECARS, what=back)
            await eventually(lambda: let_in[0] >= 2 * PER_SECOND, what="the burst is spent")
            begun, before = monotonic(), let_in[0]
            await asyncio.sleep(2 * LEASE)
            allowed, fair = let_in[0] - before, PER_SECOND * (monotonic() - begun)
            assert 0.95 * fair <= allowed <= 1.02 * fair
        finally:
            over.set()


async def offer(
    clients: asyncio.TaskGroup,
    ask: Callable[[int], Coroutine[None, None, None]],
    over: asyncio.Event,
    number: int,
    per_second: float,
) -> None:
    """Requests to one sidecar, by the clock, whatever becomes of them."""
    due = monotonic()
    while not over.is_set():
        due += 1 / per_second
        await asyncio.sleep(max(0.0, due - monotonic()))
        clients.create_task(ask(number))


def granted(at: Site) -> int:
    return sum(at.slot(number).usable for number in range(SIDECARS))


async def never_more_at_once_than_the_limit_and_all_of_it(at: Site) -> None:
    """60 clients want in; a replica is killed, and another stopped for longer than a lease."""
    crowd, over = Crowd(), asyncio.Event()
    async with asyncio.TaskGroup() as clients:
        try:
            for client in range(60):
                clients.create_task(busy(at, crowd, over, client % SIDECARS))
            await eventually(lambda: crowd.inside == MOST, what="all of the limit is used")
            at.replicas[0].process.kill()
            for _ in range(10):
                before = sum(crowd.let_in)
                what = "a killed replica holds nobody up"
                await eventually(lambda before=before: sum(crowd.let_in) > before, what=what)
            await eventually(lambda: crowd.inside == MOST, what="all of the limit is used by two replicas")
            at.replicas[1].process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(LEASE + 0.5)
            await eventually(lambda: crowd.inside == MOST, what="all of the limit is used by the one that is left")
            at.replicas[1].process.send_signal(signal.SIGCONT)
            await decides(at.replicas[1])
        finally:
            over.set()
    assert crowd.most == MOST, "nobody was ever let in beyond the limit"
    assert not crowd.odd, "and nobody was told that nobody counts"
    assert all(crowd.let_in), "everyone had a turn"


async def decides(replica: Replica) -> None:
    """A replica that was stopped is back at the store: some answers, since it looks at the clock after the first."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{replica.port}") as channel, asyncio.timeout(10):
        call = channel.stream_stream(policy_api.PATH)()
        seen, undecided = 0, True
        while seen <= 3 or undecided:
            demand = Demand(SLOTS, 0, 0, 0)
            await call.write(policy_api.encode_request(LeaseRequest(node(SIDECARS), (demand,), seen)))
            response = policy_api.decode_response(await call.read())
            seen, undecided = response.nonce, bool(response.grants[0].problem)
            await asyncio.sleep(0.1)  # it hears no more than so many reports a second
        call.cancel()


async def without_redis_what_was_granted_goes_on(at: Site, directory: Path) -> None:
    """Stopped for longer than a lease, then killed and started empty. A third of the rate comes, half of it at one."""
    crowd, over = Crowd(), asyncio.Event()
    asked, refused = [0], [0]

    async def ask(number: int) -> None:
        asked[0] += 1
        refused[0] += isinstance(await at.admit(number, at.rate(number)), Refusal)

    def stocks() -> int:
        return sum(at.rate(number).stock for number in range(SIDECARS))

    def nothing_lost() -> None:
        """But by who runs dry before it is known that nobody answers."""
        assert refused[0] <= 0.02 * asked[0]
        asked[0] = refused[0] = 0

    def down() -> list[bool]:
        return [rule.standing.down for number in range(SIDECARS) for rule in (at.slot(number), at.rate(number))]

    async with asyncio.TaskGroup() as clients:
        try:
            for client in range(60):
                clients.create_task(busy(at, crowd, over, client % SIDECARS))
            for number in range(SIDECARS):
                per_second = PER_SECOND / 6 if number == 0 else PER_SECOND / 6 / (SIDECARS - 1)
                clients.create_task(offer(clients, ask, over, number, per_second))
            await eventually(lambda: crowd.inside == MOST, what="all of the limit is used")
            await eventually(lambda: stocks() > PER_SECOND / 2, what="tokens in stock")
            asked[0] = refused[0] = 0
            at.redis.send_signal(signal.SIGSTOP)
            await eventually(lambda: all(down()), what="every rule's failure mode decides", timeout=20)
            assert "the store of counts is away" in at.slot(0).standing.problem
            shares = sum(at.rate(number)._share for number in range(SIDECARS))
            # About the whole of the rate: each replica has last heard of the others at another moment.
            assert 0.8 * WHOLE_SHARE <= shares <= 1.2 * WHOLE_SHARE
            await eventually(lambda: crowd.inside == MOST, what="the last grants are used")
            nothing_lost()
            at.redis.send_signal(signal.SIGCONT)
            # What replicas had when their leases lapsed counts as spent: it may have been.
            again = "the store, found again, and tokens"
            await eventually(lambda: not any(down()) and stocks() > PER_SECOND / 2, what=again)
            asked[0] = refused[0] = 0
            at.redis.kill()
            at.redis.wait()
            with redis_server(directory, port=at.redis_port):
                await eventually(lambda: crowd.inside == MOST, what="all of the limit is used")
                await asyncio.sleep(2 * SETTLE)
                await eventually(lambda: crowd.inside == MOST, what="all of the limit is used")
                nothing_lost()
                over.set()
        finally:
            over.set()
    assert crowd.most == MOST, "nobody was ever let in beyond the limit"
    assert not crowd.odd, "and nobody was told that nobody counts"


async def greedy(channel: grpc.aio.Channel) -> None:
    """A sidecar that takes half of the slots and vanishes."""
    call = channel.stream_stream(policy_api.PATH)()
    held = seen = 0
    async with asyncio.timeout(10):
        while held < MOST // 2:
            demand = Demand(SLOTS, held, 0, MOST // 2)
            await call.write(policy_api.encode_request(LeaseRequest(node(SIDECARS), (demand,), seen)))
            response = policy_api.decode_response(await call.read())
            held, seen = response.grants[0].slots, response.nonce
    call.cancel()
