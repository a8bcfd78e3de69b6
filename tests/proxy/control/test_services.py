"""Rules of kind `check`, and any ext_authz service, in a running proxy: real grpcio servers answer."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from pymesh.http2.connection import Connection
from pymesh.policy_api import RULES_EXTENSION
from tests.proxy.control.lease_site import GET, OK, RULE, Site, answer_to, config, policy, slots
from tests.support.inprocess import Json, running
from tests.support.peers import RawUpstream, client
from tests.support.policy_peer import PolicyPeer, allow, deny, policy_peer
from tests.support.waiting import eventually

DAY = "RateLimit shop/day"
HOUR = "RateLimit shop/hour"


def check(name: str = DAY, mode: str = "LAST_DECISION", otherwise: str = "CLOSED", *by: str) -> Json:
    return {"name": name, "kind": "check", "failure_mode": mode, "otherwise": otherwise, "by": list(by)}


@pytest.fixture
def peer() -> Iterator[PolicyPeer]:
    with policy_peer({RULE: 5}) as found:
        yield found


@asynccontextmanager
async def site(peer: PolicyPeer, *rules: Json, timeout: str = "2s") -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream())
        text = config(upstream, peer.port, [policy(*rules, timeout=timeout)])
        proxy = await stack.enter_async_context(running(text))
        try:
            yield Site(proxy, upstream, peer, stack)
        finally:
            await proxy.proxy.services.close()


async def get(here: Site, headers: bytes = b"") -> int:
    """The status of a request that the app answers with 200 if it gets it."""
    async with client(here.proxy.address) as peer:
        peer.send(GET[:-2] + headers + b"\r\n")
        answered = asyncio.ensure_future(peer.message())  # noqa: TID251  awaited three lines below
        while not answered.done():
            if here.upstream.waiting:
                served = await here.upstream.accept()
                await served.head()
                served.send(OK.replace(b"content", b"connection: close\r\ncontent"))
            await asyncio.sleep(0.005)
        head, _ = await answered
        return int(head.split(b" ", 2)[1])


async def test_every_request_is_asked_about_by_all_its_rules(peer: PolicyPeer) -> None:
    async with site(peer, check(), slots(), check(HOUR)) as here:
        await here.connected()
        assert await get(here) == 200
        record = await here.last(1)
        assert record.notes["policy"].startswith(f"{RULE}: slot 1 of 100; {DAY}, {HOUR}: allowed, asked, ")
        [asked] = peer.checks
        assert asked.attributes.context_extensions[RULES_EXTENSION] == f"{DAY},{HOUR}"
        assert asked.attributes.request.http.path == "/"
        peer.decide = deny(HOUR)
        status, head, body = await here.answered()
        assert status == 429
        assert b"\r\nretry-after: 7\r\n" in head
        assert f"policy_denied{{{HOUR}}}".encode() in head
        assert HOUR.encode() in body
        assert (await here.last(2)).flag.value == "RL"
        await eventually(lambda: here.in_use == 0)


@pytest.mark.parametrize(
    ("rules", "status"),
    [
        ([check(DAY, "OPEN")], 200),
        ([check(DAY, "CLOSED")], 503),
        ([check(DAY, "LAST_DECISION", "OPEN")], 200),
        ([check(DAY, "LAST_DECISION", "CLOSED")], 503),
        ([check(DAY, "OPEN"), check(HOUR, "CLOSED")], 503),
    ],
)
async def test_without_a_service_from_the_start(peer: PolicyPeer, rules: list[Json], status: int) -> None:
    peer.port = 9  # nobody listens there
    async with site(peer, *rules) as here:
        assert await get(here) == status
        assert await get(here) == status
        record = await here.last(2)
        assert "the policy service is away" in record.notes["policy"]
        assert here.proxy.counter("pymesh_policy_asked_total") == len(rules)  # the second was not asked about


async def test_the_last_answer_to_the_same_caller_goes_on_counting(peer: PolicyPeer) -> None:
    async with site(peer, check(DAY, "LAST_DECISION", "CLOSED", "request.headers[x-user]")) as here:
        assert await get(here, b"x-user: a\r\n") == 200
        peer.decide = deny(DAY)
        assert await get(here, b"x-user: b\r\n") == 429
        peer.rubbish = True
        assert await get(here, b"x-user: a\r\n") == 200
        assert "allowed, as last time" in (await here.last(3)).notes["policy"]
        assert await get(here, b"x-user: b\r\n") == 429
        assert "denied, as last time" in (await here.last(4)).notes["policy"]
        assert await get(here, b"x-user: c\r\n") == 503
        assert "not a CheckResponse" in (await here.last(5)).notes["policy"]


async def test_a_change_of_the_rules_is_heard_on_the_stream_and_forgets_what_was_said(peer: PolicyPeer) -> None:
    """The answers here name no rules in force, the leases those of epoch 1."""
    async with site(peer, slots(), check(DAY, "LAST_DECISION", "CLOSED", "request.headers[x-user]")) as here:
        await here.connected()
        [service] = here.proxy.proxy.services.policies.values()
        await eventually(lambda: service.remembered.epoch == "1", what="the epoch of the leases")


async def test_a_stopped_service_is_waited_for_once_and_found_again_without_traffic(peer: PolicyPeer) -> None:
    async with site(peer, check(DAY, "CLOSED"), timeout="0.3s") as here:

        async def let_in() -> bool:
            return await get(here) == 200

        await eventually(let_in)
        asked = here.proxy.counter("pymesh_policy_asked_total")
        peer.answering = False
        begun = asyncio.get_running_loop().time()
        assert await get(here) == 503
        assert asyncio.get_running_loop().time() - begun >= 0.3
        for _ in range(5):
            assert await get(here) == 503
        assert here.proxy.counter("pymesh_policy_asked_total") == asked + 1
        peer.answering = True
        [service] = here.proxy.proxy.services.policies.values()
        await eventually(lambda: not service.away, what="recovery")
        assert await get(here) == 200
        assert peer.checks[-2].attributes.context_extensions[RULES_EXTENSION] == ""  # what found it costs nobody


@asynccontextmanager
async def busy() -> AsyncIterator[tuple[Connection, int]]:
    """An HTTP/2 server that takes one question at a time, and answers none."""
    engine = Connection(client=False, streams=1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(engine.bytes_to_send())
        while data := await reader.read(65_536):
            engine.receive(data)
            writer.write(engine.bytes_to_send())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield engine, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def test_one_question_too_many_is_not_asked_and_does_not_mean_that_the_service_is_away(peer: PolicyPeer) -> None:
    async with busy() as (engine, peer.port), site(peer, check(DAY, "CLOSED"), timeout="20s") as here:
        asking = await here.ask()
        await eventually(lambda: engine._agreed and engine._open, what="the first question")
        assert await get(here) == 503
        assert "kept out, since too many questions are open" in (await here.last(1)).notes["policy"]
        [service] = here.proxy.proxy.services.policies.values()
        assert not service.away
        asking.reset()
        await eventually(lambda: not engine._open, what="the end of the first question")


async def test_a_client_that_leaves_while_it_is_asked_about(peer: PolicyPeer) -> None:
    async with site(peer, slots(), check(DAY), timeout="5s") as here:
        await here.connected()
        peer.decide = allow
        peer.answering = False
        asking = await here.ask()
        await eventually(lambda: peer.checks)
        assert here.in_use == 1
        asking.reset()
        await eventually(lambda: here.in_use == 0)
        assert (await here.proxy.record()).flag.value == "DC"
        assert here.upstream.waiting == 0


async def test_a_question_that_is_open_when_the_rule_goes_is_answered(peer: PolicyPeer) -> None:
    async with site(peer, check(DAY, "CLOSED"), timeout="5s") as here:
        peer.answering = False
        asking = await here.ask()
        await eventually(lambda: peer.checks)
        proxy = here.proxy.proxy
        proxy.services.follow(type(proxy.runtime.snapshot)(1, {}, {}, {}))
        assert not proxy.services.policies
        peer.answering = True
        served = await here.upstream.accept()
        await served.head()
        served.send(OK)
        assert (await answer_to(asking))[0] == 200
        await eventually(
            lambda: proxy.runtime.upstreams.state(proxy.runtime.snapshot.clusters["policy"]).connections == 0
        )


async def test_a_service_that_no_filter_asks_any_more_is_left(peer: PolicyPeer) -> None:
    async with site(peer, slots()) as here:
        await here.connected()
        proxy = here.proxy.proxy
        proxy.services.follow(type(proxy.runtime.snapshot)(1, {}, {}, {}))
        await eventually(lambda: peer.left == 1)
        assert not proxy.services.policies
        proxy.services.follow(proxy.runtime.snapshot)
        await here.connected()
        asking, served = await here.inside()
        served.send(OK)
        assert (await answer_to(asking))[0] == 200
