"""What HTTP/1.1 asks of a proxy (RFC 9110, RFC 9112), from a client to an upstream and back: trailers and their limits,
chunk extensions, expectations, forms of targets, fields that are meant for one connection, HTTP/1.0.
"""

import pytest

from tests.support.inprocess import bootstrap, cluster, http_listener, route, running, simple
from tests.support.peers import RawUpstream, client

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
POST_CHUNKS = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: checksum\r\n\r\n"
OK_CHUNKS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: checksum\r\n\r\n"
# Extensions with and without a value, a quoted one, a size with zeros in front and in capitals; two trailers.
CHUNKS = b'004;ext=1\r\nwiki\r\nA;a;b="c;\\"d"\r\n0123456789\r\n0;last\r\nchecksum: 42\r\nx-signature:\tabc=\r\n\r\n'
TRAILERS = b"checksum: 42\r\nx-signature:\tabc=\r\n\r\n"


def status(head: bytes) -> int:
    """The status of a response."""
    return int(head.split(b" ", 2)[1])


@pytest.mark.parametrize("cut", [1, 5, 30, len(CHUNKS) - 3])
async def test_chunks_extensions_and_trailers_arrive_as_they_were_sent_both_ways(cut: int) -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(POST_CHUNKS + CHUNKS[:cut])
        served = await upstream.accept()
        assert b"trailer: checksum\r\n" in await served.head()
        peer.send(CHUNKS[cut:])
        assert await served.exactly(len(CHUNKS)) == CHUNKS
        served.send(OK_CHUNKS + CHUNKS[:cut])
        assert b"trailer: checksum\r\n" in await peer.head()
        served.send(CHUNKS[cut:])
        assert await peer.exactly(len(CHUNKS)) == CHUNKS
        peer.send(GET)  # nothing is left in between on either side
        assert (await served.head()).startswith(b"GET / HTTP/1.1\r\n")
        served.send(OK)
        assert (await peer.message())[1] == b"ok"
        assert upstream.connections == 1


LONG = b"x-long: " + b"y" * 17_000 + b"\r\n\r\n"  # 16 KiB are allowed
BAD_TRAILERS = {"too long": LONG, "a header's": b"content-length: 5\r\n\r\n", "folded": b"x: y\r\n z\r\n\r\n"}


@pytest.mark.parametrize("trailers", BAD_TRAILERS.values(), ids=BAD_TRAILERS)
async def test_trailers_of_a_request_that_are_too_long_or_not_for_trailers_are_refused(trailers: bytes) -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(POST_CHUNKS + b"4\r\nwiki\r\n0\r\n")
        served = await upstream.accept()
        await served.head()
        peer.send(trailers)
        head, _ = await peer.message()
        assert status(head) == 400
        assert await served.rest() in {b"4\r\nwiki\r\n", b"4\r\nwiki\r\n0\r\n"}  # cut off before its end
        assert await peer.ended()


@pytest.mark.parametrize("trailers", BAD_TRAILERS.values(), ids=BAD_TRAILERS)
async def test_trailers_of_a_response_that_are_too_long_or_not_for_trailers_cut_it(trailers: bytes) -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(GET)
        served = await upstream.accept()
        await served.head()
        served.send(OK_CHUNKS + b"4\r\nwiki\r\n")
        await peer.head()
        assert await peer.exactly(9) == b"4\r\nwiki\r\n"
        served.send(b"0\r\n" + trailers)
        assert await peer.rest() in {b"", b"0\r\n"}
        assert await served.ended()
        record = await proxy.record()
        assert record.flag.value == "UPE"


async def test_a_body_that_the_upstream_does_not_want_is_never_sent() -> None:
    """Expect: 100-continue is the upstream's to answer, and its answer is the client's to heed (RFC 9110 10.1.1)."""
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n")
        served = await upstream.accept()
        assert b"expect: 100-continue\r\n" in await served.head()
        served.send(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno")
        head, body = await peer.message()
        assert (status(head), body) == (413, b"no")
        assert await served.ended()  # nobody waits for the body any more
        assert await peer.ended()
        assert (await proxy.record()).bytes_received == 0


@pytest.mark.parametrize(
    ("line", "sent", "host"),
    [
        (b"GET http://b.test:81/x?y=z HTTP/1.1", b"GET /x?y=z HTTP/1.1", b"b.test:81"),
        (b"GET http://b.test HTTP/1.1", b"GET / HTTP/1.1", b"b.test"),
        (b"GET http://b.test?y HTTP/1.1", b"GET /?y HTTP/1.1", b"b.test"),
        (b"GET HTTPS://B.test/ HTTP/1.1", b"GET / HTTP/1.1", b"B.test"),
        (b"OPTIONS http://b.test/ HTTP/1.1", b"OPTIONS / HTTP/1.1", b"b.test"),
        (b"OPTIONS * HTTP/1.1", None, b""),
        (b"OPTIONS http://b.test HTTP/1.1", None, b""),
        (b"CONNECT b.test:443 HTTP/1.1", None, b""),
    ],
)
async def test_every_form_of_a_target_goes_on_as_path_and_host(line: bytes, sent: bytes | None, host: bytes) -> None:
    """No route is for the server as a whole, or makes tunnels: 404, as with Envoy."""
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(line + b"\r\nhost: a\r\n\r\n")
        if sent is None:
            assert status((await peer.message())[0]) == 404
            assert upstream.connections == 0
            return
        served = await upstream.accept()
        head = await served.head()
        assert head.startswith(sent + b"\r\n")
        hosts = [field for field in head.lower().split(b"\r\n") if field.startswith(b"host:")]
        assert hosts == [b"host: " + host.lower()]
        served.send(OK)
        assert status((await peer.message())[0]) == 200


async def test_what_is_meant_for_one_connection_goes_no_further_in_either_direction() -> None:
    fields = b"connection: x-hop, keep-alive\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: keep-alive\r\n"
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        peer.send(b"GET / HTTP/1.1\r\nhost: a\r\n" + fields + b"upgrade: h2c\r\nte: gzip\r\nx-kept: 1\r\n\r\n")
        served = await upstream.accept()
        request = (await served.head()).lower()
        served.send(b"HTTP/1.1 200 OK\r\n" + fields + b"x-kept: 1\r\ncontent-length: 2\r\n\r\nok")
        response = (await peer.message())[0].lower()
        for head in (request, response):
            assert b"x-kept: 1\r\n" in head
            for name in (b"\nconnection:", b"x-hop", b"keep-alive", b"upgrade:", b"\nte:"):
                assert name not in head


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("word", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body_end_with_their_head_and_the_connections_go_on(method: bytes, word: bytes) -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy, client(proxy.address) as peer:
        for _ in range(2):
            peer.send(method + b" / HTTP/1.1\r\nhost: a\r\n\r\n")
            if upstream.connections == 0:
                served = await upstream.accept()
            await served.head()
            length = b"content-length: 5\r\n" if word.startswith(b"304") else b""
            served.send(b"HTTP/1.1 " + word + b"\r\n" + length + b"\r\n")
            head = await peer.head()
            assert head.startswith(b"HTTP/1.1 " + word)
            assert b"transfer-encoding" not in head.lower()
        peer.send(GET)
        await served.head()
        served.send(OK)
        assert (await peer.message())[1] == b"ok"
        assert upstream.connections == 1


@pytest.mark.parametrize(
    ("fields", "host", "connection"),
    [
        (b"", b"home", b"close"),
        (b"host: a\r\nconnection: x\r\n", b"a", b"close"),
        (b"host: a\r\nconnection: keep-alive\r\n", b"a", b"keep-alive"),
    ],
)
async def test_an_http_1_0_client_is_served_where_it_is_accepted(fields: bytes, host: bytes, connection: bytes) -> None:
    """With the host of the bootstrap where it names none, as HTTP/1.1 upstream, and kept alive only where it asks.

    It knows no interim responses (RFC 9110 15.2).
    """
    options = {"accept_http_10": True, "default_host_for_http_10": "home"}
    async with RawUpstream() as upstream:
        listener = http_listener([route()], http_protocol_options=options)
        text = bootstrap([listener], [cluster("service", upstream.address)])
        async with running(text) as proxy, client(proxy.address) as peer:
            peer.send(b"GET / HTTP/1.0\r\n" + fields + b"\r\n")
            served = await upstream.accept()
            got = await served.head()
            assert got.startswith(b"GET / HTTP/1.1\r\n")
            assert b"\r\nhost: " + host + b"\r\n" in got
            served.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
            answer = (await peer.message())[0]
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"connection: " + connection + b"\r\n" in answer
            if connection == b"close":
                assert await peer.ended()
