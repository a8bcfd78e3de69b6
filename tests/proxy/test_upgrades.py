"""After a 101: a connection that is opaque, and whose halves end by themselves; and upgrades that are not to be."""

from pathlib import Path

import pytest

from pymesh_proxy.errors import Flag
from tests.support.changing import Identities, encrypted
from tests.support.inprocess import bootstrap, cluster, http_listener, route, running
from tests.support.memory import MemoryProxy, turn
from tests.support.messages import OK, answer, status
from tests.support.peers import RawUpstream, client

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


@pytest.mark.parametrize("overtaken", [False, True], ids=["after the 101", "before the 101"])
async def test_it_is_cut_where_its_connection_would_not_be_let_in_any_more(overtaken: bool, tmp_path: Path) -> None:
    async with RawUpstream() as upstream, running(upgrading(upstream)) as proxy, client(proxy.address) as peer:
        peer.send(UPGRADE)
        served = await upstream.accept()
        await served.head()
        if not overtaken:
            served.send(SWITCHING)
            await peer.head()
            proxy.change(upgrading(upstream, timeout="100s"))
            proxy.follow()
            peer.send(b"\x81\x00")
            assert await served.exactly(2) == b"\x81\x00"
        proxy.change(encrypted(upgrading(upstream), Identities(tmp_path).server()))
        proxy.follow()
        if overtaken:
            served.send(SWITCHING)
        with pytest.raises(ConnectionResetError):
            await peer.rest()
        assert await served.ended()
        record = await proxy.record()
        assert (record.status, record.flag, record.details) == (101, Flag.NO_ROUTE, "filter_chain_not_found")


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
