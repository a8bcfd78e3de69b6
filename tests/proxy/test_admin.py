"""The admin, metrics and readiness ports: what they show, what they refuse, what they switch."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from pymesh_proxy import admin
from pymesh_proxy.admin import MAX_CONNECTIONS, MAX_REQUEST_BYTES, HttpPort, Page
from pymesh_proxy.admin_pages import admin_pages, metrics_pages, readiness_pages
from pymesh_proxy.transport.accept import listen
from tests.support.inprocess import Running, running, simple
from tests.support.peers import Address, Peer, RawUpstream, client

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@asynccontextmanager
async def port(pages: Mapping[str, Page]) -> AsyncIterator[Address]:
    """`pages` on a free port."""
    opened = HttpPort(asyncio.get_running_loop(), pages)
    sock = listen("127.0.0.1", 0)
    address: Address = sock.getsockname()
    await opened.listen(sock)
    try:
        yield address
    finally:
        opened.close()


async def ask(peer: Peer, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body."""
    peer.send(f"{method} {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    head, body = (await peer.head(), b"") if method == "HEAD" else await peer.message()
    return int(head.split()[1]), body


async def one_request(proxy: Running, upstream: RawUpstream) -> None:
    """Send a request through the proxy."""
    async with client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await peer.message()


async def test_every_page_answers_and_help_lists_it() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy:
        await one_request(proxy, upstream)
        pages = admin_pages(proxy.proxy)
        async with port(pages) as address, client(address) as peer:
            _, listed = await ask(peer, "/help")
            for path, page in pages.items():
                assert path.encode() in listed
                if not page.changes:
                    status, body = await ask(peer, path)
                    assert status == 200
                    assert body or path == "/certs"


async def test_what_the_views_show() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy:
        await one_request(proxy, upstream)
        endpoint = f"127.0.0.1:{upstream.address[1]}"
        async with port(admin_pages(proxy.proxy)) as address, client(address) as peer:
            _, body = await ask(peer, "/clusters?format=json")
            [row] = json.loads(body)
            assert (row["cluster"], row["endpoints"][0]["address"], row["endpoints"][0]["idle"]) == (
                "service",
                endpoint,
                1,
            )
            _, body = await ask(peer, "/clusters")
            assert f"service::{endpoint}::cx_idle::1\n".encode() in body
            _, body = await ask(peer, "/listeners?format=json")
            assert json.loads(body) == [{"name": "http", "address": f"127.0.0.1:{proxy.address[1]}"}]
            _, body = await ask(peer, "/requests")
            [record] = json.loads(body)
            assert (record["status"], record["endpoint"], record["direction"]) == (200, endpoint, "unspecified")
            assert record["times_ms"]["end"] >= record["times_ms"]["first_byte"] >= record["times_ms"]["sent"]
            assert json.loads((await ask(peer, f"/requests?id={record['request_id']}"))[1]) == [record]
            assert json.loads((await ask(peer, "/requests?id=other"))[1]) == []
            _, body = await ask(peer, "/stats/prometheus")
            assert b'envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix="http"} 1.0\n' in body
            assert (await ask(peer, "/ready")) == (200, b"LIVE\n")
            _, body = await ask(peer, "/config_dump")
            assert b'"service"' in body


@pytest.mark.parametrize("query", ["limit=x", "limit=0", "limit=-1"])
async def test_a_limit_that_makes_no_sense_is_refused(query: str) -> None:
    async with running(simple()) as proxy, port(admin_pages(proxy.proxy)) as address, client(address) as peer:
        assert (await ask(peer, f"/requests?{query}"))[0] == 400


async def test_what_changes_something_needs_post() -> None:
    async with running(simple()) as proxy, port(admin_pages(proxy.proxy)) as address, client(address) as peer:
        for path in ("/drain_listeners", "/quitquitquit", "/logging?level=debug"):
            for method in ("GET", "HEAD"):
                assert (await ask(peer, path, method))[0] == 405
        assert not proxy.runtime.draining
        assert not proxy.proxy._stop.is_set()
        assert await ask(peer, "/drain_listeners", "POST") == (200, b"OK\n")
        assert proxy.runtime.draining
        assert (await ask(peer, "/ready")) == (503, b"draining: the proxy is shutting down\n")
        assert await ask(peer, "/quitquitquit", "POST") == (200, b"OK\n")
        assert proxy.proxy._stop.is_set()


async def test_log_levels() -> None:
    logger = logging.getLogger("pymesh.of.this.test")
    async with running(simple()) as proxy, port(admin_pages(proxy.proxy)) as address, client(address) as peer:
        status, body = await ask(peer, "/logging?pymesh.of.this.test=error", "POST")
        assert status == 200
        assert b"pymesh.of.this.test: error\n" in body
        assert logger.level == logging.ERROR
        status, body = await ask(peer, "/logging?pymesh.of.this.test=loud", "POST")
        assert (status, body) == (400, b"unknown level 'loud'; known are debug, info, warning, error\n")
        assert logger.level == logging.ERROR


async def test_the_other_ports_show_only_theirs() -> None:
    async with running(simple()) as proxy:
        async with port(metrics_pages(proxy.proxy)) as address, client(address) as peer:
            assert (await ask(peer, "/stats/prometheus"))[0] == 200
            assert (await ask(peer, "/quitquitquit", "POST"))[0] == 404
        async with port(readiness_pages(proxy.proxy)) as address, client(address) as peer:
            assert await ask(peer, "/healthz/ready") == (200, b"ready\n")
            assert (await ask(peer, "/config_dump"))[0] == 404


async def test_methods_and_paths_that_are_not_there() -> None:
    async with running(simple()) as proxy, port(admin_pages(proxy.proxy)) as address, client(address) as peer:
        assert (await ask(peer, "/nothing"))[0] == 404
        assert (await ask(peer, "/ready", "DELETE"))[0] == 405
        assert await ask(peer, "/ready", "HEAD") == (200, b"")


async def test_a_page_that_fails_is_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    pages = {"/broken": Page(lambda _: 1 / 0, "")}  # type: ignore[arg-type,return-value]
    async with port(pages) as address, client(address) as peer:
        assert (await ask(peer, "/broken"))[0] == 500
        assert (await ask(peer, "/broken"))[0] == 500
        assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("data", [b"\x00\x01garbage\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET\r\n\r\n"])
async def test_garbage_is_400(data: bytes) -> None:
    async with running(simple()) as proxy, port(admin_pages(proxy.proxy)) as address, client(address) as peer:
        peer.send(data)
        assert (await peer.head()).startswith(b"HTTP/1.1 400 ")
        await peer.rest()


async def ended_with(peer: Peer) -> bytes:
    """What came before the end."""
    try:
        return await peer.rest()
    except ConnectionError:
        return b""


async def test_a_request_is_bounded() -> None:
    async with running(simple()) as proxy, port(admin_pages(proxy.proxy)) as address, client(address) as peer:
        peer.send(b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 2 * MAX_REQUEST_BYTES)
        assert not (await ended_with(peer)).startswith(b"HTTP/1.1 2")


async def test_connections_without_a_request_do_not_keep_a_probe_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have waited longest make room; one that has been answered since stays."""
    monkeypatch.setattr(admin, "FIRST_REQUEST_TIMEOUT", 3600.0)
    async with running(simple()) as proxy, port(readiness_pages(proxy.proxy)) as address, AsyncExitStack() as stack:
        first = await stack.enter_async_context(client(address))
        assert await ask(first, "/healthz/ready") == (200, b"ready\n")
        held = [await stack.enter_async_context(client(address)) for _ in range(MAX_CONNECTIONS - 1)]
        for peer in held:
            peer.send(b"GET /")
        assert await ask(first, "/healthz/ready") == (200, b"ready\n")
        for _ in range(6):
            peer = await stack.enter_async_context(client(address))
            assert await ask(peer, "/healthz/ready") == (200, b"ready\n")
        async with asyncio.timeout(admin.CONNECTION_TIMEOUT / 2):
            assert await ended_with(held[0]) == b""
        assert await ask(first, "/healthz/ready") == (200, b"ready\n")


async def test_a_connection_has_little_time_for_its_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "FIRST_REQUEST_TIMEOUT", 0.05)
    async with running(simple()) as proxy, port(readiness_pages(proxy.proxy)) as address, client(address) as peer:
        peer.send(b"GET /")
        async with asyncio.timeout(admin.CONNECTION_TIMEOUT / 2):
            assert await ended_with(peer) == b""
