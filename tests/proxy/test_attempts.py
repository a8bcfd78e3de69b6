"""What is tried again, and where; what is given up, and when; and what is not begun, since enough is going on."""

import asyncio

import pytest

from pymesh_proxy.errors import Flag
from pymesh_proxy.request_body import MAX_REPLAY_BYTES
from pymesh_proxy.routing import Forward
from tests.support.inprocess import bootstrap, cluster, http_listener, limits, route, running, simple
from tests.support.memory import MemoryProxy, turn
from tests.support.messages import GET, OK, UNAVAILABLE, answer, post, status
from tests.support.peers import Peer, RawUpstream, client
from tests.support.waiting import eventually

# --- Retries ---


def retrying(*upstreams: RawUpstream, **policy: object) -> str:
    """A cluster of these, with a retry policy."""
    return simple(*(item.address for item in upstreams), retry_policy={"retry_on": "5xx", "num_retries": 2, **policy})


async def test_a_pooled_connection_that_turns_out_stale_costs_a_get_nothing_and_a_post_its_answer() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await answer(served, OK)
        await peer.message()
        peer.send(GET)
        await served.head()
        served.reset()  # as a server does that closed it while the request was on its way
        served = await upstream.accept()
        await answer(served, OK)
        assert (await peer.message())[1] == b"ok"
        peer.send(post(b"once"))
        await served.head()
        served.reset()
        head, body = await peer.message()
        assert status(head) == 503
        assert body.endswith(b"reset reason: connection termination")
        assert b'details="UC ' in head
        assert upstream.connections == 2
        records = await proxy.records(3)
        assert [record.attempts for record in records] == [1, 2, 1]
        assert records[2].flag is Flag.UPSTREAM_CONNECTION_TERMINATION


async def test_a_new_connection_that_breaks_is_not_stale() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.close()
        assert status((await peer.message())[0]) == 503
        assert upstream.connections == 1
        assert (await proxy.record()).attempts == 1


async def test_a_refused_connection_is_tried_elsewhere() -> None:
    async with RawUpstream() as dead, RawUpstream() as alive:
        dead.close()
        await asyncio.sleep(0)
        async with running(retrying(dead, alive)) as proxy, client(proxy.address) as peer:
            served: Peer | None = None
            for _ in range(4):
                peer.send(post(b"body"))
                served = served or await alive.accept()
                assert (await served.message())[1] == b"body"
                served.send(OK)
                assert (await peer.message())[1] == b"ok"
            records = await proxy.records(4)
            assert records[0].attempts == 2
            assert {record.attempts for record in records} <= {1, 2}
            assert {record.status for record in records} == {200}


async def test_a_refused_connection_without_a_retry_policy_is_503_uf() -> None:
    async with RawUpstream() as dead:
        dead.close()
        async with running(simple(dead.address)) as proxy, client(proxy.address) as peer:
            peer.send(GET)
            head, body = await peer.message()
            assert status(head) == 503
            assert b"remote connection failure" in body
            assert b"refused" in body
            record = await proxy.record()
            assert (record.flag, record.attempts) == (Flag.UPSTREAM_CONNECTION_FAILURE, 1)
            assert proxy.counter("envoy_cluster_upstream_cx_connect_fail_total") == 1


async def test_a_5xx_is_tried_again_with_its_body() -> None:
    body = bytes(range(256)) * (MAX_REPLAY_BYTES // 256)
    async with (
        RawUpstream() as first,
        RawUpstream() as second,
        running(retrying(first, second)) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(post(body))
        served = await first.accept()
        assert (await served.message())[1] == body
        served.send(UNAVAILABLE)
        served = await second.accept()
        assert (await served.message())[1] == body
        served.send(OK)
        assert (await peer.message())[1] == b"ok"
        record = await proxy.record()
        assert (record.attempts, record.status) == (2, 200)
        assert proxy.counter("envoy_cluster_upstream_rq_retry_total") == 1


async def test_a_grpc_status_in_the_head_is_a_reason_to_try_again() -> None:
    refused = b"HTTP/1.1 200 OK\r\nGrpc-Status: 14\r\nContent-Length: 0\r\n\r\n"
    async with RawUpstream() as upstream:
        config = retrying(upstream, retry_on="unavailable")
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(GET)
            await answer(await upstream.accept(), refused)
            await answer(await upstream.accept(), OK)
            assert (await peer.message())[1] == b"ok"
            assert (await proxy.record()).attempts == 2


async def test_a_body_that_is_too_large_to_keep_is_sent_once() -> None:
    body = bytes(MAX_REPLAY_BYTES + 1)
    async with RawUpstream() as upstream, running(retrying(upstream)) as proxy, client(proxy.address) as peer:
        peer.send(post(body))
        served = await upstream.accept()
        assert (await served.message())[1] == body
        served.send(UNAVAILABLE)
        assert (await peer.message())[1] == b"no"
        assert (await proxy.record()).attempts == 1


async def test_attempts_are_counted_and_the_last_answer_is_the_answer() -> None:
    async with RawUpstream() as upstream, running(retrying(upstream)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        for _ in range(3):
            await answer(await upstream.accept(), UNAVAILABLE)
        assert (await peer.message())[1] == b"no"
        record = await proxy.record()
        assert (record.attempts, record.status) == (3, 503)


async def test_an_attempt_that_takes_too_long_is_given_up_for_another() -> None:
    async with (
        RawUpstream() as slow,
        RawUpstream() as quick,
        running(retrying(slow, quick, per_try_timeout="0.05s")) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(GET)
        served = await slow.accept()
        await served.head()
        await answer(await quick.accept(), OK)
        assert await served.ended()
        assert (await peer.message())[1] == b"ok"
        record = await proxy.record()
        assert (record.attempts, record.status) == (2, 200)


async def test_the_deadline_of_an_attempt_is_not_the_next_ones() -> None:
    """The first attempt ends before its deadline; what comes later must not be taken for it, and attempted twice."""
    retry = {"retry_on": "5xx", "num_retries": 3, "per_try_timeout": "0.05s"}
    retry |= {"retry_back_off": {"base_interval": "0.2s", "max_interval": "0.2s"}}
    async with RawUpstream() as upstream, running(simple(upstream.address, retry_policy=retry)) as proxy:
        proxy.runtime.random = lambda: 0.99
        async with client(proxy.address) as peer:
            peer.send(GET)
            await answer(await upstream.accept(), UNAVAILABLE)
            await answer(await upstream.accept(), OK)
            assert (await peer.message())[1] == b"ok"
            assert (await proxy.record()).attempts == 2
            assert upstream.connections == 2
            assert proxy.counter("envoy_cluster_upstream_rq_retry_total") == 1
            assert proxy.counter("envoy_cluster_upstream_rq_timeout_total") == 0


# --- A retry while the client is stalled ---


async def test_a_new_attempt_is_not_read_while_the_client_takes_nothing() -> None:
    proxy = MemoryProxy(Forward((("service", 1),)))
    peer = proxy.client()
    peer.receive(GET)
    first = await proxy.upstream()
    first.receive(OK)
    peer.receive(GET)
    first.receive(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    peer.fill()
    assert not first.reading
    first.reset()
    second = await proxy.upstream()
    assert not second.reading
    peer.drain()
    assert second.reading
    second.receive(OK)
    assert peer.take().endswith(b"ok")
    peer.reset()
    await turn()
    proxy.settled()
    await proxy.runtime.close()


# --- Limits and timeouts ---


async def test_a_route_timeout_is_504_and_frees_the_upstream() -> None:
    async with (
        RawUpstream() as upstream,
        running(simple(upstream.address, timeout="0.05s")) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        head, body = await peer.message()
        assert (status(head), body) == (504, b"upstream request timeout")
        assert b'error=http_response_timeout; details="UT response_timeout"' in head
        assert await served.ended()
        assert (await proxy.record()).flag is Flag.UPSTREAM_REQUEST_TIMEOUT
        assert proxy.counter("envoy_cluster_upstream_rq_timeout_total") == 1
        peer.send(GET)  # the client's connection is as good as ever
        await (await upstream.accept()).head()


async def test_a_timeout_after_the_head_cuts_the_response() -> None:
    async with (
        RawUpstream() as upstream,
        running(simple(upstream.address, timeout="0.1s")) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234")
        assert (await peer.until(b"01234")).endswith(b"01234")
        assert await peer.rest() == b""
        record = await proxy.record()
        assert (record.status, record.flag) == (200, Flag.UPSTREAM_REQUEST_TIMEOUT)


@pytest.mark.parametrize(("sent", "expected"), [(GET, 504), (post(b"abcd")[:-1], 408)])
async def test_a_stream_without_life_is_ended(sent: bytes, expected: int) -> None:
    listener = http_listener([route(timeout="0s")], stream_idle_timeout="0.05s")
    async with (
        RawUpstream() as upstream,
        running(bootstrap([listener], [cluster("service", upstream.address)])) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(sent)
        served = await upstream.accept()
        assert status((await peer.message())[0]) == expected
        await served.ended()
        assert (await proxy.record()).flag is Flag.STREAM_IDLE_TIMEOUT


def limited(*upstreams: RawUpstream, **values: int) -> str:
    """A cluster with limits."""
    service = cluster("service", *(item.address for item in upstreams), **limits(**values))
    return bootstrap([http_listener([route()])], [service])


async def test_more_requests_than_allowed_are_503_uo() -> None:
    async with (
        RawUpstream() as upstream,
        running(limited(upstream, max_requests=1)) as proxy,
        client(proxy.address) as one,
        client(proxy.address) as two,
    ):
        one.send(GET)
        served = await upstream.accept()
        await served.head()
        two.send(GET)
        head, body = await two.message()
        assert status(head) == 503
        assert body.endswith(b"reset reason: overflow")
        served.send(OK)
        assert (await one.message())[1] == b"ok"
        two.send(GET)
        await answer(served, OK)
        assert (await two.message())[1] == b"ok"
        assert [record.flag for record in await proxy.records(3)] == [
            Flag.UPSTREAM_OVERFLOW, Flag.NONE, Flag.NONE,
        ]  # fmt: skip


async def test_requests_wait_for_a_connection_within_their_limit() -> None:
    async with (
        RawUpstream() as upstream,
        running(limited(upstream, max_connections=1, max_pending_requests=1)) as proxy,
        client(proxy.address) as one,
        client(proxy.address) as two,
        client(proxy.address) as three,
    ):
        one.send(GET)
        served = await upstream.accept()
        await served.head()
        two.send(GET)
        await eventually(lambda: proxy.counter("envoy_cluster_upstream_rq_active") == 2)
        three.send(GET)
        assert status((await three.message())[0]) == 503
        assert proxy.counter("envoy_cluster_upstream_rq_pending_overflow_total") == 1
        served.send(OK)
        await answer(served, OK)
        assert (await one.message())[1] == b"ok"
        assert (await two.message())[1] == b"ok"
        assert upstream.connections == 1


async def test_a_waiting_request_whose_client_goes_waits_no_more() -> None:
    async with (
        RawUpstream() as upstream,
        running(limited(upstream, max_connections=1)) as proxy,
        client(proxy.address) as one,
        client(proxy.address) as two,
    ):
        one.send(GET)
        served = await upstream.accept()
        await served.head()
        two.send(GET)
        await eventually(lambda: proxy.counter("envoy_cluster_upstream_rq_active") == 2)
        two.reset()
        await eventually(lambda: proxy.counter("envoy_cluster_upstream_rq_active") == 1)
        served.send(OK)
        assert (await one.message())[1] == b"ok"


async def test_idle_connections_elsewhere_do_not_keep_a_request_waiting() -> None:
    """At the limit of connections, one that idles at another endpoint makes room."""
    async with (
        RawUpstream() as first,
        RawUpstream() as second,
        running(limited(first, second, max_connections=1)) as proxy,
        client(proxy.address) as peer,
    ):
        for upstream in (first, second, first, second):
            peer.send(GET)
            await answer(await upstream.accept(), OK)
            assert (await peer.message())[1] == b"ok"
        assert proxy.counter("envoy_cluster_upstream_cx_active") == 1
