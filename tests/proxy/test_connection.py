"""The downstream side: requests in order, bodies as they come, refusals that arrive, an end for everything."""

import asyncio
from dataclasses import replace

import pytest

from pymesh_proxy.connection import MAX_PIPELINED, TURN_REQUESTS
from pymesh_proxy.errors import Flag
from pymesh_proxy.timers import TICK
from pymesh_proxy.upstream.pool import WRITE_HIGH_WATER
from tests.support.inprocess import Running, bootstrap, cluster, http_listener, route, running, simple
from tests.support.memory import MemoryProxy, MemoryTransport, turn
from tests.support.peers import Peer, RawUpstream, client
from tests.support.waiting import eventually

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def serve(upstream: Peer, *answers: bytes) -> list[bytes]:
    """Answer so many requests without a body, one after the other; their heads."""
    heads = []
    for answer in answers:
        heads.append(await upstream.head())
        upstream.send(answer)
    return heads


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


# --- Bodies ---


@pytest.mark.parametrize(
    ("head", "parts"),
    [
        (b"content-length: 10", [b"01234", b"56789"]),
        (b"transfer-encoding: chunked", [b"5\r\n01234\r\n", b"5\r\n56789\r\n0\r\n\r\n"]),
    ],
)
async def test_a_body_goes_on_as_it_comes_both_ways(head: bytes, parts: list[bytes]) -> None:
    """The first bytes have arrived before the last are sent."""
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\n" + head + b"\r\n\r\n" + parts[0])
        served = await upstream.accept()
        assert head in await served.head()
        assert await served.exactly(len(parts[0])) == parts[0]
        peer.send(parts[1])
        assert await served.exactly(len(parts[1])) == parts[1]
        served.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + parts[0])
        assert head in await peer.head()
        assert await peer.exactly(len(parts[0])) == parts[0]
        served.send(parts[1])
        assert await peer.exactly(len(parts[1])) == parts[1]
        peer.send(GET)
        await serve(served, OK)
        assert (await peer.message())[1] == b"ok"
        first, _ = await proxy.records(2)
        assert first.bytes_received == first.bytes_sent == len(b"".join(parts))


async def test_an_upstream_that_does_not_read_stops_the_client_and_gets_every_byte_in_the_end() -> None:
    size = 24 << 20
    async with (
        RawUpstream(receive_buffer=4096) as upstream,
        running(simple(upstream.address)) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size)
        peer.send(bytes(size))
        served = await upstream.accept()
        await served.head()
        await eventually(lambda: next(iter(proxy.runtime.connections))._paused, what="the client is not read")
        assert peer.writer.transport.get_write_buffer_size() > size // 2
        assert held_upstream(proxy) < 4 * WRITE_HIGH_WATER
        received = 0
        while received < size:
            received += len(await served.reader.read(1 << 20))
        assert received == size
        served.send(OK)
        assert (await peer.message())[1] == b"ok"


def held_upstream(proxy: Running) -> int:
    """Bytes queued towards the upstream of the only exchange."""
    [connection] = proxy.runtime.connections
    return int(connection._exchange._attempts.upstream.transport.get_write_buffer_size())  # type: ignore[attr-defined]


async def test_a_client_that_does_not_read_stops_the_upstream_and_gets_every_byte_in_the_end() -> None:
    size = 24 << 20
    async with (
        RawUpstream() as upstream,
        running(simple(upstream.address)) as proxy,
        client(proxy.address, receive_buffer=4096) as peer,
    ):
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
        [connection] = proxy.runtime.connections
        await eventually(
            lambda: connection.transport.get_write_buffer_size() > WRITE_HIGH_WATER, what="the client is stalled"
        )
        await asyncio.sleep(5 * TICK)
        assert connection.transport.get_write_buffer_size() < 4 * WRITE_HIGH_WATER
        assert served.writer.transport.get_write_buffer_size() > size // 2
        await peer.head()
        received = 0
        while received < size:
            received += len(await peer.reader.read(1 << 20))
        assert received == size


async def test_a_connection_is_pooled_able_to_read_although_its_last_client_was_stalled() -> None:
    """The bytes that fill the client's buffer may be the last of the response."""
    proxy = MemoryProxy()
    stalled, other = proxy.client(), proxy.client()
    stalled.receive(GET)
    upstream = await proxy.upstream()
    upstream.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
    stalled.fill()
    assert not upstream.reading
    upstream.receive(b"ok", late=True)
    other.receive(GET)
    upstream.take()
    upstream.receive(OK)
    assert other.take().endswith(b"ok")
    await finish(proxy, stalled, other)


async def finish(proxy: MemoryProxy, *clients: MemoryTransport) -> None:
    """The clients leave; nothing may be left of them."""
    for transport in clients:
        transport.reset()
    await turn()
    proxy.settled()
    await proxy.runtime.close()


@pytest.mark.parametrize(
    ("head", "came", "rest"),
    [
        (b"content-length: 5", b"hello", b""),
        (b"content-length: 5", b"he", b"llo"),
        (b"transfer-encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n", b""),
        (b"transfer-encoding: chunked", b"5\r\nhello\r\n", b"0\r\n\r\n"),
    ],
)
async def test_what_came_of_a_body_with_its_head_goes_on_in_the_same_write(
    head: bytes, came: bytes, rest: bytes
) -> None:
    proxy = MemoryProxy()
    peer = proxy.client()
    peer.receive(GET)
    upstream = await proxy.upstream()
    upstream.receive(OK)
    upstream.take()
    before = upstream.writes
    peer.receive(b"POST / HTTP/1.1\r\nhost: a\r\n%b\r\n\r\n%b" % (head, came))
    assert upstream.writes == before + 1
    assert upstream.take().endswith(b"\r\n\r\n" + came)
    if rest:
        peer.receive(rest)
        assert upstream.take() == rest
    upstream.receive(OK)
    peer.receive(GET)
    assert proxy.runtime.recent[1].bytes_received == len(came + rest)
    assert upstream.take().startswith(b"GET ")
    upstream.receive(OK)
    proxy.settled()
    await proxy.runtime.close()


async def test_a_client_that_does_not_read_its_answers_gets_no_more_of_them() -> None:
    """Pipelined requests are answered into a buffer that somebody empties, or not at all: it must stay small."""
    proxy = MemoryProxy()
    peer = proxy.client()
    peer.receive(GET)
    upstream = await proxy.upstream()
    upstream.take()
    upstream.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
    peer.fill()
    upstream.receive(b"ok", late=True)
    peer.receive(GET + GET)
    assert upstream.take() == b""
    assert not peer.reading
    peer.drain()
    assert upstream.take().startswith(b"GET / ")
    upstream.receive(OK)
    assert upstream.take().startswith(b"GET / ")
    upstream.receive(OK)
    assert peer.reading
    assert peer.take().count(b"HTTP/1.1 200 OK") == 3
    await finish(proxy, peer)


async def test_pipelined_bytes_are_bounded() -> None:
    proxy = MemoryProxy()
    peer = proxy.client()
    peer.receive(GET)
    upstream = await proxy.upstream()
    while peer.reading:
        peer.receive(GET * 100)
    [connection] = proxy.runtime.connections
    waiting = len(connection._buffer)
    assert MAX_PIPELINED < waiting < 2 * MAX_PIPELINED
    answered = 0
    while upstream.take():
        upstream.receive(OK)
        answered += 1
    assert answered == 1 + waiting // len(GET)
    assert peer.reading
    await finish(proxy, peer)


async def test_requests_that_the_proxy_answers_itself_leave_others_their_turn() -> None:
    """All that one read brings is answered, in order, so many in a turn; meanwhile nothing more is read."""
    proxy = MemoryProxy()
    proxy.runtime.snapshot = replace(proxy.runtime.snapshot, clusters={})  # so each is answered at once
    peer = proxy.client()
    count = 3 * TURN_REQUESTS + 5
    peer.receive(GET * count)
    answered = [peer.take().count(b"HTTP/1.1 503 ")]
    peer.receive(GET[:5], late=True)
    while sum(answered) < count:
        assert not peer.reading
        await turn(1)
        answered.append(peer.take().count(b"HTTP/1.1 503 "))
    assert answered == [TURN_REQUESTS] * 3 + [5]
    assert peer.reading
    peer.receive(GET[5:])
    assert peer.take().count(b"HTTP/1.1 503 ") == 1
    await finish(proxy, peer)


@pytest.mark.parametrize("how", ["full", "reset", "bad", "drain"])
async def test_answers_in_turns_end_with_the_connection(how: str) -> None:
    proxy = MemoryProxy()
    proxy.runtime.snapshot = replace(proxy.runtime.snapshot, clusters={})
    peer = proxy.client()
    peer.receive(GET * (TURN_REQUESTS + 2) + (b"\0\r\n\r\n" + GET if how == "bad" else b""))
    if how == "full":
        peer.fill()
        await turn()
        assert (peer.take().count(b"HTTP/1.1 503 "), peer.reading) == (TURN_REQUESTS, False)
        peer.drain()
        assert (peer.take().count(b"HTTP/1.1 503 "), peer.reading) == (2, True)
    elif how == "reset":
        peer.reset()
        await turn()
        assert peer.take().count(b"HTTP/1.1 503 ") == TURN_REQUESTS
    elif how == "bad":
        await turn()
        said = peer.take()
        assert (said.count(b"HTTP/1.1 503 "), said.count(b"HTTP/1.1 400 ")) == (TURN_REQUESTS + 2, 1)
        assert peer.ended
    else:
        proxy.runtime.drain()
        await turn()
        said = peer.take()
        assert (said.count(b"HTTP/1.1 503 "), said.count(b"connection: close")) == (TURN_REQUESTS + 1, 1)
        assert peer.is_closing()
    await finish(proxy, peer)


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
        await eventually(lambda: connection._linger_left >= 0, what="it lingers")
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


async def test_an_http_1_0_client_is_told_to_upgrade_unless_it_is_welcome() -> None:
    async with RawUpstream() as upstream:
        async with running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
            peer.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await peer.message())[0].startswith(b"HTTP/1.1 426 ")
            assert await peer.ended()
            assert upstream.connections == 0
        accepting = http_listener([route()], http_protocol_options={"accept_http_10": True})
        config = bootstrap([accepting], [cluster("service", upstream.address)])
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(b"GET /1 HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
            served = await upstream.accept()
            await serve(served, OK)
            head, body = await peer.message()
            assert (head[:9], body) == (b"HTTP/1.1 ", b"ok")
            assert b"connection: keep-alive\r\n" in head
            peer.send(b"GET /2 HTTP/1.0\r\nhost: a\r\n\r\n")
            await serve(served, OK)
            assert b"connection: close\r\n" in (await peer.message())[0]
            assert await peer.ended()


CHUNKS = b"2;x=y\r\nab\r\n1\r\nc\r\n0\r\nt: 1\r\n\r\n"


@pytest.mark.parametrize("cut", range(len(CHUNKS) + 1))
async def test_a_chunked_answer_is_content_and_an_end_to_an_http_1_0_client(cut: int) -> None:
    """RFC 9112 6.1: the client would take the chunks for content."""
    proxy = MemoryProxy(accept_http_10=True)
    peer = proxy.client()
    peer.receive(b"GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\nexpect: 100-continue\r\n\r\n")
    upstream = await proxy.upstream()
    head = upstream.take()
    assert head.startswith(b"GET / HTTP/1.1\r\n")
    assert b"\r\nexpect:" not in head
    upstream.receive(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKS[:cut])
    if cut < len(CHUNKS):
        upstream.receive(CHUNKS[cut:])
    head, _, body = peer.take().partition(b"\r\n\r\n")
    assert body == b"abc"
    assert b"connection: close" in head
    assert b"transfer-encoding" not in head
    assert peer.closed
    assert len(proxy.endpoints[0].idle) == 1


async def test_a_truncated_chunked_answer_is_a_reset_to_an_http_1_0_client() -> None:
    async with RawUpstream() as upstream:
        accepting = http_listener([route()], http_protocol_options={"accept_http_10": True})
        config = bootstrap([accepting], [cluster("service", upstream.address)])
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n")
            served = await upstream.accept()
            await served.head()
            served.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
            await peer.until(b"\r\n\r\nab")
            served.send(b"x")
            with pytest.raises(ConnectionResetError):
                await peer.rest()
            assert (await proxy.record()).flag is Flag.UPSTREAM_PROTOCOL_ERROR


async def test_a_chunked_answer_to_head_has_no_body_for_an_http_1_0_client() -> None:
    proxy = MemoryProxy(accept_http_10=True)
    peer = proxy.client()
    peer.receive(b"HEAD / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
    (await proxy.upstream()).receive(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    head = peer.take()
    assert head.endswith(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: keep-alive" in head


# --- Another configuration ---


async def test_a_connection_ends_when_its_connection_manager_is_not_in_force_any_more() -> None:
    """With the answer to its next request: the one after it finds what holds now."""
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await serve(served, OK)
        assert b"connection:" not in (await peer.message())[0]
        proxy.runtime.adopt(proxy.runtime.snapshot)
        peer.send(GET)
        await serve(served, OK)
        assert b"connection:" not in (await peer.message())[0], "the same managers again"
        proxy.runtime.adopt(replace(proxy.runtime.snapshot, listeners={}))
        peer.send(GET)
        await serve(served, OK)
        head, body = await peer.message()
        assert b"connection: close\r\n" in head
        assert body == b"ok"
        assert await peer.ended()


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
