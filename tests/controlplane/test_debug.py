"""Port 15014, served by the real HTTP server on a free port."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from pymesh_controlplane import debug
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.pilot.server import DiscoveryServer
from tests.controlplane.pilot.serving import Pilot, serving, world


@asynccontextmanager
async def pages(pilot: DiscoveryServer | None) -> AsyncIterator[int]:
    """The server's port."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = debug.application(pilot, Metrics(), lambda seconds: datetime.fromtimestamp(seconds, UTC))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(debug.HttpServer(app, listener).run_until_cancelled())
        try:
            yield listener.getsockname()[1]
        finally:
            running.cancel()


async def get(port: int, path: str, *, method: str = "GET", more: str = "") -> tuple[int, str]:
    """Status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\n{more}connection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body.decode()


async def test_ready_means_that_there_is_a_world() -> None:
    """Before that, 503 and what is awaited."""
    async with serving() as pilot, pages(pilot.server) as port:
        assert await get(port, "/ready") == (503, "waiting for the configuration to be read\n")
        await known(pilot)
        assert await get(port, "/ready") == (200, "ready\n")


@pytest.mark.parametrize(
    ("caller", "path", "status"),
    [
        ("10.244.0.9", "/debug/syncz", 403),
        ("10.244.0.9", "/nothing", 403),
        ("10.244.0.9", "/metrics", 200),
        ("127.0.0.1", "/debug/syncz", 200),
        ("::1", "/debug/syncz", 200),
    ],
)
async def test_other_pods_may_probe_and_scrape_and_read_nothing_else(caller: str, path: str, status: int) -> None:
    """What the mesh knows of everybody's requests is for those who may enter the pod."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async with serving() as pilot:
        await known(pilot)
        app = debug.application(pilot.server, Metrics(), lambda seconds: datetime.fromtimestamp(seconds, UTC))
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": [],
            "query_string": b"",
            "client": (caller, 1),
        }
        await app(scope, receive, send)
    assert sent[0]["status"] == status


async def test_no_page_of_a_browser_changes_anything() -> None:
    """A site may make a browser send a POST to a forwarded port; with it goes the site's origin."""
    async with pages(None) as port:
        assert (await get(port, "/ready", method="POST"))[0] == 405
        refused = await get(port, "/ready", method="POST", more="origin: http://elsewhere.test\r\n")
        assert refused == (403, "nothing is changed here from a page in a browser\n")
        assert (await get(port, "/ready", more="origin: http://elsewhere.test\r\n"))[0] == 200


async def known(pilot: Pilot) -> None:
    """Let pilot know a world."""
    pilot.server.world = world("1")


async def test_the_pages_are_json_and_the_metrics_are_prometheus() -> None:
    """And nothing else is there."""
    async with serving() as pilot, pages(pilot.server) as port:
        await known(pilot)
        for name in ("syncz", "connections", "registryz"):
            assert await get(port, f"/debug/{name}") == (200, "[]")
        status, body = await get(port, "/debug/configz")
        assert (status, json.loads(body)["revision"]) == (200, "1")
        status, body = await get(port, "/metrics")
        assert status == 200
        assert "\npilot_xds 0.0\n" in body
        assert "process_resident_memory_bytes" in body
        assert (await get(port, "/debug/secrets"))[0] == 404


async def test_without_pilot_its_pages_are_not_there() -> None:
    """citadel alone is ready at once."""
    async with pages(None) as port:
        assert (await get(port, "/ready"))[0] == 200
        assert (await get(port, "/debug/syncz"))[0] == 404


async def test_silent_connections_do_not_keep_a_probe_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have waited longest make room."""
    monkeypatch.setattr(debug, "REQUEST_TIMEOUT", 3600.0)
    async with pages(None) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(debug.MAX_CONNECTIONS + 20)]
        try:
            for _, writer in held[-debug.MAX_CONNECTIONS :]:
                writer.write(b"GET /")
            for _ in range(3):
                assert await get(port, "/ready") == (200, "ready\n")
            async with asyncio.timeout(10):
                assert await ended(held[0][0])
        finally:
            for _, writer in held:
                writer.transport.abort()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /",
        b"POST /ready HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab",
        b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\nGET /",
    ],
)
async def test_a_request_that_never_ends_ends_the_connection(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "REQUEST_TIMEOUT", 0.05)
    async with pages(None) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        async with asyncio.timeout(debug.KEEP_ALIVE / 2):
            assert await ended(reader)
        writer.close()


async def test_an_answered_connection_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between requests it is idle, and that is no fault."""
    monkeypatch.setattr(debug, "REQUEST_TIMEOUT", 0.05)
    async with pages(None) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"ready\n")).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0.1)  # longer than a request may take
        writer.close()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Wait for the server to end the connection."""
    with contextlib.suppress(ConnectionError):
        await reader.read()
    return True
