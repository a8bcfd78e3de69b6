"""What the configuration bounds in time and number: connections and requests."""

import asyncio
from time import monotonic

import pytest

from pymesh_proxy import connection as connection_module
from pymesh_proxy import exchange as exchange_module
from pymesh_proxy.errors import Flag
from pymesh_proxy.keep_alive import DRAIN_IDLE
from tests.support.inprocess import bootstrap, cluster, http_listener, route, running
from tests.support.memory import MemoryProxy, turn
from tests.support.messages import GET, OK
from tests.support.peers import RawUpstream, client

POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"


class Clock:
    """The connection's clock, which the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.start = self.now = monotonic()  # the timers' clock goes on as ever
        monkeypatch.setattr(connection_module, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# --- How long a request may take to arrive ---


@pytest.mark.parametrize("sent", [POST + b"x", POST[:20]], ids=["body", "head"])
async def test_a_request_that_does_not_arrive_in_time_is_408(sent: bytes) -> None:
    async with RawUpstream() as upstream:
        config = bootstrap([http_listener([route()], request_timeout="0.05s")], [cluster("service", upstream.address)])
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(sent)
            assert (await peer.head()).startswith(b"HTTP/1.1 408 ")
            record = await proxy.record()
            assert (record.flag, record.details) == (Flag.DURATION_TIMEOUT, "request_overall_timeout")


async def test_a_request_that_has_arrived_may_take_longer() -> None:
    async with RawUpstream() as upstream:
        config = bootstrap([http_listener([route()], request_timeout="0.05s")], [cluster("service", upstream.address)])
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(POST + b"xy")
            served = await upstream.accept()
            await served.until(b"xy")
            await asyncio.sleep(0.3)  # several ticks of the timers past the limit
            served.send(OK)
            assert (await peer.message())[1] == b"ok"


async def test_the_time_of_a_request_begins_with_its_first_byte(clock: Clock) -> None:
    proxy = MemoryProxy(request_timeout=10.0)
    peer = proxy.client()
    peer.receive(POST[:9])
    clock.now += 9
    peer.receive(POST[9:])
    exchange = peer.protocol._exchange  # type: ignore[attr-defined]  # the protocol is the connection
    assert exchange.body.arrive_by == clock.start + 10.0
    peer.reset()


async def test_the_routes_word_on_idle_streams_counts_and_not_the_managers() -> None:
    async with RawUpstream() as upstream:
        listener = http_listener([route(timeout="0s", idle_timeout="0.05s")], stream_idle_timeout="100s")
        async with (
            running(bootstrap([listener], [cluster("service", upstream.address)])) as proxy,
            client(proxy.address) as peer,
        ):
            peer.send(GET)
            assert (await peer.head()).startswith(b"HTTP/1.1 504 ")
            assert (await proxy.record()).flag is Flag.STREAM_IDLE_TIMEOUT


async def test_a_stream_that_moves_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    now = monotonic()
    monkeypatch.setattr(exchange_module, "monotonic", lambda: now)
    proxy = MemoryProxy(stream_idle_timeout=10.0)
    peer = proxy.client()
    peer.receive(POST)
    exchange = peer.protocol._exchange  # type: ignore[attr-defined]  # the protocol is the connection
    upstream = await proxy.upstream()
    for moves in (lambda: peer.receive(b"x"), lambda: upstream.receive(OK[:-2]), lambda: upstream.receive(b"o")):
        now += 9
        moves()
        assert exchange.deadlines().idle >= now + 1
    assert exchange.deadlines().idle == now + 10
    peer.reset()


# --- How long a connection lives ---


async def test_the_last_request_of_a_connection_is_told_so() -> None:
    options = {"common_http_protocol_options": {"max_requests_per_connection": 2}}
    async with RawUpstream() as upstream:
        config = bootstrap([http_listener([route()], **options)], [cluster("service", upstream.address)])
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(GET * 3)
            kept = await upstream.accept()
            for number in range(2):
                await kept.head()
                kept.send(OK)
                head, _ = await peer.message()
                assert (b"connection: close\r\n" in head) is (number == 1)
            assert await peer.ended()
            assert len(await proxy.records(2)) == 2


async def test_a_connection_past_its_life_takes_one_more_request_and_says_close(clock: Clock) -> None:
    proxy = MemoryProxy(max_connection_duration=100.0, drain_timeout=5.0)
    peer = proxy.client()
    answers = []
    upstream = None
    for late in (0.0, 103.0):
        clock.now = clock.start + late
        peer.protocol.on_deadline(clock.now)  # type: ignore[attr-defined]  # the protocol is the connection
        peer.receive(GET)
        upstream = upstream or await proxy.upstream()
        upstream.receive(OK)
        await turn()
        answers.append(b"connection: close" in peer.take())
    assert answers == [False, True]
    assert peer.closed


async def test_a_connection_past_its_life_that_is_idle_is_closed(clock: Clock) -> None:
    proxy = MemoryProxy(max_connection_duration=100.0, drain_timeout=5.0)
    peer = proxy.client()
    connection = peer.protocol
    for later, closed in ((99.0, False), (104.0, False), (105.0, True)):
        clock.now = clock.start + later
        connection.on_deadline(clock.now)  # type: ignore[attr-defined]  # the protocol is the connection
        assert peer.closed is closed


# --- Between requests ---


@pytest.mark.parametrize("rest", [b"\r", b"\r\n"])
async def test_a_line_end_behind_a_request_is_not_the_next_one(rest: bytes, clock: Clock) -> None:
    proxy = MemoryProxy(request_headers_timeout=1.0)
    peer = proxy.client()
    peer.receive(POST + b"xy" + rest)
    upstream = await proxy.upstream()
    upstream.receive(OK)
    peer.take()
    clock.now += 60
    peer.protocol.on_deadline(clock.now)  # type: ignore[attr-defined]  # the protocol is the connection
    assert (peer.take(), peer.closed) == (b"", False)
    peer.receive(b"\n"[: 2 - len(rest)] + GET)
    upstream.receive(OK)
    assert b" 200 " in peer.take()
    peer.receive(rest)
    proxy.runtime.drain()
    assert not peer.closed
    clock.now += 60
    peer.protocol.on_deadline(clock.now)  # type: ignore[attr-defined]  # as above
    assert peer.closed


async def test_an_idle_connection_has_a_moment_left_when_the_end_comes() -> None:
    proxy = MemoryProxy()
    peer = proxy.client()
    proxy.runtime.drain()
    begun = proxy.runtime.drain_began
    for now, closed in ((begun, False), (begun + 0.9, False), (begun + DRAIN_IDLE, True)):
        peer.protocol.on_deadline(now)  # type: ignore[attr-defined]  # the protocol is the connection
        assert peer.closed is closed


async def test_half_a_head_behind_a_line_end_is_waited_for_so_long(clock: Clock) -> None:
    proxy = MemoryProxy(request_headers_timeout=1.0)
    peer = proxy.client()
    for part in (b"\r", b"\nGE", b"T"):
        peer.receive(part)
    clock.now += 2
    peer.protocol.on_deadline(clock.now)  # type: ignore[attr-defined]  # the protocol is the connection
    assert b" 408 " in peer.take()


async def test_a_long_line_in_small_parts_is_not_parsed_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    parse = connection_module.parse_request

    def counted(*args: object) -> object:
        calls.append(args)
        return parse(*args)  # type: ignore[arg-type]  # passed on as they come

    monkeypatch.setattr(connection_module, "parse_request", counted)
    proxy = MemoryProxy(max_request_headers_bytes=300 * 1024)
    peer = proxy.client()
    peer.receive(b"GET / HTTP/1.1\r\nhost: a\r\nx: ")
    for _ in range(200):
        peer.receive(b"x" * 1024)
    assert len(calls) == 1
    peer.receive(b"\r\n\r\n")
    assert len((await proxy.upstream()).take()) > 200 * 1024
    peer.reset()
    small = MemoryProxy(max_request_headers_bytes=1024).client()
    for _ in range(3):
        small.receive(b"x" * 500)
    assert b" 431 " in small.take()
