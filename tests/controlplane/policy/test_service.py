"""The policy service behind the mesh port, asked by a real grpcio client over mutual TLS."""

import asyncio
import gc
import socket
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from prometheus_client import CollectorRegistry, generate_latest

from pymesh import policy_api
from pymesh.identity import Identity
from pymesh.policy_api import Demand, LeaseRequest, LeaseResponse
from pymesh_controlplane import grpc_server
from pymesh_controlplane.citadel.authority import self_signed
from pymesh_controlplane.citadel.client import Certificate, of_authority
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.mesh_port import MeshPort
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.parts import Part, serve
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.policy import desk, holding
from pymesh_controlplane.policy.service import PolicyService
from tests.controlplane.citadel.support import csr_for, key_pem, new_key
from tests.controlplane.pilot.worlds import BOOKINFO, service, slice_of, world_of
from tests.support.waiting import eventually

AUTHORITY = self_signed("cluster.local", now=datetime.now(UTC))
OTHERS = self_signed("cluster.local", now=datetime.now(UTC))
POLICY = Identity("cluster.local", "pymesh-system", "policy")
REVIEWS = Identity("cluster.local", "default", "reviews")
RATINGS = Identity("cluster.local", "default", "ratings")
NODE = "sidecar~10.244.0.11~reviews-v1.default~default.svc.cluster.local"
SECOND = "sidecar~10.244.0.12~reviews-v2.default~default.svc.cluster.local"
SLOTS, RATE = "ConcurrencyLimit default/reviews", "RateLimit default/reviews"
LIMITS = """
---
apiVersion: policy.pymesh.io/v1alpha1
kind: ConcurrencyLimit
metadata: {name: reviews, namespace: default}
spec: {targetRefs: [{name: reviews}], max: 10}
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: reviews, namespace: default}
spec: {targetRefs: [{name: reviews}], requests: 2, per: Hour, by: [source.principal]}
"""

LEASED = "requests: 100, per: Second, burst: 25"


@dataclass
class Worlds:
    """A source that tells what it is given."""

    queue: "asyncio.Queue[World]" = field(default_factory=asyncio.Queue)

    async def watch(self) -> AsyncIterator[World]:
        while True:
            yield await self.queue.get()

    def put(self, text: str) -> None:
        self.queue.put_nowait(world_of(text))


@dataclass
class Serving:
    """A policy service that runs."""

    service: PolicyService
    mesh: MeshPort
    worlds: Worlds
    port: int
    task: "asyncio.Task[None]"

    @asynccontextmanager
    async def channel(
        self, identity: Identity | None = REVIEWS, authority: Any = AUTHORITY
    ) -> AsyncIterator[grpc.aio.Channel]:
        """For a workload of this identity."""
        key, chain = None, None
        if identity is not None:
            made = new_key()
            issued = authority.issue_workload(csr_for(made), identity, now=datetime.now(UTC))
            key, chain = key_pem(made), "".join(issued.chain).encode()
        credentials = grpc.ssl_channel_credentials(AUTHORITY.root_pem.encode(), key, chain)
        # grpcio knows names, not SPIFFE identities: who answers is checked in the sidecar's tests.
        options = [("grpc.ssl_target_name_override", "policy"), ("grpc.default_authority", "policy")]
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options) as channel:
            yield channel


async def ask(channel: grpc.aio.Channel, rules: str, principal: str = "", data: bytes | None = None) -> CheckResponse:
    request = CheckRequest()
    request.attributes.source.principal = principal
    request.attributes.context_extensions["pymesh.rules"] = rules
    call: Any = channel.unary_unary(policy_api.CHECK_PATH)
    return CheckResponse.FromString(await call(data or request.SerializeToString(), timeout=5))


class Lease:
    """One stream, as a sidecar has it."""

    def __init__(self, channel: grpc.aio.Channel, node: str = NODE) -> None:
        self.node = node
        self.call: Any = channel.stream_stream(policy_api.PATH)()
        self.last = LeaseResponse("")

    async def hello(self) -> None:
        """Open it and ask for nothing."""
        await self.call.write(policy_api.encode_request(LeaseRequest(self.node)))
        async with asyncio.timeout(5):
            self.last = policy_api.decode_response(await self.call.read())

    async def say(self, *, wanted: int = 0, held: int = 0, in_use: int = 0, rule: str = SLOTS) -> int:
        """Report, and read the answer; the slots granted."""
        demand = Demand(rule, held, in_use, wanted)
        await self.call.write(policy_api.encode_request(LeaseRequest(self.node, (demand,), self.last.nonce)))
        return await self.told()

    async def told(self) -> int:
        """The slots that the next response grants."""
        async with asyncio.timeout(5):
            self.last = policy_api.decode_response(await self.call.read())
        return self.last.grants[0].slots

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the service ends the stream."""
        async with asyncio.timeout(5):
            with suppress(grpc.aio.AioRpcError):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            return await self.call.code(), await self.call.details()


@asynccontextmanager
async def serving(text: str | None = BOOKINFO + LIMITS) -> AsyncIterator[Serving]:
    worlds, metrics = Worlds(), Metrics()
    service = PolicyService(worlds, monotonic)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    certificate = Certificate(server_certificate, metrics, source="test", clock=lambda: datetime.now(UTC))
    mesh = MeshPort(listener, certificate, "cluster.local", metrics)
    if text is not None:
        worlds.put(text)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(serve(mesh, [Part(service.handlers, service.run, http=service.http)]))
        try:
            await eventually(lambda: not mesh.waiting() and (text is None or not service.waiting()))
            yield Serving(service, mesh, worlds, listener.getsockname()[1], task)
        finally:
            task.cancel()
            await asyncio.wait([task])
            listener.close()
            # asyncio's TLS transports leave their sockets to the collector where the peer says no goodbye; the control
            # plane runs on uvloop, whose do not.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody comes back from before, and nobody has to hear that the service ends: nobody is waited for."""
    monkeypatch.setattr(desk, "SETTLE", 0.0)
    monkeypatch.setattr(grpc_server, "FAREWELL", 0.02)


async def server_certificate() -> Any:
    """As of citadel, but under a name that grpcio can check."""
    credentials = await of_authority(Trust(AUTHORITY), POLICY, lambda: datetime.now(UTC))()
    issued, key = AUTHORITY.issue_server(("policy",), now=datetime.now(UTC))
    return type(credentials)("".join(issued.chain[:-1]), key, AUTHORITY.root_pem, issued.expires)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


# --- Checks ---


async def test_a_rate_is_counted_by_caller() -> None:
    async with serving() as running, running.channel() as channel:
        answers = [(await ask(channel, RATE, "spiffe://a")).status.code for _ in range(3)]
        assert answers == [0, 0, 8]
        assert (await ask(channel, RATE, "spiffe://b")).HasField("ok_response")
        denied = await ask(channel, RATE, "spiffe://a")
        assert denied.denied_response.status.code == 429
        assert RATE in denied.denied_response.body
        assert running.service.counts.checks == {(RATE, "allowed"): 3, (RATE, "denied"): 2}


async def test_whose_workload_is_not_behind_the_target_may_not_ask() -> None:
    """Else anyone could spend another's requests."""
    async with serving() as running, running.channel(RATINGS) as channel:
        code, sentence = await refused(ask(channel, RATE))
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert sentence == f"{RATINGS} runs no workload behind the targets of {RATE}"
        assert running.service.counts.refused == {"identity": 1}


@pytest.mark.parametrize(
    ("identity", "authority"), [(None, AUTHORITY), (REVIEWS, OTHERS), (Identity("other", "default", "reviews"), None)]
)
async def test_without_a_certificate_of_this_mesh_nothing_is_answered(
    identity: Identity | None, authority: Any
) -> None:
    """None at all, one of another authority, and one of another trust domain."""
    issuer = authority or self_signed("other", now=datetime.now(UTC))
    async with serving() as running, running.channel(identity, issuer) as channel:
        code, _ = await refused(ask(channel, RATE))
        assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED}
        assert not running.service.counts.checks


async def test_questions_that_make_no_sense() -> None:
    """Garbage, and slots, which are held and not asked about."""
    async with serving() as running, running.channel() as channel:
        assert (await refused(ask(channel, "", data=b"\xff\xff")))[0] is grpc.StatusCode.INVALID_ARGUMENT
        code, sentence = await refused(ask(channel, SLOTS))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "LeaseService/Hold" in sentence
        assert (await ask(channel, "")).HasField("ok_response"), (
            "who asks about nothing only wants to know if we are back"
        )
        assert (await ask(channel, "RateLimit default/gone")).HasField("ok_response")
        assert running.service.counts.unknown_rules == 1


async def test_before_the_rules_are_read_nothing_is_decided() -> None:
    """To say yes would be a lie, and no another."""
    async with serving(None) as running, running.channel() as channel:
        assert running.service.waiting() == "waiting for the configuration to be read"
        assert (await refused(ask(channel, RATE)))[0] is grpc.StatusCode.UNAVAILABLE
        assert (await Lease(channel).ended())[0] is grpc.StatusCode.UNAVAILABLE
        running.worlds.put(BOOKINFO + LIMITS)
        await eventually(lambda: not running.service.waiting())
        assert (await ask(channel, RATE)).HasField("ok_response")


# --- Checks in Python ---

CHECK = "Check default/reviews"
PYTHON = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pymesh, namespace: pymesh-system}
data:
  a.py: |
    from pymesh.checks import allow, check, deny
    @check
    def tenants(request):
        if request.claims["tenant"] == "a":
            return allow()
        return deny(403, "for tenant a")
---
apiVersion: policy.pymesh.io/v1alpha1
kind: Check
metadata: {name: reviews, namespace: default}
spec:
  targetRefs: [{name: reviews}]
  function: tenants
  timeout: 100ms
  remember: {for: 30s, by: ["request.auth.claims[tenant]"]}
"""


def of_tenant(name: str, tell: str = "") -> bytes:
    request = CheckRequest()
    request.attributes.context_extensions.update({"pymesh.rules": f"{CHECK},{RATE}", "pymesh.undecided": tell})
    if name:
        request.attributes.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"].update(
            {"payload": {"tenant": name}}
        )
    return request.SerializeToString()


async def test_a_check_in_python_is_asked_and_a_rate_is_spent_only_where_it_lets_the_request_in() -> None:
    async with serving(BOOKINFO + LIMITS + PYTHON) as running, running.channel() as channel:
        await eventually(lambda: running.service.questions.python.names)

        async def about(tenant: str, tell: str = "") -> CheckResponse:
            return await ask(channel, "", data=of_tenant(tenant, tell))

        allowed = await about("a")
        assert allowed.HasField("ok_response")
        denied = [await about("b") for _ in range(3)]
        assert [one.denied_response.body for one in denied] == [f"{CHECK}: for tenant a\n"] * 3
        failed = await about("")
        assert failed.denied_response.status.code == 503
        assert failed.denied_response.body == f"{CHECK}: it could not decide\n"
        told = await about("", "tell")
        assert told.HasField("ok_response")
        undecided = told.dynamic_metadata.fields["pymesh.policy"].struct_value.fields["undecided"].struct_value
        assert undecided.fields[CHECK].string_value == "tenants: KeyError: 'tenant' (line 4 of a.py)"
        assert (await about("a")).denied_response.status.code == 429  # two an hour: told, and asked first
        counted = running.service.counts.checks
        assert (counted[CHECK, "allowed"], counted[CHECK, "denied"], counted[CHECK, "undecided"]) == (1, 4, 2)
        assert running.service.status()["python"] == {
            "functions": ["tenants"],
            "problem": "",
            "failures": {"tenants": {"raised": 2}},
        }


async def test_other_code_is_another_epoch_of_which_sidecars_hear_at_once() -> None:
    """A stream may hold nothing, and be there for this alone."""
    async with serving(BOOKINFO + PYTHON) as running, running.channel() as channel:
        await eventually(lambda: running.service.questions.python.names)
        lease = Lease(channel)
        await lease.call.write(policy_api.encode_request(LeaseRequest(NODE)))
        async with asyncio.timeout(5):
            first = policy_api.decode_response(await lease.call.read()).epoch
            running.worlds.put(BOOKINFO + PYTHON.replace("403", "401"))
            while (later := policy_api.decode_response(await lease.call.read()).epoch) == first:
                pass
        assert later.partition("-")[0] == first.partition("-")[0], "the rules are the same"


# --- Leases ---


async def test_slots_go_where_they_are_wanted() -> None:
    """Asked back from one, granted to the other, over the wire."""
    both = BOOKINFO + LIMITS
    async with serving(both) as running, running.channel() as channel, running.channel() as another:
        first, second = Lease(channel), Lease(another, SECOND)
        await first.say()
        while first.last.grants[0].slots < 10:
            await first.told()
        assert await second.say(wanted=8) == 0, "they are all out"
        while first.last.grants[0].slots > 2:
            await first.told()
        await first.say(held=first.last.grants[0].slots)
        while second.last.grants[0].slots < 8:
            await second.told()
        assert second.last.grants[0].limit == 10
        assert second.last.epoch == running.service.desk.rules.epoch


async def test_a_stream_that_is_closed_gives_back_and_one_that_breaks_is_waited_for() -> None:
    """Half-closed: at once. Cancelled: kept for its return."""
    async with serving() as running, running.channel() as channel:
        lease = Lease(channel)
        await lease.say(wanted=3)
        await lease.call.done_writing()
        assert (await lease.ended())[0] is grpc.StatusCode.OK
        assert running.service.desk.books[SLOTS].holders == {}
        lease = Lease(channel)
        await lease.say(wanted=3)
        lease.call.cancel()
        await eventually(lambda: not running.service.desk.sidecars)
        (holder,) = running.service.desk.books[SLOTS].holders.values()
        assert holder.until is not None
        assert holder.charge == 10


async def test_a_sidecar_has_one_stream_the_newest() -> None:
    """The other is ended; it may be half dead and not know."""
    async with serving() as running, running.channel() as channel:
        old = Lease(channel)
        await old.say(wanted=3)
        new = Lease(channel)
        await new.say(wanted=3, held=10)
        assert await old.ended() == (grpc.StatusCode.ABORTED, "the same sidecar has opened another stream")
        assert await new.say(wanted=3, held=10) == 10
        assert list(running.service.desk.sidecars) == ["reviews-v1.default"]


async def test_who_says_nothing_is_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pod may have vanished without a word."""
    monkeypatch.setattr(policy_api, "SILENCE", 0.2)
    async with serving() as running, running.channel() as channel:
        lease = Lease(channel)
        await lease.say(wanted=3)
        assert await lease.ended() == (grpc.StatusCode.DEADLINE_EXCEEDED, "no report within 0.2 s")


async def test_nobody_takes_the_place_of_anothers_sidecar() -> None:
    """Another workload of the namespace, which says that it is reviews' pod."""
    async with serving() as running, running.channel() as channel, running.channel(RATINGS) as another:
        lease = Lease(channel)
        await lease.say(wanted=3)
        thief = Lease(another)
        await thief.call.write(policy_api.encode_request(LeaseRequest(NODE)))
        code, sentence = await thief.ended()
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert sentence == f"the node says that it is pod reviews-v1.default, and the caller has proved to be {RATINGS}"
        assert await lease.say(wanted=3, held=10) == 10


@pytest.mark.parametrize(
    ("node", "code"),
    [
        ("rubbish", grpc.StatusCode.INVALID_ARGUMENT),
        (NODE.replace("default", "other"), grpc.StatusCode.PERMISSION_DENIED),
    ],
)
async def test_a_node_that_cannot_be_is_refused(node: str, code: grpc.StatusCode) -> None:
    """A name, and in the namespace that the certificate proves."""
    async with serving() as running, running.channel() as channel:
        lease = Lease(channel, node)
        await lease.call.write(policy_api.encode_request(LeaseRequest(node)))
        assert (await lease.ended())[0] is code


async def test_garbage_and_floods_end_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """And count."""
    monkeypatch.setattr(holding, "REQUEST_BURST", 3)
    monkeypatch.setattr(holding, "REQUEST_RATE", 1)
    async with serving() as running, running.channel() as channel:
        lease = Lease(channel)
        await lease.call.write(b"\xff")
        assert (await lease.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT
        lease = Lease(channel)
        for _ in range(6):
            await lease.call.write(policy_api.encode_request(LeaseRequest(NODE)))
        assert (await lease.ended())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert running.service.counts.refused == {"garbage": 1, "flood": 1}


async def test_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sentence that says what to do."""
    monkeypatch.setattr(holding, "MAX_STREAMS", 1)
    async with serving() as running, running.channel() as channel:
        first, late = Lease(channel), Lease(channel, SECOND)  # both are there before either has said who it is
        await first.say()
        await late.call.write(policy_api.encode_request(LeaseRequest(SECOND)))
        code, sentence = await late.ended()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1 sidecars hold leases here" in sentence


async def test_whoever_makes_up_pods_takes_no_place_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of any namespace is enough to hold leases, and the pod is what the sidecar says it is."""
    monkeypatch.setattr(holding, "MAX_UNKNOWN", 3)
    nobody, neighbour = Identity("cluster.local", "evil", "evil"), Identity("cluster.local", "evil", "good")
    async with serving() as running, running.channel(nobody) as evil, running.channel(neighbour) as good:
        ghosts = [Lease(evil, NODE.replace("reviews-v1.default", f"ghost{number}.evil")) for number in range(4)]
        for ghost in ghosts[:3]:
            await ghost.hello()
        await ghosts[3].call.write(policy_api.encode_request(LeaseRequest(ghosts[3].node)))
        code, sentence = await ghosts[3].ended()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert sentence == f"{nobody} holds leases for 3 pods that are behind no rule: try again when they are"
        assert running.service.counts.refused == {"unknown": 1}
        await Lease(evil, ghosts[0].node).hello()  # it only takes its own place
        await Lease(good, NODE.replace("reviews-v1.default", "new.evil")).hello()
        async with running.channel() as channel:
            assert await Lease(channel).say(wanted=1) > 0, "whom rules know comes in"


async def test_a_stream_of_a_pod_that_no_rule_knows_is_cut_by_its_own_account_alone() -> None:
    """What the sidecar says is all that is known of the pod."""
    mine, thief = Identity("cluster.local", "new", "mine"), Identity("cluster.local", "new", "thief")
    node = NODE.replace("reviews-v1.default", "pod.new")
    async with serving() as running, running.channel(mine) as channel, running.channel(thief) as another:
        lease, stolen = Lease(channel, node), Lease(another, node)
        await lease.hello()
        await stolen.call.write(policy_api.encode_request(LeaseRequest(node)))
        assert await stolen.ended() == (grpc.StatusCode.PERMISSION_DENIED, f"pod.new holds leases as {mine}")
        await lease.hello()
        await Lease(channel, node).hello()
        assert (await lease.ended())[0] is grpc.StatusCode.ABORTED


async def test_a_report_on_a_leased_rate_asks_about_no_unknown_rule() -> None:
    async with serving(BOOKINFO + LIMITS.replace("requests: 2, per: Hour, by: [source.principal]", LEASED)) as running:
        async with running.channel() as channel:
            await Lease(channel).say(wanted=1, rule=RATE)
        assert running.service.desk.rates.keys() == {RATE}
        assert running.service.counts.unknown_rules == 0


async def test_a_changed_limit_reaches_those_who_hold_slots() -> None:
    """Unasked."""
    async with serving() as running, running.channel() as channel:
        lease = Lease(channel)
        await lease.say(wanted=9)
        while lease.last.grants[0].slots < 10:
            await lease.told()
        running.worlds.put(BOOKINFO + LIMITS.replace("max: 10", "max: 4"))
        assert await lease.told() == 4
        assert lease.last.grants[0].limit == 4


async def test_a_standstill_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP, as the clock tells it."""
    stood_still: list[float] = []
    monkeypatch.setattr(desk.Desk, "stood_still", lambda _, now: stood_still.append(now))
    clock = Clock()
    worlds = Worlds()
    service = PolicyService(worlds, clock)
    worlds.put(BOOKINFO + LIMITS)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(service.run())
        await eventually(lambda: not service.waiting())
        assert not stood_still
        clock.ahead = 60.0
        await eventually(lambda: stood_still)
        running.cancel()


class Clock:
    """Monotonic, and a jump."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.begun = monotonic()

    def __call__(self) -> float:
        return monotonic() - self.begun + self.ahead


# --- For people and Prometheus ---


async def test_the_page_and_the_metrics_tell_what_is_out() -> None:
    async with serving() as running, running.channel() as channel:
        lease = Lease(channel)
        await lease.say(wanted=3, held=2, in_use=2)
        await ask(channel, RATE, "spiffe://a")
        shown: Any = running.service.status()
        by_name = {rule["rule"]: rule for rule in shown["rules"]}
        assert (shown["sidecars"], by_name[RATE]["allowed"], by_name[RATE]["denied"]) == (1, 1, 0)
        assert by_name[SLOTS]["max"] == 10
        assert by_name[SLOTS]["sidecars"]["reviews-v1.default"]["inUse"] == 2
        registry = CollectorRegistry()
        registry.register(running.service.collector())
        text = generate_latest(registry).decode()
    for line in (
        f'pymesh_policy_checks_total{{result="allowed",rule="{RATE}"}} 1.0',
        "pymesh_policy_streams 1.0",
        f'pymesh_policy_slots_limit{{rule="{SLOTS}"}} 10.0',
        f'pymesh_policy_slots_in_use{{rule="{SLOTS}"}} 2.0',
        f'pymesh_policy_keys{{rule="{RATE}"}} 1.0',
    ):
        assert line in text.splitlines()


ONE, TWO = ("10.244.9.1",), ("10.244.9.1", "10.244.9.2")


def in_system(manifest: str) -> str:
    return manifest.replace("namespace: default", "namespace: pymesh-system")


async def test_replicas_that_share_nothing_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Each would let in what all of them may: whoever scales it up reads it in the log, and at /policy and /metrics."""
    alone = BOOKINFO + LIMITS + "---" + in_system(service("policy", "[{name: grpc-policy, port: 9091}]"))
    slices = [in_system(slice_of("policy", *addresses, port=9091, port_name="grpc-policy")) for addresses in (ONE, TWO)]
    async with serving(f"{alone}---{slices[0]}") as running:
        await eventually(lambda: running.service.status()["replicas"] == 1, what="one replica")
        assert "without a store" not in caplog.text
        running.worlds.put(f"{alone}---{slices[1]}")
        await eventually(lambda: running.service.status()["replicas"] == 2, what="two replicas")
        assert "2 replicas without a store: every limit holds for each of them alone" in caplog.text
        assert running.service.status()["store"] is None
