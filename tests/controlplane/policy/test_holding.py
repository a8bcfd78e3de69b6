"""The streams on which sidecars hold leases, by real grpcio clients over mutual TLS."""

import grpc
import grpc.aio
import pytest

from pymesh import policy_api
from pymesh.identity import Identity
from pymesh.policy_api import LeaseRequest
from pymesh_controlplane.pilot.server import Origin, ServerContext
from pymesh_controlplane.policy import holding
from tests.controlplane.pilot.worlds import BOOKINFO
from tests.controlplane.policy import harness
from tests.controlplane.policy.harness import (
    LEASED,
    LIMITS,
    NODE,
    RATE,
    RATINGS,
    REVIEWS,
    SECOND,
    SLOTS,
    Lease,
    serving,
)
from tests.support.waiting import eventually

# Nobody comes back from before: nobody is waited for.
at_once = harness.at_once


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


async def test_a_stream_that_is_closed_while_it_is_told_something_is_ended_in_order_by_grpcio_too() -> None:
    """Whose server neither takes a message beside one that was cut short, nor ends the call then."""
    async with serving() as running:
        server = grpc.aio.server(handlers=running.service.handlers(as_reviews))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                for _ in range(50):
                    lease = Lease(channel)
                    await lease.hello()
                    for _ in range(2):
                        await lease.call.write(policy_api.encode_request(LeaseRequest(NODE, seen=lease.last.nonce)))
                    await lease.call.done_writing()
                    assert (await lease.ended())[0] is grpc.StatusCode.OK
        finally:
            await server.stop(0)


async def as_reviews(context: ServerContext) -> Origin:
    return Origin(context.peer(), REVIEWS)


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
