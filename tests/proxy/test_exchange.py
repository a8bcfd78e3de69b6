"""One request from its head to its record, against upstreams that say every byte themselves: what is passed on, what is
tried again, what is answered here and why, and that nothing stays in flight.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from pymesh_proxy.attempts import Attempts
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag, ProxyError, failure
from pymesh_proxy.exchange import Exchange
from pymesh_proxy.filters.base import HttpFilter, LocalReply, RequestContext, Verdict
from pymesh_proxy.request_body import MAX_REPLAY_BYTES
from pymesh_proxy.routing import Forward
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.upstream.connection import MAX_INFORMATIONAL
from tests.support.inprocess import bootstrap, cluster, http_listener, limits, route, running, simple
from tests.support.memory import MemoryProxy, turn
from tests.support.peers import Peer, RawUpstream, client
from tests.support.waiting import eventually

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno"


def post(body: bytes) -> bytes:
    """A POST with `body`."""
    return b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def answer(upstream: Peer, response: bytes) -> bytes:
    """Answer the next request, and its head."""
    head, _ = await upstream.message()
    upstream.send(response)
    return head


def status(head: bytes) -> int:
    """The status of a response."""
    return int(head.split(b" ", 2)[1])


# --- Messages and their ends ---


async def test_continue_and_early_hints_reach_the_client() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n")
        served = await upstream.accept()
        assert b"expect: 100-continue\r\n" in await served.head()
        served.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(b"body")
        assert await served.exactly(4) == b"body"
        hop = b"connection: x-hop\r\nx-hop: 1\r\n"
        served.send(b"HTTP/1.1 103 Early Hints\r\n" + hop + b"link: </a.css>\r\n\r\n" + OK)
        assert await peer.head() == b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"
        assert (await peer.message())[1] == b"ok"
        assert (await proxy.record()).status == 200


async def test_interim_responses_without_end_are_the_upstreams_fault() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        served.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 20_000)
        for _ in range(MAX_INFORMATIONAL):
            assert status(await peer.head()) == 102
        assert status((await peer.message())[0]) == 502
        assert (await proxy.record()).details == "http1.too_many_informational_responses"


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"),
        (b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (GET, b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\n\r\n"),
    ],
    ids=["HEAD", "HEAD chunked", "204", "304"],
)
async def test_a_response_without_a_body_ends_with_its_head(request_: bytes, response: bytes) -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(request_ + GET)
        served = await upstream.accept()
        await served.head()
        served.send(response)
        head = await peer.head()
        assert status(head) == status(response)
        for line in response.split(b"\r\n")[1:-2]:
            assert line + b"\r\n" in head
        await answer(served, OK)
        assert (await peer.message())[1] == b"ok"


async def test_trailers_go_through() -> None:
    body = b"4;ext=1\r\nwiki\r\n0\r\nchecksum: 42\r\n\r\n"
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body)
        await peer.head()
        assert await peer.until(b"42\r\n\r\n") == body


async def test_a_response_that_ends_with_its_connection_is_chunked_for_the_client() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\n\r\nfirst")
        assert b"transfer-encoding: chunked\r\n" in await peer.head()
        assert await peer.until(b"first\r\n") == b"5\r\nfirst\r\n"
        served.send(b"second")
        assert await peer.until(b"second\r\n") == b"6\r\nsecond\r\n"
        served.close()
        assert await peer.exactly(5) == b"0\r\n\r\n"
        peer.send(GET)
        await answer(await upstream.accept(), OK)
        assert (await peer.message())[1] == b"ok"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "begun",
    [b"content-length: 10\r\n\r\n01234", b"transfer-encoding: chunked\r\n\r\n5\r\n01234\r\n"],
    ids=["length", "chunked"],
)
async def test_a_truncated_response_is_seen_to_be_truncated(begun: bytes, how: str) -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\n" + begun)
        await peer.until(b"01234")
        getattr(served, how)()
        assert await peer.rest() in {b"", b"\r\n"}  # ended, without a last chunk
        record = await proxy.record()
        assert (record.status, record.flag) == (200, Flag.UPSTREAM_CONNECTION_TERMINATION)


async def test_a_truncated_response_without_framing_is_reset() -> None:
    """An HTTP/1.0 client knows the end of such a body by the close: it must not look like one."""
    accepting = http_listener([route()], http_protocol_options={"accept_http_10": True})
    async with (
        RawUpstream() as upstream,
        running(bootstrap([accepting], [cluster("service", upstream.address)])) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n")
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\n\r\n01234")
        await peer.until(b"01234")
        served.reset()
        with pytest.raises(ConnectionResetError):
            await peer.rest()


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nx: a\n\n",
        b"HTTP/1.1 200 OK\r\nx: a\rset-cookie: b\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * (64 << 10) + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x00\x02\x02\x28",
    ],
)
async def test_what_is_no_response_is_502_and_its_connection_is_not_used_again(response: bytes) -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(response)
        head, body = await peer.message()
        assert status(head) == 502
        assert b"set-cookie" not in head + body
        assert await served.ended()
        record = await proxy.record()
        assert (record.status, record.flag) == (502, Flag.UPSTREAM_PROTOCOL_ERROR)
        peer.send(GET)
        await answer(await upstream.accept(), OK)
        assert (await peer.message())[1] == b"ok"


async def test_a_body_that_breaks_its_framing_cuts_the_response() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
        await peer.until(b"ab\r\n")
        served.send(b"zz\r\n")
        assert await peer.rest() == b""
        assert (await proxy.record()).flag is Flag.UPSTREAM_PROTOCOL_ERROR


async def test_bytes_behind_a_response_are_nobodys_and_end_the_connection() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        assert (await peer.message())[1] == b"ok"
        assert await served.ended()
        peer.send(GET)
        await answer(await upstream.accept(), OK)
        assert (await peer.message())[1] == b"ok"


async def test_bytes_that_nobody_asked_for_end_an_idle_upstream_connection() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await answer(served, OK)
        await peer.message()
        served.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        assert await served.ended()
        peer.send(GET)
        await answer(await upstream.accept(), OK)
        assert (await peer.message())[1] == b"ok"


async def test_an_answer_before_the_end_of_the_body_ends_both_connections() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n01234")
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig")
        assert (await peer.message())[1] == b"big"
        peer.send(b"5" * 95)
        assert await peer.rest() == b""
        await served.ended()
        assert (await proxy.record()).status == 413


# --- Upgrades ---

UPGRADE = b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


def upgrading(upstream: RawUpstream, **action: object) -> str:
    """A listener that allows websockets."""
    listener = http_listener([route(**action)], upgrade_configs=[{"upgrade_type": "websocket"}])
    return bootstrap([listener], [cluster("service", upstream.address)])


@pytest.mark.parametrize("first", ["client", "upstream"])
async def test_an_upgraded_connection_is_opaque_and_each_half_ends_by_itself(first: str) -> None:
    async with RawUpstream() as upstream, running(upgrading(upstream)) as proxy, client(proxy.address) as peer:
        peer.send(UPGRADE + b"\x81\x00early")
        served = await upstream.accept()
        head = (await served.head()).lower()
        assert b"connection: upgrade\r\n" in head
        assert b"upgrade: websocket\r\n" in head
        served.send(SWITCHING + b"\x82\x01")
        head = (await peer.head()).lower()
        assert status(head) == 101
        assert b"connection: upgrade\r\n" in head
        assert await peer.exactly(2) == b"\x82\x01"
        assert await served.exactly(7) == b"\x81\x00early"
        one, other = (peer, served) if first == "client" else (served, peer)
        one.send(b"last words")
        one.end()
        assert await other.rest() == b"last words"
        other.send(bytes(1 << 20))
        assert await one.exactly(1 << 20) == bytes(1 << 20)
        other.send(b"and mine")
        other.end()
        assert await one.rest() == b"and mine"
        record = await proxy.record()
        assert (record.status, record.flag) == (101, Flag.NONE)


async def test_an_upgrade_may_be_declined_and_one_that_is_not_allowed_is_not_asked_for() -> None:
    async with RawUpstream() as upstream, running(upgrading(upstream)) as proxy, client(proxy.address) as peer:
        peer.send(UPGRADE)
        served = await upstream.accept()
        await answer(served, OK)
        assert (await peer.message())[1] == b"ok"
        peer.send(UPGRADE.replace(b"websocket", b"h2c", 1))
        head = await answer(served, OK)
        assert b"upgrade" not in head.lower()
        assert (await peer.message())[1] == b"ok"


async def test_what_a_client_sends_ahead_of_the_upgrade_arrives_however_much_it_is() -> None:
    ahead = bytes(300_000)
    async with RawUpstream() as upstream, running(upgrading(upstream)) as proxy, client(proxy.address) as peer:
        peer.send(UPGRADE + ahead)
        served = await upstream.accept()
        await served.head()
        served.send(SWITCHING)
        assert await served.exactly(len(ahead)) == ahead
        peer.send(b"more")
        assert await served.exactly(4) == b"more"
        peer.reset()
        assert await served.ended()
        assert (await proxy.record()).bytes_received == len(ahead) + 4


async def test_no_request_timeout_ends_an_upgraded_connection() -> None:
    proxy = MemoryProxy(upgrades=frozenset({"websocket"}), stream_idle_timeout=None)
    peer = proxy.client()
    peer.receive(UPGRADE)
    upstream = await proxy.upstream()
    upstream.receive(SWITCHING)
    [connection] = proxy.runtime.connections
    for _ in range(3):
        now = connection.deadline if connection.deadline < 1e12 else 1e9
        connection.on_deadline(now + 3600)
    peer.take()
    upstream.receive(b"still here")
    assert peer.take() == b"still here"
    peer.reset()
    await turn()
    proxy.settled()
    await proxy.runtime.close()


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


# --- Whose word a response is ---

FORGED = b'Proxy-Status: pymesh; error=connection_refused; details="forged"\r\n'


def facing(direction: str, upstream: RawUpstream) -> str:
    """A sidecar's listener of that direction."""
    listener = http_listener([route("service")]) | {"traffic_direction": direction}
    return bootstrap([listener], [cluster("service", upstream.address)])


@pytest.mark.parametrize(
    ("direction", "fields", "told"),
    [
        ("INBOUND", FORGED, False),
        ("INBOUND", b"Proxy-Status: nginx\r\n" + FORGED, False),
        ("INBOUND", b"Proxy-Status: nginx; error=destination_unavailable\r\n", True),
        ("OUTBOUND", FORGED, True),  # from there it is the other sidecar's word
    ],
)
async def test_an_app_does_not_speak_in_its_sidecars_name(direction: str, fields: bytes, told: bool) -> None:
    """The caller's sidecar, which believes ours, would send the request again although the app has seen it."""
    response = b"HTTP/1.1 503 No\r\n" + fields + b"content-length: 2\r\n\r\nno"
    async with (
        RawUpstream() as upstream,
        running(facing(direction, upstream)) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(GET)
        await answer(await upstream.accept(), response)
        head, _ = await peer.message()
        assert status(head) == 503
        assert (b"proxy-status:" in head.lower()) is told


# --- Answers of our own ---


async def test_no_route_no_cluster_no_endpoint() -> None:
    listener = http_listener([route(prefix="/empty"), route("missing", prefix="/missing")])
    config = bootstrap([listener], [cluster("service"), cluster("missing")])
    async with running(config) as proxy, client(proxy.address) as peer:
        proxy.runtime.snapshot.clusters.pop("missing")  # type: ignore[attr-defined]  # a cluster that went away
        for path, expected, flag in [
            (b"/", 404, Flag.NO_ROUTE), (b"/missing", 503, Flag.NO_CLUSTER), (b"/empty", 503, Flag.NO_HEALTHY_UPSTREAM),
        ]:  # fmt: skip
            peer.send(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path)
            head, _ = await peer.message()
            assert status(head) == expected
            assert proxy.runtime.recent[-1].flag is flag


# --- Filters ---


class Witness:
    """A filter that remembers which hooks were called."""

    def __init__(self, on_request: Callable[[RequestContext], Verdict | Awaitable[Verdict]] | None = None) -> None:
        self.calls: list[str] = []
        self._on_request = on_request
        self.records: list[RequestRecord] = []

    def request(self, context: RequestContext) -> Verdict | Awaitable[Verdict]:
        """See filters.base."""
        self.calls.append("request")
        return None if self._on_request is None else self._on_request(context)

    def response(self, _: RequestContext, head: Head) -> None:
        """See filters.base."""
        self.calls.append("response")
        head.set(b"x-witness", b"seen")

    def complete(self, record: RequestRecord) -> None:
        """See filters.base."""
        self.calls.append("complete")
        self.records.append(record)

    @property
    def filter(self) -> HttpFilter:
        """It, as a filter."""
        return HttpFilter("witness", self.request, self.response, self.complete)


TEAPOT = LocalReply(418, Flag.UNAUTHORIZED_EXTERNAL_SERVICE, "teapot", b"short and stout", ((b"x-tea", b"yes"),))


async def later(value: Verdict) -> Verdict:
    await asyncio.sleep(0)
    return value


async def refuse() -> Verdict:
    await asyncio.sleep(0)
    raise failure(Flag.NO_ROUTE, "refused_by_filter")


def fail(_: object) -> Verdict:
    raise ZeroDivisionError("a fault in the filter")


async def fail_later() -> Verdict:
    await asyncio.sleep(0)
    raise ZeroDivisionError("a fault in the filter")


def raise_refusal(_: object) -> Verdict:
    raise ProxyError(429, Flag.RATE_LIMITED, "too_many")


@pytest.mark.parametrize(
    ("hook", "expected"),
    [(lambda _: TEAPOT, 418), (lambda _: later(TEAPOT), 418), (raise_refusal, 429), (lambda _: refuse(), 404)],
    ids=["reply", "reply later", "raise", "raise later"],
)
async def test_a_filter_answers(hook: Callable[[RequestContext], Verdict], expected: int) -> None:
    witness, after = Witness(hook), Witness()
    async with (
        RawUpstream() as upstream,
        running(simple(upstream.address), filters=[witness.filter, after.filter]) as proxy,
        client(proxy.address) as peer,
    ):
        for _ in range(2):
            peer.send(GET)
            head, body = await peer.message()
            assert status(head) == expected
            if expected == 418:
                assert body == b"short and stout"
                assert b"x-tea: yes\r\n" in head
        assert witness.calls == ["request", "complete"] * 2
        assert after.calls == ["complete"] * 2
        assert upstream.connections == 0
        if expected == 418:  # where it would have gone is known, as with Envoy
            assert {record.cluster for record in witness.records} == {"service"}


@pytest.mark.parametrize("hook", [None, lambda _: later(None)], ids=["at once", "later"])
async def test_a_filter_lets_pass_and_sees_the_response(
    hook: Callable[[RequestContext], Awaitable[Verdict]] | None,
) -> None:
    outer, inner = Witness(hook), Witness(hook)
    async with (
        RawUpstream() as upstream,
        running(simple(upstream.address), filters=[outer.filter, inner.filter]) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(post(b"body"))
        served = await upstream.accept()
        assert (await served.message())[1] == b"body"
        served.send(OK)
        head, body = await peer.message()
        assert body == b"ok"
        assert head.count(b"x-witness: seen\r\n") == 1
        assert outer.calls == inner.calls == ["request", "response", "complete"]
        assert outer.records == [await proxy.record()]


async def test_on_complete_comes_once_whatever_became_of_the_request() -> None:
    witness = Witness()
    async with RawUpstream() as upstream, running(simple(upstream.address), filters=[witness.filter]) as proxy:
        async with client(proxy.address) as peer:
            peer.send(b"nonsense\r\n\r\n")
            await peer.head()
        await proxy.settled()
        assert witness.calls == ["complete"]
        async with client(proxy.address) as peer:
            peer.send(GET)
            served = await upstream.accept()
            await served.head()
            peer.reset()
            assert await served.ended()
        await proxy.settled()
        assert witness.calls == ["complete", "request", "complete"]
        assert [record.status for record in witness.records] == [400, 0]


async def test_a_client_that_goes_while_a_filter_asks_cancels_the_question() -> None:
    cancelled = asyncio.Event()

    async def ask() -> Verdict:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return None

    witness = Witness(lambda _: ask())
    async with RawUpstream() as upstream, running(simple(upstream.address), filters=[witness.filter]) as proxy:
        async with client(proxy.address) as peer:
            peer.send(GET)
            await eventually(lambda: witness.calls)
            peer.close()
            async with asyncio.timeout(5):
                await cancelled.wait()
        await proxy.settled()
        assert witness.calls == ["request", "complete"]
        assert witness.records[0].flag is Flag.DOWNSTREAM_CONNECTION_TERMINATION
        assert upstream.connections == 0


@pytest.mark.parametrize("hook", [fail, lambda _: fail_later()], ids=["at once", "later"])
async def test_a_filter_that_fails_costs_one_request_and_is_told(
    hook: Callable[[RequestContext], Verdict], caplog: pytest.LogCaptureFixture
) -> None:
    witness = Witness(hook)
    async with (
        RawUpstream() as upstream,
        running(simple(upstream.address), filters=[witness.filter]) as proxy,
        client(proxy.address) as peer,
    ):
        for _ in range(2):
            peer.send(GET)
            head, _ = await peer.message()
            assert status(head) == 500
            assert b"filter_failed{witness}" in head
        assert witness.calls == ["request", "complete"] * 2
        assert proxy.counter("envoy_http_downstream_filter_errors_total") == 2
        assert "filter witness failed on GET /" in caplog.text
        assert "ZeroDivisionError" in caplog.text
        assert upstream.connections == 0


async def test_a_filter_that_fails_on_the_response_costs_one_request() -> None:
    broken = HttpFilter("broken", on_response=lambda *_: fail(None))
    witness = Witness()
    async with (
        RawUpstream() as upstream,
        running(simple(upstream.address), filters=[broken, witness.filter]) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(GET)
        served = await upstream.accept()
        await answer(served, OK)
        head, _ = await peer.message()
        assert status(head) == 500
        assert b"filter_failed{broken}" in head
        assert await served.ended()
        assert witness.calls == ["request", "response", "complete"]


async def test_a_filter_or_observer_that_fails_at_the_end_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    broken = HttpFilter("broken", on_complete=fail)
    witness = Witness()
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with RawUpstream() as upstream, running(simple(upstream.address), filters=[broken, witness.filter]) as proxy:
        proxy.runtime.observers.append(fail)
        async with client(proxy.address) as peer:
            peer.send(GET + GET)
            served = await upstream.accept()
            for _ in range(2):
                await answer(served, OK)
                assert (await peer.message())[1] == b"ok"
            await proxy.records(2)
            assert witness.calls.count("complete") == 2
            assert "filter broken failed" in caplog.text
            assert len(told) == 2


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


async def test_nothing_of_a_request_is_left_to_the_garbage_collector() -> None:
    """Objects that know each other in a circle stay until it runs, and it stops everything while it does."""
    proxy = MemoryProxy()
    peer = proxy.client()
    peer.receive(GET)
    upstream = await proxy.upstream()
    upstream.receive(OK)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for request in (GET, post(b"ab"), GET):
            peer.receive(request)
            upstream.receive(OK)
        gc.collect()
        left = [item for item in gc.garbage if isinstance(item, Exchange | Attempts | RequestRecord | Head)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert left == []
