"""Clients that speak HTTP/1.0: not welcome unless they are, and told no more than they understand."""

import pytest

from pymesh_proxy.errors import Flag
from tests.support.inprocess import bootstrap, cluster, http_listener, route, running, simple
from tests.support.memory import MemoryProxy
from tests.support.messages import OK, serve
from tests.support.peers import RawUpstream, client


async def test_an_http_1_0_client_is_told_to_upgrade_unless_it_is_welcome() -> None:
    async with RawUpstream() as upstream:
        async with running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
            peer.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await peer.message())[0].startswith(b"HTTP/1.1 426 ")
            assert await peer.ended()
            assert upstream.connections == 0
        accepting = http_listener([route()], http_protocol_options={"accept_http_10": True})
        config = bootstrap([accepting], [cluster("service", upstream.address)])
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(b"GET /1 HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
            served = await upstream.accept()
            await serve(served, OK)
            head, body = await peer.message()
            assert (head[:9], body) == (b"HTTP/1.1 ", b"ok")
            assert b"connection: keep-alive\r\n" in head
            peer.send(b"GET /2 HTTP/1.0\r\nhost: a\r\n\r\n")
            await serve(served, OK)
            assert b"connection: close\r\n" in (await peer.message())[0]
            assert await peer.ended()


CHUNKS = b"2;x=y\r\nab\r\n1\r\nc\r\n0\r\nt: 1\r\n\r\n"


@pytest.mark.parametrize("cut", range(len(CHUNKS) + 1))
async def test_a_chunked_answer_is_content_and_an_end_to_an_http_1_0_client(cut: int) -> None:
    """RFC 9112 6.1: the client would take the chunks for content."""
    proxy = MemoryProxy(accept_http_10=True)
    peer = proxy.client()
    peer.receive(b"GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\nexpect: 100-continue\r\n\r\n")
    upstream = await proxy.upstream()
    head = upstream.take()
    assert head.startswith(b"GET / HTTP/1.1\r\n")
    assert b"\r\nexpect:" not in head
    upstream.receive(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKS[:cut])
    if cut < len(CHUNKS):
        upstream.receive(CHUNKS[cut:])
    head, _, body = peer.take().partition(b"\r\n\r\n")
    assert body == b"abc"
    assert b"connection: close" in head
    assert b"transfer-encoding" not in head
    assert peer.closed
    assert len(proxy.endpoints[0].idle) == 1


async def test_a_truncated_chunked_answer_is_a_reset_to_an_http_1_0_client() -> None:
    async with RawUpstream() as upstream:
        accepting = http_listener([route()], http_protocol_options={"accept_http_10": True})
        config = bootstrap([accepting], [cluster("service", upstream.address)])
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n")
            served = await upstream.accept()
            await served.head()
            served.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
            await peer.until(b"\r\n\r\nab")
            served.send(b"x")
            with pytest.raises(ConnectionResetError):
                await peer.rest()
            assert (await proxy.record()).flag is Flag.UPSTREAM_PROTOCOL_ERROR


async def test_a_chunked_answer_to_head_has_no_body_for_an_http_1_0_client() -> None:
    proxy = MemoryProxy(accept_http_10=True)
    peer = proxy.client()
    peer.receive(b"HEAD / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
    (await proxy.upstream()).receive(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    head = peer.take()
    assert head.endswith(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: keep-alive" in head
