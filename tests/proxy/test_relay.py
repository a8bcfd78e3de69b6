"""Opaque TCP on real sockets: every byte, each half by itself, and how a connection ended told to the other side."""

import asyncio
import contextlib
import hashlib
import socket
from random import Random

import pytest

from pymesh_proxy.errors import Flag
from pymesh_proxy.transport.half import READ_SIZE
from pymesh_proxy.upstream.hashing import xxh64
from pymesh_proxy.upstream.pool import WRITE_HIGH_WATER
from tests.support.inprocess import Running, bootstrap, cluster, limits, running, tcp_listener
from tests.support.peers import RawUpstream, client
from tests.support.waiting import eventually


def passing(upstream: RawUpstream, **proxy: object) -> str:
    """A TCP listener in front of `upstream`."""
    return bootstrap([tcp_listener(**proxy)], [cluster("service", upstream.address)])


def relay_of(proxy: Running):
    """The only opaque connection."""
    [relay] = proxy.runtime.connections
    return relay


@pytest.mark.parametrize("first", ["client", "upstream"])
async def test_each_half_ends_by_itself(first: str) -> None:
    async with RawUpstream() as upstream, running(passing(upstream)) as proxy, client(proxy.address) as peer:
        peer.send(b"hello")
        served = await upstream.accept()
        assert await served.exactly(5) == b"hello"
        one, other = (peer, served) if first == "client" else (served, peer)
        one.end()
        assert await other.rest() == b""
        other.send(b"x" * 1_000_000)
        assert await one.exactly(1_000_000) == b"x" * 1_000_000
        other.end()
        assert await one.rest() == b""
        record = await proxy.record()
        assert (record.protocol, record.flag) == ("TCP", Flag.NONE)
        assert sorted([record.bytes_received, record.bytes_sent]) == sorted(
            [5 + 1_000_000 * (first == "upstream"), 1_000_000 * (first == "client")]
        )


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_a_reset_is_passed_on_as_a_reset(who: str) -> None:
    async with RawUpstream() as upstream, running(passing(upstream)) as proxy, client(proxy.address) as peer:
        peer.send(b"hello")
        served = await upstream.accept()
        await served.exactly(5)
        one, other = (peer, served) if who == "client" else (served, peer)
        one.reset()
        with pytest.raises(ConnectionResetError):
            await other.rest()
        await proxy.settled()


async def test_a_reset_does_not_overtake_what_was_sent_before_it() -> None:
    data = hashlib.sha256(b"seed").digest() * 7000  # less than makes the relay stop reading, so it hears of the reset
    async with (
        RawUpstream(receive_buffer=8192) as upstream,
        running(passing(upstream)) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(data)
        served = await upstream.accept()
        relay = await eventually(lambda: relay_of(proxy))
        await eventually(lambda: relay.downstream.bytes == len(data), what="all of it in the relay")
        peer.reset()
        await eventually(lambda: relay.downstream.over, what="the reset")
        assert await served.exactly(len(data)) == data
        with pytest.raises(ConnectionResetError):
            await served.rest()
        await proxy.settled()


async def test_a_reader_that_stops_stops_the_writer_and_gets_every_byte_in_the_end() -> None:
    size = 50 << 20
    async with (
        RawUpstream(receive_buffer=8192) as upstream,
        running(passing(upstream)) as proxy,
        client(proxy.address) as peer,
    ):
        sent = hashlib.sha256()
        for number in range(size >> 16):
            block = hashlib.sha256(b"%d" % number).digest() * (1 << 11)  # no two alike: buffers are used again
            peer.send(block)
            sent.update(block)
        served = await upstream.accept()
        relay = await eventually(lambda: relay_of(proxy))
        await eventually(lambda: relay.downstream._paused, what="the client is not read")
        before = relay.downstream.bytes
        assert relay.upstream.transport.get_write_buffer_size() < 4 * WRITE_HIGH_WATER
        assert peer.writer.transport.get_write_buffer_size() > size // 2
        received = hashlib.sha256()
        left = size
        while left:
            data = await served.reader.read(1 << 20)
            assert data
            received.update(data)
            left -= len(data)
        assert received.digest() == sent.digest()
        assert before < size // 2
        peer.end()
        served.end()
        assert await served.rest() == b""
        assert (await proxy.record()).bytes_received == size


async def test_a_client_is_not_read_while_nobody_is_there_to_take_what_it_says() -> None:
    with contextlib.ExitStack() as sockets:
        silent = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # the kernel takes one or two; the SYN of who comes then is not answered
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        config = bootstrap([tcp_listener()], [cluster("service", silent.getsockname())])
        async with running(config) as proxy, client(proxy.address) as peer:
            for _ in range(64):
                peer.send(bytes(1 << 20))
            relay = await eventually(lambda: relay_of(proxy))
            await eventually(
                lambda: relay.downstream.bytes and not relay.downstream.transport.is_reading(), what="nobody reads it"
            )
            assert relay.upstream.transport is None
            assert relay.downstream.bytes <= READ_SIZE
            silent.close()  # now a SYN is answered, by a reset
            with pytest.raises(ConnectionResetError):
                await peer.rest()
            assert (await proxy.record()).flag is Flag.UPSTREAM_CONNECTION_FAILURE


async def test_what_an_upstream_says_first_arrives_however_early() -> None:
    async with RawUpstream() as upstream, running(passing(upstream)) as proxy, client(proxy.address) as peer:
        served = await upstream.accept()
        served.send(b"220 ready\r\n")
        assert await peer.until(b"\r\n") == b"220 ready\r\n"
        served.close()
        assert await peer.rest() == b""
        peer.close()
        await proxy.record()


async def test_nobody_there_is_a_reset_for_the_client_and_a_record() -> None:
    async with RawUpstream() as upstream:
        upstream.close()
        async with running(passing(upstream)) as proxy, client(proxy.address) as peer:
            with pytest.raises(ConnectionResetError):
                await peer.rest()
            record = await proxy.record()
            assert record.flag is Flag.UPSTREAM_CONNECTION_FAILURE
            assert "refused" in record.notes["reason"]
            assert proxy.counter("envoy_tcp_downstream_cx_failed_total") == 1


async def test_more_connections_than_allowed_are_cut() -> None:
    async with RawUpstream() as upstream:
        service = cluster("service", upstream.address, **limits(max_connections=1))
        async with (
            running(bootstrap([tcp_listener()], [service])) as proxy,
            client(proxy.address) as one,
            client(proxy.address) as two,
        ):
            one.send(b"x")
            served = await upstream.accept()
            await served.exactly(1)
            assert await two.ended()
            assert (await proxy.record()).flag is Flag.UPSTREAM_OVERFLOW
            assert proxy.counter("envoy_cluster_upstream_cx_overflow_total") == 1
            served.close()


async def test_a_connection_without_life_is_closed() -> None:
    config = {"idle_timeout": "0.1s"}
    async with (
        RawUpstream() as upstream,
        running(passing(upstream, **config)) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(b"x")
        served = await upstream.accept()
        await served.exactly(1)
        assert await peer.ended()
        assert await served.ended()
        assert (await proxy.record()).flag is Flag.STREAM_IDLE_TIMEOUT


async def test_a_stalled_connection_without_life_is_closed_too() -> None:
    """Closing in order would wait for a reader that does not read."""
    async with (
        RawUpstream(receive_buffer=4096) as upstream,
        running(passing(upstream, idle_timeout="0.1s")) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(bytes(20 << 20))
        await upstream.accept()
        assert (await proxy.record()).flag is Flag.STREAM_IDLE_TIMEOUT
        assert await peer.ended()


async def test_a_client_that_goes_before_the_upstream_is_there_leaves_nothing() -> None:
    """The upstream's name for it: a connection that is made and closed."""
    async with RawUpstream() as upstream, running(passing(upstream)) as proxy:
        for how in ("close", "reset"):
            async with client(proxy.address) as peer:
                getattr(peer, how)()
            served = await upstream.accept()
            await served.ended()
            served.close()
        await proxy.records(2)


async def test_many_at_once_leave_nothing() -> None:
    async with RawUpstream() as upstream, running(passing(upstream)) as proxy:

        async def one(number: int) -> None:
            async with client(proxy.address) as peer:
                peer.send(b"%04d" % number)
                match number % 3:
                    case 0:
                        peer.reset()
                    case 1:
                        peer.end()
                        await peer.ended()
                    case _:
                        assert await peer.exactly(4) == b"%04d" % number

        async def echo() -> None:
            while True:
                served = await upstream.accept()
                served.send((await served.reader.read(4)) or b"")
                served.close()

        echoing = asyncio.get_running_loop().create_task(echo())
        try:
            await asyncio.gather(*(one(number) for number in range(60)))
            await proxy.records(60)
        finally:
            echoing.cancel()


async def test_the_source_of_a_connection_leads_to_its_endpoint_where_that_is_asked_for() -> None:
    async with RawUpstream() as one, RawUpstream() as two, RawUpstream() as three:
        upstreams = (one, two, three)
        service = cluster("service", *(upstream.address for upstream in upstreams), lb_policy="RING_HASH")
        listener = tcp_listener(hash_policy=[{"source_ip": {}}])
        async with running(bootstrap([listener], [service])) as proxy:
            proxy.runtime.upstreams._balancers._random = Random(1).random  # five times the same by chance: unlikely
            compiled = proxy.runtime.snapshot.clusters["service"]
            expected = proxy.runtime.upstreams.state(compiled).pick(None, (), xxh64(b"127.0.0.1"))
            assert expected is not None
            for _ in range(5):
                async with client(proxy.address) as peer:
                    peer.send(b"hello")
                    await eventually(lambda: any(upstream.waiting for upstream in upstreams))
                    (served,) = [await upstream.accept() for upstream in upstreams if upstream.waiting]
                    assert await served.exactly(5) == b"hello"
                    served.close()
            assert {upstream.address[1] for upstream in upstreams if upstream.connections} == {expected.port}


# --- Who may connect ---


def only_for(address: str) -> list[dict[str, object]]:
    """A network filter that lets in connections from `address` alone."""
    from_there = {"direct_remote_ip": {"address_prefix": address, "prefix_len": 32}}
    policy = {"permissions": [{"any": True}], "principals": [from_there]}
    rules = {"action": "ALLOW", "policies": {"neighbours only": policy}}
    kind = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"
    return [{"name": "rbac", "typed_config": {"@type": kind, "stat_prefix": "tcp", "rules": rules}}]


def guarded(upstream: RawUpstream, address: str) -> str:
    """A TCP listener in front of `upstream` that lets in connections from `address` alone."""
    listener = tcp_listener()
    [chain] = listener["filter_chains"]
    chain["filters"] = only_for(address) + chain["filters"]
    return bootstrap([listener], [cluster("service", upstream.address)])


async def test_whom_the_rules_keep_out_is_cut_before_anybody_is_connected_to() -> None:
    async with (
        RawUpstream() as upstream,
        running(guarded(upstream, "10.0.0.1")) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(b"hello")
        with contextlib.suppress(ConnectionResetError):  # or closed, where nothing had come yet
            assert await peer.rest() == b""
        record = await proxy.record()
        assert (record.flag, record.details) == (Flag.NONE, "rbac_access_denied_matched_policy[none]")
        assert (record.attempts, record.bytes_received, record.bytes_sent) == (0, 0, 0)
        assert proxy.counter("envoy_tcp_rbac_denied_total") == 1


async def test_whom_the_rules_let_in_is_served() -> None:
    async with (
        RawUpstream() as upstream,
        running(guarded(upstream, "127.0.0.1")) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(b"hello")
        served = await upstream.accept()
        assert await served.exactly(5) == b"hello"
        served.end()
        peer.end()
        assert (await proxy.record()).details == ""
        assert proxy.counter("envoy_tcp_rbac_allowed_total") == 1
