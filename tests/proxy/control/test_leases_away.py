"""Concurrency limits in a running proxy while the policy service is away, and once it is back."""

from collections.abc import Iterator

import pytest

from pymesh_proxy.control import leases
from tests.proxy.control.lease_site import OK, RULE, answer_to, policy, site, slots
from tests.support.policy_peer import PolicyPeer, policy_peer
from tests.support.waiting import eventually


@pytest.fixture
def peer() -> Iterator[PolicyPeer]:
    with policy_peer({RULE: 2}) as found:
        yield found


@pytest.mark.parametrize(
    ("mode", "otherwise", "status", "note"),
    [
        ("OPEN", "CLOSED", 200, "let in, since the policy service is away"),
        ("CLOSED", "OPEN", 503, "kept out, since the policy service is away"),
        ("LAST_DECISION", "OPEN", 200, "let in, since the policy service is away"),
        ("LAST_DECISION", "CLOSED", 503, "kept out, since the policy service is away"),
    ],
)
async def test_without_a_service_from_the_start(
    peer: PolicyPeer, mode: str, otherwise: str, status: int, note: str
) -> None:
    peer.port = 9  # nobody listens there
    async with site(peer, policy(slots(mode=mode, otherwise=otherwise))) as here:
        for _ in range(3):
            asking = await here.ask()
            if status == 200:
                served = await here.upstream.accept()
                await served.head()
                served.send(OK.replace(b"content", b"connection: close\r\ncontent"))
            found, head, body = await answer_to(asking)
            assert found == status
        record = await here.last(3)
        assert note in record.notes["policy"]
        assert "connect" in record.notes["policy"].lower()
        if status == 503:
            assert record.flag.value == "UAEX"
            assert b"the policy service is away" in head
            assert b"the policy service is away" in body
        assert here.proxy.counter("pymesh_policy_unavailable_total") == 3


async def test_a_stopped_service_costs_the_first_requests_its_timeout_and_later_ones_nothing(peer: PolicyPeer) -> None:
    async with site(peer, policy(slots(mode="CLOSED"), timeout="0.3s")) as here:
        await here.connected()
        await here.inside()
        await here.inside()
        peer.slots[RULE] = 5
        here.rule().waiting.exhausted = False
        peer.answering = False
        first = [await here.ask() for _ in range(3)]
        for each in first:
            assert (await answer_to(each))[0] == 503
        assert here.proxy.counter("pymesh_policy_asked_total") == 3
        for _ in range(5):
            assert (await here.answered())[0] == 503
        assert here.proxy.counter("pymesh_policy_asked_total") == 3  # nobody else waited
        assert "no answer within 0.3 s" in (await here.last(8)).notes["policy"]
        peer.answering = True
        await here.connected()
        await here.inside()


async def test_a_silent_service_is_away_though_nobody_waits_and_its_stream_is_made_anew(
    peer: PolicyPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that comes too late to count does not bring it back."""
    monkeypatch.setattr(leases, "SLOW", 0.1)
    monkeypatch.setattr(leases, "GIVE_UP", 0.3)
    async with site(peer, policy(slots(), timeout="0.05s")) as here:
        await here.connected()
        streams = peer.streams
        peer.delay = 0.2
        await eventually(lambda: here.rule().standing.away == "no answer for 0.1 s", what="silence noticed")
        answered = len(peer.heard)
        await eventually(lambda: len(peer.heard) >= answered + 3, what="answers, too late")
        assert here.rule().standing.away == "no answer for 0.1 s"
        assert peer.streams == streams
        peer.answering = False
        await eventually(lambda: peer.streams > streams, what="another stream")
        peer.answering, peer.delay = True, 0.0
        await eventually(lambda: here.rule().standing.away == "", what="recovery")


async def test_the_last_grant_goes_on_counting_and_recovery_is_noticed(peer: PolicyPeer) -> None:
    async with site(peer) as here:
        await here.connected()
        await here.inside()
        peer.rubbish = True
        await eventually(lambda: here.rule().standing.away != "", what="rubbish noticed")
        await here.inside()
        assert (await here.answered())[0] == 429
        record = await here.last(1)
        assert record.notes["policy"].endswith("all 2 slots granted before the policy service was away are in use")
        peer.rubbish, peer.slots[RULE] = False, 3
        await eventually(lambda: here.rule().standing.away == "")
        demand = peer.last(RULE)
        assert demand is not None
        assert (demand.held, demand.in_use) == (2, 2)  # a sidecar that comes back says what it has
        await here.inside()


async def test_a_rule_that_the_service_does_not_know_yet_is_waited_for(peer: PolicyPeer) -> None:
    peer.problems[RULE] = "there is no such rule"
    async with site(peer, policy(slots(), timeout="5s")) as here:
        await eventually(lambda: len(peer.heard) > 0)
        asking = await here.ask()
        await eventually(lambda: len(here.rule().waiting) == 1)
        del peer.problems[RULE]
        served = await here.upstream.accept()
        await served.head()
        served.send(OK)
        assert (await answer_to(asking))[0] == 200


async def test_a_rule_that_the_service_does_not_know_is_waited_for_once(peer: PolicyPeer) -> None:
    peer.problems[RULE] = "there is no such rule"
    async with site(peer, policy(slots(), timeout="0.3s")) as here:
        await eventually(lambda: here.rule().standing.problem != "")
        assert (await here.answered())[0] == 503
        assert (await here.answered())[0] == 503
        assert here.proxy.counter("pymesh_policy_asked_total") == 1
        assert "there is no such rule" in (await here.last(2)).notes["policy"]
        del peer.problems[RULE]
        await here.connected()
        await here.inside()
