"""What connections of one manager share, and what a new configuration and the end of the proxy change of it."""

from dataclasses import replace
from pathlib import Path

from pymesh_proxy.config.model import AccessLogFile, FilterChain, FilterChainMatch, HttpManager, Listener, Snapshot
from tests.support.memory import MemoryProxy

EMPTY = Snapshot(1, {}, {}, {})


def with_manager(manager: HttpManager) -> Snapshot:
    """A configuration with a listener for it."""
    chain = FilterChain("", FilterChainMatch(), manager)
    listener = Listener("a", "127.0.0.1", 1, "outbound", True, False, False, False, None, False, (chain,), None)
    return replace(EMPTY, listeners={"a": listener})


async def test_connections_of_a_manager_share_it_and_nobody_else_keeps_it() -> None:
    proxy = MemoryProxy()
    one, two = proxy.client().protocol, proxy.client().protocol
    assert one.serving is two.serving  # type: ignore[attr-defined]  # the protocol is the connection
    assert proxy.runtime.serving(proxy.manager) is one.serving  # type: ignore[attr-defined]  # as above
    one.serving = two.serving = proxy.runtime.serving(replace(proxy.manager))  # type: ignore[attr-defined]  # as above
    assert proxy.manager not in proxy.runtime._serving


async def test_it_is_the_last_request_once_the_manager_is_not_in_force() -> None:
    proxy = MemoryProxy()
    serving = proxy.runtime.serving(proxy.manager)
    assert not serving.last  # there is no configuration yet
    for snapshot, last in ((with_manager(proxy.manager), False), (EMPTY, True), (with_manager(proxy.manager), False)):
        proxy.runtime.adopt(snapshot)
        assert serving.last is last
        assert proxy.runtime.serving(proxy.manager) is serving
    proxy.runtime.adopt(EMPTY)
    assert proxy.runtime.serving(replace(proxy.manager)).last


async def test_it_is_the_last_request_while_the_proxy_drains() -> None:
    proxy = MemoryProxy()
    serving = proxy.runtime.serving(proxy.manager)
    proxy.runtime.drain()
    assert serving.last
    assert proxy.runtime.serving(replace(proxy.manager)).last
    proxy.runtime.adopt(with_manager(proxy.manager))
    assert serving.last


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
