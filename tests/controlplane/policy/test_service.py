"""The policy service behind the mesh port, asked by a real grpcio client over mutual TLS."""

import asyncio
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
from pymesh.policy_api import LeaseRequest
from pymesh_controlplane.citadel.authority import self_signed
from pymesh_controlplane.policy import desk
from pymesh_controlplane.policy.service import PolicyService
from tests.controlplane.pilot.worlds import BOOKINFO, service, slice_of
from tests.controlplane.policy import harness
from tests.controlplane.policy.harness import (
    AUTHORITY,
    CHECK,
    LIMITS,
    NODE,
    OTHERS,
    PYTHON,
    RATE,
    RATINGS,
    REVIEWS,
    SLOTS,
    Lease,
    Worlds,
    ask,
    refused,
    serving,
)
from tests.support.waiting import eventually

# Nobody comes back from before: nobody is waited for.
at_once = harness.at_once


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


async def test_what_has_been_read_counts_only_once_its_checks_are_loaded() -> None:
    async with serving(BOOKINFO + LIMITS) as running:
        await eventually(lambda: running.service.world is not None)
        running.worlds.put(BOOKINFO + PYTHON)
        await eventually(lambda: running.service.questions.python.offered)
        assert running.service.world is None
        await eventually(lambda: running.service.world is not None)
        assert running.service.status()["python"]["functions"] == ["tenants"]
        running.worlds.put(BOOKINFO + PYTHON.replace("import", "raise import"))
        await eventually(lambda: running.service.questions.python.problem)
        await eventually(lambda: running.service.world is not None)


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


# --- Time ---


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
