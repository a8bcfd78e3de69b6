"""The downstream side: requests in order, refusals that arrive, an end for everything."""

import asyncio

import pytest

from pymesh_proxy.errors import Flag
from tests.support.inprocess import bootstrap, cluster, http_listener, route, running, simple
from tests.support.memory import MemoryProxy, turn
from tests.support.messages import GET, OK, serve
from tests.support.peers import Peer, RawUpstream, client
from tests.support.waiting import eventually

# --- One after the other ---


async def test_both_sides_are_kept_alive_and_the_upstream_connection_is_used_again() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy:
        async with client(proxy.address) as peer:
            peer.send(GET)
            served = await upstream.accept()
            await serve(served, OK)
            head, body = await peer.message()
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"connection:" not in head
            assert body == b"ok"
            for _ in range(3):
                peer.send(GET)
                await serve(served, OK)
                assert (await peer.message())[1] == b"ok"
        async with client(proxy.address) as second:
            second.send(GET)
            await serve(served, OK)
            assert (await second.message())[1] == b"ok"
        records = await proxy.records(5)
        assert [record.reused for record in records] == [False, True, True, True, True]
        assert upstream.connections == 1


async def test_pipelined_requests_are_answered_in_order_and_sent_one_by_one() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(b"".join(b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % number for number in range(5)))
        served = await upstream.accept()
        for number in range(5):
            head = await served.head()
            assert head.startswith(b"GET /%d " % number)
            served.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % number)
            assert (await peer.message())[1] == b"%d" % number
        assert upstream.connections == 1


async def test_a_pipelined_request_behind_a_body_is_found_wherever_the_bytes_are_cut() -> None:
    both = (
        b"POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"
        b"PUT /2 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nde\r\n0\r\nt: 1\r\n\r\n"
    )
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        served: Peer | None = None
        for cut in range(0, len(both), 7):
            peer.send(both[:cut])
            await peer.drain()
            await asyncio.sleep(0)
            peer.send(both[cut:])
            served = served or await upstream.accept()
            assert (await served.head()).startswith(b"POST /1 ")
            assert await served.exactly(3) == b"abc"
            served.send(OK)
            assert (await served.head()).startswith(b"PUT /2 ")
            assert await served.until(b"t: 1\r\n\r\n") == b"2;x=y\r\nde\r\n0\r\nt: 1\r\n\r\n"
            served.send(OK)
            assert (await peer.message())[1] == b"ok"
            assert (await peer.message())[1] == b"ok"


async def test_nothing_is_taken_from_behind_the_last_request() -> None:
    """RFC 9112 9.6: a server does not process what follows a request that said close, or an answer that did."""
    direct = {"match": {"prefix": "/direct"}, "direct_response": {"status": 200}}
    async with RawUpstream() as upstream:
        config = bootstrap([http_listener([direct, route()])], [cluster("service", upstream.address)])
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(b"GET /direct HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" + GET)
            head, _ = await peer.message()
            assert b"connection: close\r\n" in head
            assert await peer.ended()
            assert (await proxy.record()).path == "/direct"
            assert upstream.connections == 0


# --- The end ---


async def test_a_client_that_ends_its_side_is_gone() -> None:
    """As in Envoy and nginx: nobody computes an answer for a client that has hung up."""
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        peer.end()
        assert await served.ended()
        record = await proxy.record()
        assert (record.status, record.flag) == (0, Flag.DOWNSTREAM_CONNECTION_TERMINATION)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("when", ["head", "body", "waiting", "response"])
async def test_a_client_that_goes_takes_the_request_along(how: str, when: str) -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        if when == "head":
            peer.send(b"GET / HTTP/1.1\r\nho")
            await eventually(lambda: any(item._buffer for item in proxy.runtime.connections))
            getattr(peer, how)()
            await proxy.settled()
            assert proxy.counter("envoy_http_downstream_rq_total") == 0
            return
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab" + b"cd" * (when != "body"))
        served = await upstream.accept()
        await served.head()
        if when == "response":
            served.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
            await peer.until(b"ab")
        getattr(peer, how)()
        await served.ended()
        record = await proxy.record()
        assert record.flag is Flag.DOWNSTREAM_CONNECTION_TERMINATION
        assert record.details == "downstream_remote_disconnect"
        assert record.status == (200 if when == "response" else 0)


async def test_an_idle_connection_ends_after_its_time() -> None:
    manager = {"common_http_protocol_options": {"idle_timeout": "0.05s"}}
    config = bootstrap([http_listener([route()], **manager)], [cluster("service")])
    async with running(config) as proxy, client(proxy.address) as peer:
        assert await peer.ended()


async def test_half_a_head_is_waited_for_so_long_and_then_told() -> None:
    config = bootstrap([http_listener([route()], request_headers_timeout="0.05s")], [cluster("service")])
    async with running(config) as proxy, client(proxy.address) as peer:
        peer.send(b"GET / HTTP/1.1\r\nhost")
        head, _ = await peer.message()
        assert head.startswith(b"HTTP/1.1 408 ")
        assert await peer.ended()
        assert (await proxy.record()).details == "request_header_timeout"


async def test_a_connection_that_is_over_does_not_wait_for_a_client_that_takes_nothing() -> None:
    proxy = MemoryProxy(idle_timeout=1.0)
    peer = proxy.client()
    peer.receive(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    upstream = await proxy.upstream()
    upstream.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
    peer.fill()
    upstream.receive(b"ok", late=True)
    [connection] = proxy.runtime.connections
    assert peer.closed
    assert not peer.aborted
    for _ in range(3):
        peer.written = peer.written[:-1]  # it takes a little: that is life
        connection.on_deadline(connection.deadline)
        assert not peer.aborted
    connection.on_deadline(connection.deadline)
    assert peer.aborted
    await turn()
    proxy.settled()
    await proxy.runtime.close()


async def test_half_a_request_does_not_disturb_others() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as slow:
        slow.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-")
        async with client(proxy.address) as quick:
            served: Peer | None = None
            for _ in range(50):
                quick.send(GET)
                served = served or await upstream.accept()
                await serve(served, OK)
                assert (await quick.message())[1] == b"ok"
        slow.send(b"length: 1\r\n\r\n")
        assert served
        assert (await served.head()).startswith(b"POST ")
        slow.send(b"x")
        assert await served.exactly(1) == b"x"
        served.send(OK)
        assert (await slow.message())[1] == b"ok"


# --- Refused ---


BAD = {
    "two lengths": (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde", 400),
    "length and chunked": (
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400,
    ),
    "chunked, identity": (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501),
    "xchunked": (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "space before colon": (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "folded": (b"GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n\tb\r\n\r\n", 400),
    "bare line feed": (b"GET / HTTP/1.1\nhost: a\n\n", 400),
    "signed length": (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +4\r\n\r\nabcd", 400),
    "connection takes the length": (
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nconnection: content-length\r\n\r\nabcd", 400,
    ),
    "two hosts": (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nhost: a\r\n\r\n", 400),
    "garbage": (b"\x00\x01\x02\x03\r\n\r\n", 400),
    "control character": (b"GET / HTTP/1.1\r\nhost: a\r\nx: \x01\r\n\r\n", 400),
    "too many headers": (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 101 + b"\r\n", 431),
    "a header too long": (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * (64 << 10) + b"\r\n\r\n", 431),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_what_breaks_the_grammar_is_answered_and_reaches_nobody(name: str) -> None:
    data, status = BAD[name]
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(data + GET)  # what follows is no request either: nobody knows where it begins
        head, _ = await peer.message()
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"connection: close\r\n" in head
        assert await peer.rest() == b""
        record = await proxy.record()
        assert (record.status, record.flag) == (status, Flag.DOWNSTREAM_PROTOCOL_ERROR)
        assert record.details.startswith("http1.")
        assert proxy.counter("envoy_http_downstream_protocol_errors_total") == 1
        assert upstream.connections == 0


@pytest.mark.parametrize("size", [1 << 10, 512 << 10])
async def test_a_refusal_arrives_although_the_client_is_still_sending(size: int) -> None:
    """Closing with unread bytes would have the kernel throw the answer away (RFC 9112 9.6)."""
    async with running(simple(("127.0.0.1", 1))) as proxy, client(proxy.address) as peer:
        peer.send(b"GET / HTTP/1.1\r\nbad header: 1\r\n\r\n")
        [connection] = await eventually(lambda: proxy.runtime.connections)
        await eventually(lambda: connection._ending, what="it lingers")
        assert not connection.transport.is_closing()
        peer.send(bytes(size))
        await peer.drain()
        assert (await peer.message())[0].startswith(b"HTTP/1.1 400 ")
        assert await peer.rest() == b""


async def test_a_body_that_breaks_its_framing_is_answered_and_cut_off_upstream() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
        served = await upstream.accept()
        await served.head()
        assert await served.exactly(7) == b"2\r\nab\r\n"
        peer.send(b"zz\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await peer.message())[0].startswith(b"HTTP/1.1 400 ")
        assert await peer.rest() == b""
        assert await served.ended()
        record = await proxy.record()
        assert (record.flag, record.details) == (Flag.DOWNSTREAM_PROTOCOL_ERROR, "http1.invalid_chunk_size")


# --- Shutting down ---


async def test_draining_lets_requests_finish_and_says_close() -> None:
    async with (
        RawUpstream() as upstream,
        running(simple(upstream.address)) as proxy,
        client(proxy.address) as busy,
        client(proxy.address) as idle,
    ):
        busy.send(GET)
        served = await upstream.accept()
        await served.head()
        await eventually(lambda: len(proxy.runtime.connections) == 2)
        proxy.runtime.drain()
        assert await idle.ended()
        served.send(OK)
        head, body = await busy.message()
        assert b"connection: close\r\n" in head
        assert body == b"ok"
        assert await busy.ended()


async def test_a_client_that_has_not_heard_of_the_end_is_answered() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as idle:
        await eventually(lambda: len(proxy.runtime.connections) == 1)
        proxy.runtime.drain()
        idle.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi")
        served = await upstream.accept()
        await served.head()
        served.send(OK)
        head, body = await idle.message()
        assert (b"connection: close\r\n" in head, body) == (True, b"ok")
        assert await idle.ended()
