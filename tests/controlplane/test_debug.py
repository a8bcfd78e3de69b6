"""Port 15014, served by the real HTTP server on a free port."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

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


async def get(port: int, path: str) -> tuple[int, str]:
    """Status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
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
