"""The downstream side: bodies and answers as they come, no faster than they are taken, and in turns with others."""

import asyncio
from dataclasses import replace

import pytest

from pymesh_proxy.connection import MAX_PIPELINED, TURN_REQUESTS
from pymesh_proxy.timers import TICK
from pymesh_proxy.upstream.pool import WRITE_HIGH_WATER
from tests.support.inprocess import Running, running, simple
from tests.support.memory import MemoryProxy, MemoryTransport, turn
from tests.support.messages import GET, OK, serve
from tests.support.peers import RawUpstream, client
from tests.support.waiting import eventually


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
