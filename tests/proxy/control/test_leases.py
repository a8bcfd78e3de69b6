"""Concurrency limits in a running proxy: a real grpcio server grants the slots, raw upstreams count who is inside."""

import asyncio
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pymesh.policy_api import Grant
from pymesh_proxy.control import leases
from tests.proxy.control.lease_site import GET, OK, OTHER, RATE, RULE, answer_to, config, policy, rate, site, slots
from tests.support.inprocess import write_bootstrap
from tests.support.peers import RawUpstream, client
from tests.support.policy_peer import PolicyPeer, policy_peer
from tests.support.proxy_process import ProxyProcess, free_port
from tests.support.waiting import eventually


@pytest.fixture
def peer() -> Iterator[PolicyPeer]:
    with policy_peer({RULE: 2}) as found:
        yield found


# --- Slots ---


async def test_as_many_requests_as_slots_get_in_and_the_next_is_told_the_rule(peer: PolicyPeer) -> None:
    async with site(peer) as here:
        await here.connected()
        first, served = await here.inside()
        second, _ = await here.inside()
        status, head, body = await here.answered()
        assert status == 429
        assert b"\r\nretry-after: 1\r\n" in head
        assert b'proxy-status: pymesh; error=http_request_denied; details="RL policy_denied{ConcurrencyLimit' in head
        assert RULE.encode() in body
        record = await here.last(1)
        assert (record.flag.value, record.details) == ("RL", f"policy_denied{{{RULE}}}")
        assert record.notes["policy"] == f"{RULE}: denied, no slot: 2 in use here, of 100 in all"
        assert here.upstream.waiting == 0
        served.send(OK)
        assert (await answer_to(first))[0] == 200
        assert (await here.last(2)).notes["policy"] == f"{RULE}: slot 1 of 100"
        third = await here.ask()
        await served.head()  # the pooled connection
        assert here.in_use == 2
        for each in (second, third):
            each.close()
        await eventually(lambda: here.in_use == 0)
        assert here.proxy.counter("pymesh_policy_allowed_total") == 3
        assert here.proxy.counter("pymesh_policy_denied_total") == 1


async def test_a_held_slot_is_not_asked_for(peer: PolicyPeer) -> None:
    async with site(peer) as here:
        await here.connected()
        heard = len(peer.heard)
        first, served = await here.inside()
        for _ in range(20):
            served.send(OK)
            await answer_to(first)
            first.send(GET)
            await served.head()
        assert len(peer.heard) <= heard + 2  # heartbeats
        assert here.proxy.counter("pymesh_policy_asked_total") == 0
        served.send(OK)
        await answer_to(first)


async def test_a_request_that_finds_no_slot_waits_for_more_to_be_granted(peer: PolicyPeer) -> None:
    peer.slots[RULE] = 1
    async with site(peer) as here:
        await here.connected()
        await here.inside()
        peer.slots[RULE] = 5
        here.rule().waiting.exhausted = False
        await here.inside()
        assert here.proxy.counter("pymesh_policy_asked_total") == 1
        assert here.rule().usable == 5
        demand = peer.last(RULE)
        assert demand is not None
        assert (demand.held, demand.in_use) == (1, 1)
        assert demand.wanted >= 2


async def test_what_the_service_says_before_it_has_read_a_report_is_no_answer_to_that(
    peer: PolicyPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows nothing of what is wanted there, so nobody is refused by it."""
    monkeypatch.setattr(leases, "SLOW", 30.0)  # the service is silent for as long as this test needs
    monkeypatch.setattr(leases, "GIVE_UP", 60.0)
    peer.slots[RULE] = 1
    async with site(peer, policy(slots(), timeout="30s")) as here:
        await here.connected()
        _, served = await here.inside()
        assert (await here.answered())[0] == 429
        peer.unasked = Grant(RULE, 1, 50)
        await eventually(lambda: here.rule().limit == 50, what="word of the service")
        asking = await here.ask()
        await eventually(lambda: len(here.rule().waiting) == 1, what="a request that waits")
        peer.slots[RULE], peer.answering = 2, True
        second = await here.upstream.accept()
        await second.head()
        second.send(OK)
        assert (await answer_to(asking))[0] == 200
        served.send(OK)


async def test_what_is_spent_of_a_rate_is_counted_anew_on_each_stream(peer: PolicyPeer) -> None:
    """The service, maybe another replica, counts from nothing, too."""
    peer.slots[RATE] = 10
    async with site(peer, policy(rate())) as here:
        await here.connected(RATE)
        for _ in range(2):
            _, served = await here.inside()
            served.send(OK.replace(b"content", b"connection: close\r\ncontent"))
        await eventually(lambda: [demand.used for demand in peer.heard[-1].demands] == [2], what="the count")
        with policy_peer({RATE: 10}) as other:
            here.follow(other)
            await eventually(lambda: other.heard, what="the first report")
            [demand] = other.heard[0].demands
            assert demand.held >= 8
            assert demand.used == 0


async def test_a_rate_that_was_not_in_force_as_a_stream_began_is_counted_anew_on_it(peer: PolicyPeer) -> None:
    """Requests that came in by it keep it."""
    peer.slots[RATE] = 10
    async with site(peer, policy(rate())) as here:
        await here.connected(RATE)
        await here.inside()
        kept = here.rule(RATE)
        there, without = here.listeners(policy(rate())), here.listeners(policy(slots(OTHER)))
        here.proxy.proxy.adopt(replace(here.proxy.runtime.snapshot, listeners=without))
        with policy_peer({OTHER: 1}) as other:
            here.follow(other)
            await eventually(lambda: other.heard, what="the first report")
            here.proxy.proxy.adopt(replace(here.proxy.runtime.snapshot, listeners=there))
            assert here.rule(RATE) is kept
            await eventually(lambda: other.last(RATE), what="a report on the rate")
            demand = other.last(RATE)
            assert demand is not None
            assert (demand.held, demand.used) == (0, 0)


async def test_what_is_decided_before_the_service_has_heard_that_a_rule_is_back_is_void(peer: PolicyPeer) -> None:
    """The rule has left and come back meanwhile, and what it had may be others'."""
    async with site(peer) as here:
        await here.connected()
        kept, seen = here.rule(), here.leases._seen
        peer.unasked = Grant(RULE, 7, 50)
        here.rules(policy(slots(OTHER)))
        here.rules(policy(slots()))
        assert here.rule() is kept
        await eventually(lambda: here.leases._seen > seen, what="word of the service")
        assert (kept.usable, kept.limit) == (0, 100)
        peer.answering = True
        await here.connected()
        assert kept.usable == 2


async def test_a_flood_of_refused_requests_is_few_reports(peer: PolicyPeer) -> None:
    async with site(peer) as here:
        await here.inside()
        await here.inside()
        await here.answered()
        begun, heard = asyncio.get_running_loop().time(), len(peer.heard)
        for _ in range(50):
            assert (await here.answered())[0] == 429
        spent = asyncio.get_running_loop().time() - begun
        assert len(peer.heard) - heard <= spent / 0.1 + 2
        await eventually(lambda: peer.heard[-1].demands[0].wanted > 10)


async def test_one_sidecar_with_the_whole_limit_refuses_at_once(peer: PolicyPeer) -> None:
    peer.limit = 2
    async with site(peer) as here:
        await here.inside()
        await here.inside()
        asked = here.proxy.counter("pymesh_policy_asked_total")
        assert (await here.answered())[0] == 429
        assert here.proxy.counter("pymesh_policy_asked_total") == asked
        assert here.rule().standing.away == ""


async def test_slots_that_are_asked_back_are_given_back_as_requests_end(peer: PolicyPeer) -> None:
    async with site(peer) as here:
        first, _ = await here.inside()
        second, _ = await here.inside()
        peer.slots[RULE] = 0
        await eventually(lambda: here.rule().usable == 0)
        assert (await here.answered())[0] == 429
        for gone, left in ((first, 1), (second, 0)):
            gone.close()
            await eventually(partial(lambda left: peer.heard[-1].demands[0].held == left, left))


# --- Whatever becomes of a request, its slot comes back ---


async def test_a_client_that_leaves_while_it_waits_takes_no_slot(peer: PolicyPeer) -> None:
    peer.slots[RULE] = 0
    async with site(peer, policy(slots(), timeout="5s")) as here:
        await eventually(lambda: len(peer.heard) > 0)
        peer.answering = False
        here.rule().waiting.exhausted = False
        waiting = await here.ask()
        await eventually(lambda: len(here.rule().waiting) == 1)
        waiting.reset()
        await eventually(lambda: len(here.rule().waiting) == 0)
        peer.slots[RULE] = 3
        peer.answering = True
        await here.connected()
        assert here.in_use == 0
        assert (await here.proxy.record()).flag.value == "DC"


async def test_retries_keep_the_one_slot(peer: PolicyPeer) -> None:
    async with site(peer, retry_policy={"retry_on": "5xx", "num_retries": 2}) as here:
        await here.connected()
        asking, served = await here.inside()
        served.send(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        again = await here.upstream.accept()
        await again.head()
        assert here.in_use == 1
        again.send(OK)
        assert (await answer_to(asking))[0] == 200
        await eventually(lambda: here.in_use == 0)
        assert (await here.proxy.record()).attempts == 2


async def test_an_upstream_that_breaks_and_an_upgrade_give_it_back(peer: PolicyPeer) -> None:
    async with site(peer, upgrade_configs=[{"upgrade_type": "websocket"}]) as here:
        await here.connected()
        broken, served = await here.inside()
        served.reset()
        assert (await answer_to(broken))[0] == 503
        await eventually(lambda: here.in_use == 0)
        upgraded = await here.stack.enter_async_context(client(here.proxy.address))
        upgraded.send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        served = await here.upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        await upgraded.head()
        upgraded.send(b"opaque")
        assert await served.exactly(6) == b"opaque"
        assert here.in_use == 1
        upgraded.close()
        served.close()
        await eventually(lambda: here.in_use == 0)


async def test_a_new_configuration_keeps_the_counts_of_the_rules_that_stay(peer: PolicyPeer) -> None:
    async with site(peer) as here:
        await here.connected()
        asking, served = await here.inside()
        before = here.rule()
        peer.slots[OTHER] = 1
        changed = here.listeners(policy(slots(most=50), slots(OTHER)))
        here.proxy.proxy.adopt(replace(here.proxy.runtime.snapshot, listeners=changed))
        await here.connected(OTHER)
        assert here.rule() is before
        assert here.in_use == 1
        served.send(OK)
        assert (await answer_to(asking))[0] == 200  # under the filter that it came in by
        await eventually(lambda: here.in_use == 0)
        assert here.rule(OTHER).holders == set()


async def test_a_service_that_moves_is_followed_without_giving_the_slots_back(peer: PolicyPeer) -> None:
    """It is told whose grants we hold."""
    peer.replica = "r1"
    async with site(peer) as here:
        await here.connected()
        await here.inside()
        with policy_peer({RULE: 4}) as other:
            here.follow(other)
            await eventually(lambda: here.rule().usable == 4)
            assert (other.heard[0].demands[0].held, other.heard[0].demands[0].in_use) == (2, 1)
            assert other.heard[0].replica == "r1"
            assert peer.left == 0
            here.follow(peer)
            await eventually(lambda: here.rule().usable == 2)


async def test_a_service_that_the_configuration_brings_is_found_at_once(
    peer: PolicyPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("pymesh_proxy.control.backoff.Backoff.delay", lambda _: pauses.append(1) or 3600.0)
    async with site(peer) as here:
        await here.connected()
        snapshot = here.proxy.runtime.snapshot
        nowhere = replace(snapshot.clusters["policy"], endpoints=())
        here.proxy.proxy.adopt(replace(snapshot, clusters={**snapshot.clusters, "policy": nowhere}))
        await eventually(lambda: pauses, what="a vain attempt")
        here.proxy.proxy.adopt(snapshot)
        await eventually(lambda: not here.rule().standing.away, what="the service")


async def test_the_stream_is_left_in_good_order(peer: PolicyPeer) -> None:
    async with site(peer) as here:
        await here.connected()
        assert peer.left == 0
        await here.proxy.proxy.services.close()
        await eventually(lambda: (peer.streams, peer.left) == (1, 1))


@pytest.mark.e2e
@pytest.mark.parametrize("answering", [True, False], ids=["there", "stopped"])
async def test_a_process_that_ends_keeps_its_slots_until_its_requests_are_done(
    peer: PolicyPeer, answering: bool, tmp_path: Path
) -> None:
    port = free_port()
    async with RawUpstream() as upstream:
        text = json.loads(config(upstream, peer.port, [policy(slots(), timeout="5s")]))
        text["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] = port
        text["node"] = {"id": "sidecar~10.0.0.1~a.b~b.svc.cluster.local", "cluster": "a.b"}
        with ProxyProcess("--config", str(write_bootstrap(tmp_path, json.dumps(text)))) as proxy:
            async with client(("127.0.0.1", port)) as busy:
                busy.send(GET)
                served = await upstream.accept()
                await served.head()
                proxy.process.send_signal(signal.SIGTERM)
                await eventually(lambda: proxy.get("/ready").status == 503)
                heard = len(peer.heard)
                await eventually(lambda: len(peer.heard) > heard, what="a heartbeat while it drains")
                assert peer.heard[-1].demands[0].in_use == 1
                assert peer.heard[-1].node == text["node"]["id"]
                assert peer.left == 0
                peer.answering = answering
                served.send(OK)
                assert (await answer_to(busy))[0] == 200
                assert await asyncio.to_thread(proxy.wait) == 0
                assert not proxy.logged("Traceback")
        if answering:
            await eventually(lambda: peer.left == 1)
