"""What connections of one manager share, and what a new configuration and the end of the proxy change of it."""

from dataclasses import replace
from pathlib import Path

from pymesh_proxy.config.model import (
    AccessLogFile,
    Direction,
    FilterChain,
    FilterChainMatch,
    HttpManager,
    Listener,
    Snapshot,
)
from tests.support.memory import MemoryProxy

EMPTY = Snapshot(1, {}, {}, {})


def with_manager(manager: HttpManager) -> Snapshot:
    """A configuration with a listener for it."""
    chain = FilterChain("", FilterChainMatch(), manager)
    listener = Listener("a", "127.0.0.1", 1, Direction.OUTBOUND, True, False, False, False, None, False, (chain,), None)
    return replace(EMPTY, listeners={"a": listener})


async def test_connections_of_a_manager_share_it_and_nobody_else_keeps_it() -> None:
    proxy = MemoryProxy()
    one, two = proxy.client().protocol, proxy.client().protocol
    assert one.serving is two.serving  # type: ignore[attr-defined]  # the protocol is the connection
    assert proxy.runtime.serving(proxy.manager, 0) is one.serving  # type: ignore[attr-defined]  # as above
    one.serving = two.serving = proxy.runtime.serving(replace(proxy.manager), 0)  # type: ignore[attr-defined]  # as above
    assert (0, proxy.manager) not in proxy.runtime._serving


async def test_it_is_outdated_once_a_listener_has_changed() -> None:
    proxy = MemoryProxy()
    serving = proxy.runtime.serving(proxy.manager, 0)
    assert not serving.outdated
    proxy.runtime.adopt(replace(proxy.runtime.snapshot, version=2, clusters={}))
    assert not serving.outdated
    assert proxy.runtime.serving(proxy.manager, proxy.runtime.generation) is serving
    proxy.runtime.adopt(with_manager(proxy.manager))
    assert serving.outdated
    fresh = proxy.runtime.serving(proxy.manager, proxy.runtime.generation)
    assert not fresh.outdated
    proxy.runtime.adopt(replace(proxy.runtime.snapshot, version=3))
    assert serving.outdated
    assert proxy.runtime.serving(proxy.manager, proxy.runtime.generation) is fresh
    assert proxy.runtime.serving(replace(proxy.manager), 0).outdated, "let in by listeners of before"


async def test_it_is_the_last_request_while_the_proxy_drains() -> None:
    proxy = MemoryProxy()
    serving = proxy.runtime.serving(proxy.manager, 0)
    assert not serving.last
    proxy.runtime.adopt(with_manager(proxy.manager))  # a request may be under way by what was in force before
    proxy.runtime.drain()
    for each in (serving, proxy.runtime.serving(replace(proxy.manager), 0)):
        assert (each.last, each.over_since) == (True, proxy.runtime.drain_began)
    proxy.runtime.adopt(with_manager(proxy.manager))
    assert serving.last
    assert proxy.runtime.serving(proxy.manager, proxy.runtime.generation).last


async def test_a_new_configuration_has_its_logs_looked_up_anew(tmp_path: Path) -> None:
    log = AccessLogFile(str(tmp_path / "log"), "%RESPONSE_CODE%\n")
    proxy = MemoryProxy(access_logs=(log,))
    peer = proxy.client()
    upstream = None
    for _ in range(2):
        listeners = with_manager(proxy.manager).listeners
        proxy.runtime.adopt(replace(proxy.runtime.snapshot, listeners=listeners))
        assert peer.protocol.serving.writers is None  # type: ignore[attr-defined]  # the protocol is the connection
        peer.receive(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        upstream = upstream or await proxy.upstream()
        upstream.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    await proxy.runtime.close()
    assert Path(log.path).read_text() == "200\n200\n"
