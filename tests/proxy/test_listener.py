"""What a listener makes of a connection by its first bytes, and of a client that says nothing."""

import asyncio
import json
import ssl

import pytest

from pymesh_proxy.errors import Flag
from tests.support.inprocess import Json, bootstrap, cluster, http_listener, route, running, tcp_listener
from tests.support.peers import RawUpstream, client
from tests.support.waiting import eventually

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def detecting(web: RawUpstream, other: RawUpstream, *, opaque: bool = True, **more: object) -> str:
    """HTTP to `web`; whatever else to `other`, or refused."""
    listener: Json = http_listener([route("web")])
    [chain] = listener["filter_chains"]
    chain["filter_chain_match"] = {"application_protocols": ["http/1.1", "http/1.0"]}
    if opaque:
        [listener["default_filter_chain"]] = tcp_listener("other")["filter_chains"]
    kinds = ("http_inspector.v3.HttpInspector", "tls_inspector.v3.TlsInspector")
    listener["listener_filters"] = [
        {"name": kind, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.filters.listener.{kind}"}}
        for kind in kinds
    ]
    listener |= more
    return bootstrap([listener], [cluster("web", web.address), cluster("other", other.address)])


async def test_http_is_told_from_anything_else_by_its_first_line() -> None:
    async with RawUpstream() as web, RawUpstream() as other, running(detecting(web, other)) as proxy:
        async with client(proxy.address) as peer:
            peer.send(GET)
            served = await web.accept()
            await served.head()
            served.send(OK)
            assert (await peer.message())[1] == b"ok"
        for garbage in (
            b"\x00\x01\x02\x03",
            b"SSH-2.0-x\r\n",
            b"\r\n\r\n\r\n",
            b"GET \x00",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ):
            async with client(proxy.address) as peer:
                peer.send(garbage)
                served = await other.accept()
                assert await served.exactly(len(garbage)) == garbage
                peer.close()
                served.close()
        assert web.connections == 1


async def test_a_request_line_that_comes_byte_by_byte_is_a_request_line() -> None:
    async with RawUpstream() as web, RawUpstream() as other, running(detecting(web, other)) as proxy:
        async with client(proxy.address) as peer:
            for position in range(len(GET)):
                peer.send(GET[position : position + 1])
                await peer.drain()
                await asyncio.sleep(0.01)  # longer in all than a silent client is waited for
            served = await web.accept()
            await served.head()
            served.send(OK)
            assert (await peer.message())[1] == b"ok"
        assert other.connections == 0


async def test_half_a_client_hello_is_waited_for() -> None:
    """A lost packet takes 200 ms to come again: the listener's time counts, not a silent client's."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="example.com").do_handshake()
    hello = outgoing.read()
    async with RawUpstream() as web, RawUpstream() as other:
        config = detecting(web, other, opaque=True, listener_filters_timeout="5s")
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(hello[:50])
            await asyncio.sleep(0.3)
            assert other.connections == 0
            peer.send(hello[50:])
            served = await other.accept()
            assert await served.exactly(len(hello)) == hello
            peer.close()
            served.close()
            assert (await proxy.record()).facts.sni == "example.com"


async def test_a_server_that_speaks_first_is_heard() -> None:
    async with (
        RawUpstream() as web,
        RawUpstream() as other,
        running(detecting(web, other)) as proxy,
        client(proxy.address) as peer,
    ):
        served = await other.accept()
        served.send(b"220 mail.example ESMTP\r\n")
        assert await peer.until(b"\r\n") == b"220 mail.example ESMTP\r\n"
        peer.send(b"QUIT\r\n")
        assert await served.until(b"\r\n") == b"QUIT\r\n"
        served.send(b"221 bye\r\n")
        served.close()
        assert await peer.rest() == b"221 bye\r\n"
        peer.close()
        record = await proxy.record()
        assert (record.protocol, record.bytes_received, record.bytes_sent) == ("TCP", 6, 33)


async def test_a_server_that_speaks_first_is_not_heard_by_who_is_kept_out() -> None:
    """The server is asked while the client is silent, and before anybody is let in; the client hears nothing of it."""
    rules = {"@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": "tcp"}
    keeping_out = {"name": "rbac", "typed_config": {**rules, "rules": {"action": "ALLOW"}}}
    async with RawUpstream() as web, RawUpstream() as other:
        config = json.loads(detecting(web, other))
        filters = config["static_resources"]["listeners"][0]["default_filter_chain"]["filters"]
        filters.insert(0, keeping_out)
        async with running(json.dumps(config)) as proxy, client(proxy.address) as peer:
            served = await other.accept()
            served.send(b"220 mail.example ESMTP\r\n")
            assert await peer.ended()
            assert await served.ended()
            record = await proxy.record()
            assert (record.details, record.bytes_sent) == ("rbac_access_denied_matched_policy[none]", 0)


async def test_a_client_that_speaks_http_late_is_served_as_such() -> None:
    """Its upstream was asked in vain whether it speaks first, and is let go."""
    async with (
        RawUpstream() as web,
        RawUpstream() as other,
        running(detecting(web, other)) as proxy,
        client(proxy.address) as peer,
    ):
        asked = await other.accept()
        peer.send(GET)
        served = await web.accept()
        await served.head()
        served.send(OK)
        assert (await peer.message())[1] == b"ok"
        assert await asked.ended()
        assert (await proxy.record()).protocol == "HTTP/1.1"


@pytest.mark.parametrize("silent_first", [False, True], ids=["at once", "after a silence"])
@pytest.mark.parametrize("lookalike", [b"GET\t/ HTTP/1.1\r\n", b"\r\n GET / HTTP/1.1\r\n", b"x HTTP/1.1\r\n"])
async def test_towards_the_app_what_only_resembles_a_request_is_refused_and_not_passed_as_opaque(
    lookalike: bytes, silent_first: bool
) -> None:
    """A lenient app would read it as a request, with whatever identity its headers claim."""
    forged = lookalike + b"x-forwarded-client-cert: URI=spiffe://cluster.local/ns/a/sa/b\r\n\r\n"
    async with RawUpstream() as web, RawUpstream() as other:
        async with running(detecting(web, other, traffic_direction="INBOUND")) as proxy, client(proxy.address) as peer:
            asked = await other.accept() if silent_first else None
            peer.send(forged)
            assert (await peer.message())[0].startswith(b"HTTP/1.1 400 ")
            assert await peer.ended()
            if asked is not None:
                assert await asked.rest() == b""
        assert (web.connections, other.connections) == (0, int(silent_first))


async def test_towards_the_app_half_a_lookalike_is_not_opaque_either() -> None:
    """A client that outwaits the inspection would else have its headers follow through the opaque chain."""
    async with RawUpstream() as web, RawUpstream() as other:
        config = detecting(
            web,
            other,
            traffic_direction="INBOUND",
            listener_filters_timeout="0.15s",
            continue_on_listener_filters_timeout=True,
        )
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(b"GET")
            assert await peer.ended()
            assert proxy.counter("pymesh_listener_refused_total") == 1
        assert (web.connections, other.connections) == (0, 0)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_that_goes_before_anybody_spoke_is_told_to_the_client(how: str) -> None:
    async with RawUpstream() as web, RawUpstream() as other, running(detecting(web, other)) as proxy:
        async with client(proxy.address) as peer:
            served = await other.accept()
            getattr(served, how)()
            assert await peer.ended()
        await proxy.record()


async def test_a_silent_client_of_an_upstream_that_is_not_there_is_told() -> None:
    async with RawUpstream() as web, RawUpstream() as other:
        other.close()
        async with running(detecting(web, other)) as proxy, client(proxy.address) as peer:
            assert await peer.ended()
            assert (await proxy.record()).flag is Flag.UPSTREAM_CONNECTION_FAILURE


@pytest.mark.parametrize("said", [b"", b"GET / HT"])
async def test_a_client_that_never_tells_what_it_speaks_is_refused_in_time_and_counted(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with RawUpstream() as web, RawUpstream() as other:
        config = detecting(web, other, opaque=False, listener_filters_timeout="0.15s")
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(said)
            assert await peer.ended()
            assert proxy.counter("pymesh_listener_refused_total") == 1
            assert proxy.counter("envoy_listener_downstream_cx_refused_total") == 1
            assert "refused: what is spoken could not be told within 0.15 s" in caplog.text


async def test_what_no_chain_wants_is_refused_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        RawUpstream() as web,
        RawUpstream() as other,
        running(detecting(web, other, opaque=False)) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(b"\x00\x01")
        assert await peer.ended()
        assert proxy.counter("envoy_listener_downstream_no_filter_chain_total") == 1
        assert "no filter chain of http for 127.0.0.1:" in caplog.text


async def test_a_client_that_leaves_while_it_is_looked_at_leaves_nothing() -> None:
    async with RawUpstream() as web, RawUpstream() as other, running(detecting(web, other)) as proxy:
        for how in ("close", "reset"):
            for said in (b"", b"GET / HT"):
                async with client(proxy.address) as peer:
                    peer.send(said)
                    await peer.drain()
                    getattr(peer, how)()
        for _ in range(2):  # those that ended in order are passed on: an end without a word may mean something, too
            served = await other.accept()
            await served.ended()
            served.close()
        await eventually(lambda: not proxy.runtime._tasks, what="nobody is looked at any more")
