"""WebSocket through the proxy with a real library at both ends: the handshake, both directions, large and many
messages, pings, and the closing handshake, however the connection ends.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket
from websockets.asyncio.server import ServerConnection, serve

from tests.support.inprocess import Running, bootstrap, cluster, http_listener, route, running
from tests.support.waiting import eventually

UPGRADES = [{"upgrade_type": "websocket"}]
LARGE = bytes(range(256)) * 8192  # 2 MiB: more than all marks and buffers of the proxy


async def echo(server: ServerConnection) -> None:
    """Send back what comes; `close <code>` closes with that code."""
    async for message in server:
        if isinstance(message, str) and message.startswith("close "):
            await server.close(int(message.removeprefix("close ")), "as asked")
            return
        await server.send(message)


@asynccontextmanager
async def through(**manager: object) -> AsyncIterator[tuple[Running, str]]:
    """A proxy before an echo server, and the address of a WebSocket through it."""
    async with serve(echo, "127.0.0.1", 0, max_size=2 * len(LARGE), subprotocols=["chat"]) as server:
        [sock] = server.sockets
        text = bootstrap([http_listener([route()], **manager)], [cluster("service", sock.getsockname())])
        async with running(text) as proxy:
            host, port = proxy.address
            yield proxy, f"ws://{host}:{port}/chat?x=y"


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Running, ClientConnection]]:
    """A proxy, and a WebSocket that is open through it."""
    async with (
        through(upgrade_configs=UPGRADES) as (proxy, url),
        websocket(url, max_size=2 * len(LARGE), subprotocols=["chat"]) as client,
    ):
        yield proxy, client


async def test_messages_of_all_kinds_go_both_ways() -> None:
    async with connected() as (proxy, client):
        assert client.subprotocol == "chat"
        assert client.response is not None
        assert client.response.status_code == 101
        for message in ("text", "ä" * 1000, b"", b"\x00\xff", LARGE):
            await client.send(message)
            assert await client.recv() == message
        await (await client.ping(b"are you there"))
        assert proxy.in_flight()
    record = await proxy.record()
    assert (record.status, record.flag.value) == (101, "-")


async def test_many_messages_at_once_stay_in_order() -> None:
    async with connected() as (_, client), asyncio.TaskGroup() as group:
        expected = [f"message {number} " + "x" * (number % 700) for number in range(2000)]

        async def send() -> None:
            for message in expected:
                await client.send(message)

        group.create_task(send())
        assert [await client.recv() for _ in expected] == expected


async def test_it_goes_on_as_long_as_some_listener_takes_its_connection() -> None:
    async with connected() as (proxy, client):
        snapshot = proxy.runtime.snapshot
        [(name, listener)] = snapshot.listeners.items()
        proxy.runtime.adopt(replace(snapshot, listeners={name: replace(listener, inspect_timeout=1.0)}))
        proxy.follow()
        assert proxy.runtime.generation == 2
        await client.send("still here")
        assert await client.recv() == "still here"
        proxy.runtime.adopt(replace(snapshot, listeners={}))
        proxy.follow()
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            await client.recv()
        assert closed.value.rcvd is None


@pytest.mark.parametrize("code", [1000, 4321])
async def test_a_server_that_closes_is_heard(code: int) -> None:
    async with connected() as (_, client):
        await client.send(f"close {code}")
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, "as asked")


async def test_a_client_that_breaks_off_leaves_nothing() -> None:
    async with connected() as (proxy, client):
        await client.send("hello")
        assert await client.recv() == "hello"
        client.transport.abort()
        await eventually(lambda: not proxy.runtime.connections, what="the connection's end")


async def test_where_it_is_not_allowed_the_server_answers_an_ordinary_request() -> None:
    async with through() as (_, url):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websocket(url)
        assert refused.value.response.status_code == 426  # the library's own answer to a request that asks for nothing
