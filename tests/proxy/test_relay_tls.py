"""Opaque TCP through a pair of proxies with mutual TLS between them, of ours and Envoy's: each half ends by itself."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from pymesh_proxy.errors import Flag
from tests.support.certificates import Authority
from tests.support.envoy import envoy_process
from tests.support.inprocess import Json, Running, bootstrap, cluster, http_listener, route, running, tcp_listener
from tests.support.key_updates import updates
from tests.support.peers import Address, Peer, RawUpstream, client, connect
from tests.support.proxy_process import free_port
from tests.support.waiting import eventually

MEGABYTE = b"0123456789abcdef" * (1 << 16)


@pytest.fixture(scope="module")
def common() -> Json:
    """The `common_tls_context` of both ends."""
    authority = Authority()
    own = authority.issue(uri="spiffe://cluster.local/ns/default/sa/both", dns=("both.example",))
    chain, key = {"inline_string": own.chain.decode()}, {"inline_string": own.key.decode()}
    return {
        "tls_certificates": [{"certificate_chain": chain, "private_key": key}],
        "validation_context": {"trusted_ca": {"inline_string": authority.root.decode()}},
    }


def tls(kind: str, common: Json, **more: object) -> Json:
    """A transport socket."""
    name = f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"
    return {"transport_socket": {"name": "tls", "typed_config": {"@type": name, "common_tls_context": common, **more}}}


def ways(common: Json, upstream: Address, front: int, back: int, to: int, **proxy: object) -> str:
    """A proxy that encrypts what comes to `front` for port `to`, and decrypts what comes to `back` for `upstream`."""
    here, there = tcp_listener("far", **proxy), tcp_listener("app", **proxy)
    for listener, name, port in ((here, "front", front), (there, "back", back)):
        listener["name"] = name
        listener["address"]["socket_address"]["port_value"] = port
    there["filter_chains"][0] |= tls("DownstreamTlsContext", common, require_client_certificate=True)
    far = cluster("far", ("127.0.0.1", to), **tls("UpstreamTlsContext", common, sni="both.example"))
    return bootstrap([here, there], [far, cluster("app", upstream)])


@asynccontextmanager
async def pair(common: Json, upstream: Address, **proxy: object) -> AsyncIterator[tuple[Running, Address]]:
    """Ours on both ends, and where it begins."""
    front, back = free_port(), free_port()
    async with running(ways(common, upstream, front, back, back, **proxy)) as ours:
        yield ours, ("127.0.0.1", front)


async def each_half_by_itself(front: Address, upstream: RawUpstream) -> None:
    for first in ("client", "upstream"):
        async with client(front) as peer:
            peer.send(b"hello")
            served = await who_says(upstream, b"hello")
            one, other = (peer, served) if first == "client" else (served, peer)
            one.send(MEGABYTE)
            one.end()
            assert await other.rest() == MEGABYTE
            other.send(b"and yet it")
            assert await one.exactly(10) == b"and yet it"
            other.send(MEGABYTE)
            other.end()
            assert await one.rest() == MEGABYTE
            served.close()


async def who_says(upstream: RawUpstream, text: bytes) -> Peer:
    """The first connection that begins so; those before it only asked whether Envoy is there."""
    while True:
        served = await upstream.accept()
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if await served.exactly(len(text)) == text:
                return served
        served.close()


async def test_each_half_ends_by_itself_and_nothing_waits_for_it(common: Json) -> None:
    async with RawUpstream() as upstream, pair(common, upstream.address) as (ours, front):
        await each_half_by_itself(front, upstream)
        for record in await ours.records(4):
            assert record.flag is Flag.NONE
            assert record.bytes_received + record.bytes_sent == 2 * len(MEGABYTE) + len(b"hello" + b"and yet it")


@pytest.mark.envoy
@pytest.mark.parametrize("first", ["pymesh", "envoy"])
async def test_each_half_ends_by_itself_with_envoy_at_the_other_end(common: Json, first: str, tmp_path: Path) -> None:
    ports = {name: (free_port(), free_port()) for name in ("pymesh", "envoy")}
    async with RawUpstream() as upstream, AsyncExitStack() as stack:
        config = ways(common, upstream.address, *ports["envoy"], to=ports["pymesh"][1])
        await stack.enter_async_context(envoy_process(config, tmp_path))
        await stack.enter_async_context(running(ways(common, upstream.address, *ports["pymesh"], to=ports["envoy"][1])))
        for port in ports["envoy"]:
            await eventually(lambda port=port: _there(port), what="Envoy", timeout=20)
        await each_half_by_itself(("127.0.0.1", ports[first][0]), upstream)


async def _there(port: int) -> bool:
    try:
        peer = await connect(("127.0.0.1", port))
    except OSError:
        return False
    peer.reset()
    await asyncio.sleep(0)
    return True


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_a_cut_is_passed_on_as_a_cut_after_every_byte_before_it(common: Json, who: str) -> None:
    async with RawUpstream() as upstream, pair(common, upstream.address) as (ours, front), client(front) as peer:
        peer.send(b"hello")
        served = await upstream.accept()
        await served.exactly(5)
        one, other = (peer, served) if who == "client" else (served, peer)
        one.send(MEGABYTE)
        await eventually(lambda: sum(half.bytes for half in halves(ours)) >= 2 * len(MEGABYTE) + 10)
        one.reset()
        assert await other.exactly(len(MEGABYTE)) == MEGABYTE
        with pytest.raises(ConnectionResetError):
            await other.rest()
        await ours.records(2)


@pytest.mark.parametrize("kind", ["tcp", "http"])
async def test_a_peer_that_only_changes_its_keys_is_cut_and_counted(common: Json, kind: str) -> None:
    listener = tcp_listener("app") if kind == "tcp" else http_listener([route("app")])
    listener["filter_chains"][0] |= tls("DownstreamTlsContext", common)
    async with RawUpstream() as upstream, running(bootstrap([listener], [cluster("app", upstream.address)])) as ours:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
        machine = context.wrap_bio(coming, going)
        reader, writer = await asyncio.open_connection(*ours.address)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                machine.do_handshake()
                break
            writer.write(going.read())
            coming.write(await reader.read(65536))
        machine.write(b"hello")
        writer.write(going.read())
        if kind == "tcp":
            await (await upstream.accept()).exactly(5)
        updates(machine, 200)
        writer.write(going.read())
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        writer.close()
        if kind == "tcp":
            [record] = await ours.records(1)
            assert record.flag is Flag.DOWNSTREAM_PROTOCOL_ERROR
            assert record.details == "too_many_tls_records_without_data"
        else:
            await eventually(lambda: sum(s.protocol_errors for s in ours.runtime.stats.http.values()) == 1)


async def test_a_reader_that_stops_stops_the_writer_through_both(common: Json) -> None:
    async with (
        RawUpstream(receive_buffer=8192) as upstream,
        pair(common, upstream.address) as (ours, front),
        client(front) as peer,
    ):
        for _ in range(60):
            peer.send(MEGABYTE)
        served = await upstream.accept()
        await eventually(lambda: len(halves(ours)) == 4 and all(half.bytes for half in halves(ours)[:1]))
        await eventually(lambda: any(half._paused for half in halves(ours)), what="somebody is not read")
        seen = 0
        while peer.writer.transport.get_write_buffer_size() != seen:  # until nothing moves any more
            seen = peer.writer.transport.get_write_buffer_size()
            await asyncio.sleep(0.2)
        assert seen > 20 << 20
        for half in halves(ours):
            assert half.transport.get_write_buffer_size() < 1 << 20
        peer.end()
        received = 0
        while data := await served.reader.read(1 << 20):
            received += len(data)
        assert received == 60 << 20
        served.close()
        await ours.records(2)


async def test_the_next_connection_resumes_the_session(common: Json) -> None:
    async with RawUpstream() as upstream, pair(common, upstream.address) as (ours, front):
        resumed = []
        for _ in range(2):
            async with client(front) as peer:
                peer.send(b"x")
                served = await upstream.accept()
                served.send(b"y")
                assert await peer.exactly(1) == b"y"
                [far] = [half for half in halves(ours) if half.transport.get_extra_info("ssl_object")][-1:]
                resumed.append(far.transport.get_extra_info("ssl_object").session_reused)
                peer.end()
                served.close()
                assert await peer.rest() == b""
            await ours.settled()
        assert resumed == [False, True]


async def test_bytes_are_counted_while_the_connection_lasts(common: Json) -> None:
    async with RawUpstream() as upstream, pair(common, upstream.address) as (ours, front), client(front) as peer:
        peer.send(b"hello")
        served = await upstream.accept()
        served.send(b"hi")
        assert (await served.exactly(5), await peer.exactly(2)) == (b"hello", b"hi")
        for _ in range(2):  # counting what has not moved counts nothing
            assert ours.counter("envoy_tcp_downstream_bytes_received_total") == 10
            assert ours.counter("envoy_tcp_downstream_bytes_sent_total") == 4
            assert ours.counter("envoy_cluster_upstream_bytes_sent_total") == 10
        assert not ours.runtime.recent
        peer.end()
        served.close()
        await ours.records(2)
        assert ours.counter("envoy_tcp_downstream_bytes_received_total") == 10


def halves(ours: Running) -> list[object]:
    """All sides of all connections that are open, those that have a transport."""
    found = [half for relay in ours.runtime.connections for half in (relay.downstream, relay.upstream)]
    return [half for half in found if half.transport is not None]
