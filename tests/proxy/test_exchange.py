"""One request from its head to its record, against upstreams that say every byte themselves: what is passed on, what is
answered here and why, and that nothing stays in flight.
"""

import gc

import pytest

from pymesh_proxy.attempts import Attempts
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag
from pymesh_proxy.exchange import Exchange
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.upstream.connection import MAX_INFORMATIONAL
from tests.support.inprocess import bootstrap, cluster, http_listener, route, running, simple
from tests.support.memory import MemoryProxy
from tests.support.messages import GET, OK, answer, post, status
from tests.support.peers import RawUpstream, client

# --- Messages and their ends ---


async def test_continue_and_early_hints_reach_the_client() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n")
        served = await upstream.accept()
        assert b"expect: 100-continue\r\n" in await served.head()
        served.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(b"body")
        assert await served.exactly(4) == b"body"
        hop = b"connection: x-hop\r\nx-hop: 1\r\n"
        served.send(b"HTTP/1.1 103 Early Hints\r\n" + hop + b"link: </a.css>\r\n\r\n" + OK)
        assert await peer.head() == b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"
        assert (await peer.message())[1] == b"ok"
        assert (await proxy.record()).status == 200


async def test_interim_responses_without_end_are_the_upstreams_fault() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        served.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 20_000)
        for _ in range(MAX_INFORMATIONAL):
            assert status(await peer.head()) == 102
        assert status((await peer.message())[0]) == 502
        assert (await proxy.record()).details == "http1.too_many_informational_responses"


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"),
        (b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (GET, b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\n\r\n"),
    ],
    ids=["HEAD", "HEAD chunked", "204", "304"],
)
async def test_a_response_without_a_body_ends_with_its_head(request_: bytes, response: bytes) -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(request_ + GET)
        served = await upstream.accept()
        await served.head()
        served.send(response)
        head = await peer.head()
        assert status(head) == status(response)
        for line in response.split(b"\r\n")[1:-2]:
            assert line + b"\r\n" in head
        await answer(served, OK)
        assert (await peer.message())[1] == b"ok"


async def test_trailers_go_through() -> None:
    body = b"4;ext=1\r\nwiki\r\n0\r\nchecksum: 42\r\n\r\n"
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body)
        await peer.head()
        assert await peer.until(b"42\r\n\r\n") == body


async def test_a_response_that_ends_with_its_connection_is_chunked_for_the_client() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\n\r\nfirst")
        assert b"transfer-encoding: chunked\r\n" in await peer.head()
        assert await peer.until(b"first\r\n") == b"5\r\nfirst\r\n"
        served.send(b"second")
        assert await peer.until(b"second\r\n") == b"6\r\nsecond\r\n"
        served.close()
        assert await peer.exactly(5) == b"0\r\n\r\n"
        peer.send(GET)
        await answer(await upstream.accept(), OK)
        assert (await peer.message())[1] == b"ok"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "begun",
    [b"content-length: 10\r\n\r\n01234", b"transfer-encoding: chunked\r\n\r\n5\r\n01234\r\n"],
    ids=["length", "chunked"],
)
async def test_a_truncated_response_is_seen_to_be_truncated(begun: bytes, how: str) -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\n" + begun)
        await peer.until(b"01234")
        getattr(served, how)()
        assert await peer.rest() in {b"", b"\r\n"}  # ended, without a last chunk
        record = await proxy.record()
        assert (record.status, record.flag) == (200, Flag.UPSTREAM_CONNECTION_TERMINATION)


async def test_a_truncated_response_without_framing_is_reset() -> None:
    """An HTTP/1.0 client knows the end of such a body by the close: it must not look like one."""
    accepting = http_listener([route()], http_protocol_options={"accept_http_10": True})
    async with (
        RawUpstream() as upstream,
        running(bootstrap([accepting], [cluster("service", upstream.address)])) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n")
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\n\r\n01234")
        await peer.until(b"01234")
        served.reset()
        with pytest.raises(ConnectionResetError):
            await peer.rest()


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nx: a\n\n",
        b"HTTP/1.1 200 OK\r\nx: a\rset-cookie: b\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * (64 << 10) + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x00\x02\x02\x28",
    ],
)
async def test_what_is_no_response_is_502_and_its_connection_is_not_used_again(response: bytes) -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(response)
        head, body = await peer.message()
        assert status(head) == 502
        assert b"set-cookie" not in head + body
        assert await served.ended()
        record = await proxy.record()
        assert (record.status, record.flag) == (502, Flag.UPSTREAM_PROTOCOL_ERROR)
        peer.send(GET)
        await answer(await upstream.accept(), OK)
        assert (await peer.message())[1] == b"ok"


async def test_a_body_that_breaks_its_framing_cuts_the_response() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
        await peer.until(b"ab\r\n")
        served.send(b"zz\r\n")
        assert await peer.rest() == b""
        assert (await proxy.record()).flag is Flag.UPSTREAM_PROTOCOL_ERROR


async def test_bytes_behind_a_response_are_nobodys_and_end_the_connection() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        assert (await peer.message())[1] == b"ok"
        assert await served.ended()
        peer.send(GET)
        await answer(await upstream.accept(), OK)
        assert (await peer.message())[1] == b"ok"


async def test_bytes_that_nobody_asked_for_end_an_idle_upstream_connection() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await answer(served, OK)
        await peer.message()
        served.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        assert await served.ended()
        peer.send(GET)
        await answer(await upstream.accept(), OK)
        assert (await peer.message())[1] == b"ok"


async def test_an_answer_before_the_end_of_the_body_ends_both_connections() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n01234")
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig")
        assert (await peer.message())[1] == b"big"
        peer.send(b"5" * 95)
        assert await peer.rest() == b""
        await served.ended()
        assert (await proxy.record()).status == 413


# --- Whose word a response is ---

FORGED = b'Proxy-Status: pymesh; error=connection_refused; details="forged"\r\n'


def facing(direction: str, upstream: RawUpstream) -> str:
    """A sidecar's listener of that direction."""
    listener = http_listener([route("service")]) | {"traffic_direction": direction}
    return bootstrap([listener], [cluster("service", upstream.address)])


@pytest.mark.parametrize(
    ("direction", "fields", "told"),
    [
        ("INBOUND", FORGED, False),
        ("INBOUND", b"Proxy-Status: nginx\r\n" + FORGED, False),
        ("INBOUND", b"Proxy-Status: nginx; error=destination_unavailable\r\n", True),
        ("OUTBOUND", FORGED, True),  # from there it is the other sidecar's word
    ],
)
async def test_an_app_does_not_speak_in_its_sidecars_name(direction: str, fields: bytes, told: bool) -> None:
    """The caller's sidecar, which believes ours, would send the request again although the app has seen it."""
    response = b"HTTP/1.1 503 No\r\n" + fields + b"content-length: 2\r\n\r\nno"
    async with (
        RawUpstream() as upstream,
        running(facing(direction, upstream)) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(GET)
        await answer(await upstream.accept(), response)
        head, _ = await peer.message()
        assert status(head) == 503
        assert (b"proxy-status:" in head.lower()) is told


# --- Answers of our own ---


async def test_no_route_no_cluster_no_endpoint() -> None:
    listener = http_listener([route(prefix="/empty"), route("missing", prefix="/missing")])
    config = bootstrap([listener], [cluster("service"), cluster("missing")])
    async with running(config) as proxy, client(proxy.address) as peer:
        proxy.runtime.snapshot.clusters.pop("missing")  # type: ignore[attr-defined]  # a cluster that went away
        for path, expected, flag in [
            (b"/", 404, Flag.NO_ROUTE), (b"/missing", 503, Flag.NO_CLUSTER), (b"/empty", 503, Flag.NO_HEALTHY_UPSTREAM),
        ]:  # fmt: skip
            peer.send(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path)
            head, _ = await peer.message()
            assert status(head) == expected
            assert proxy.runtime.recent[-1].flag is flag


# --- The end ---


async def test_nothing_of_a_request_is_left_to_the_garbage_collector() -> None:
    """Objects that know each other in a circle stay until it runs, and it stops everything while it does."""
    proxy = MemoryProxy()
    peer = proxy.client()
    peer.receive(GET)
    upstream = await proxy.upstream()
    upstream.receive(OK)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for request in (GET, post(b"ab"), GET):
            peer.receive(request)
            upstream.receive(OK)
        gc.collect()
        left = [item for item in gc.garbage if isinstance(item, Exchange | Attempts | RequestRecord | Head)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert left == []
