"""TLS on the whole way: sessions that are resumed, and what of a client's certificate the app is told."""

import asyncio
import ssl
from pathlib import Path

import pytest

from pymesh_proxy.errors import Flag
from pymesh_proxy.transport.tls_connections import connect_tls
from tests.support.certificates import Authority
from tests.support.inprocess import Json, bootstrap, cluster, http_listener, route, running
from tests.support.messages import GET, OK
from tests.support.peers import Peer, RawUpstream, client
from tests.support.tls_upstream import TlsUpstream, files, socket_of, trusting
from tests.support.waiting import eventually

CLOSE = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_the_second_connection_to_an_endpoint_resumes_the_session(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    authority = Authority()
    upstream = TlsUpstream(OK)
    async with upstream.listening(tmp_path, authority.issue(dns=("a.example",)), version) as address:
        tls = socket_of("UpstreamTlsContext", sni="a.example", common_tls_context=trusting(authority))
        config = bootstrap([http_listener([route()])], [cluster("service", address, **tls)])
        async with running(config) as proxy:
            for _ in range(3):
                async with client(proxy.address) as peer:
                    peer.send(GET)
                    assert (await peer.message())[1] == b"ok"
                await proxy.settled()
                [compiled] = proxy.runtime.snapshot.clusters.values()
                for connection in tuple(compiled.endpoints[0].idle):
                    connection.close()
                await proxy.settled()
    assert upstream.resumed == [False, True, True]


def expecting(authority: Authority, kind: str, name: str) -> Json:
    """A validation context for peers of that name."""
    context = trusting(authority)["validation_context"]
    return {"validation_context": {**context, "match_typed_subject_alt_names": [_named(kind, name)]}}


def _named(kind: str, name: str) -> Json:
    return {"san_type": kind, "matcher": {"exact": name}}


@pytest.mark.parametrize(("name", "served"), [("a.example", True), ("b.example", False)])
async def test_a_server_is_asked_only_if_it_is_who_it_should_be(name: str, served: bool, tmp_path: Path) -> None:
    authority, upstream = Authority(), TlsUpstream(OK)
    issued = authority.issue(dns=("a.example",))
    async with upstream.listening(tmp_path, issued, ssl.TLSVersion.TLSv1_3) as address:
        tls = socket_of("UpstreamTlsContext", sni="a.example", common_tls_context=expecting(authority, "DNS", name))
        config = bootstrap([http_listener([route()])], [cluster("service", address, **tls)])
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(GET)
            assert (await peer.head()).startswith(b"HTTP/1.1 200 " if served else b"HTTP/1.1 503 ")
            record = await proxy.record()
            assert (record.flag is Flag.NONE) is served
            assert ("SAN_matcher" in record.notes.get("reason", "")) is not served


@pytest.mark.parametrize(("name", "served"), [("caller", True), ("other", False)])
async def test_a_client_is_served_only_if_it_is_who_it_should_be(name: str, served: bool, tmp_path: Path) -> None:
    authority, place = Authority(), "spiffe://cluster.local/ns/default/sa/"
    own, caller = authority.issue(uri=f"{place}reviews"), authority.issue(uri=f"{place}caller")
    certificate = {
        "certificate_chain": {"inline_string": own.chain.decode()},
        "private_key": {"inline_string": own.key.decode()},
    }
    common = {"tls_certificates": [certificate], **expecting(authority, "URI", place + name)}
    listener = http_listener([{"match": {"prefix": "/"}, "direct_response": {"status": 204}}])
    listener["filter_chains"][0] |= socket_of(
        "DownstreamTlsContext", common_tls_context=common, require_client_certificate=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=authority.root.decode())
    context.load_cert_chain(*files(tmp_path, caller))
    async with running(bootstrap([listener], [])) as proxy:
        peer = Peer(*await asyncio.open_connection(*proxy.address, ssl=context))
        peer.send(GET)
        if served:
            assert (await peer.head()).startswith(b"HTTP/1.1 204 ")
        else:
            assert await peer.ended()
            assert not proxy.runtime.recent
        peer.writer.transport.abort()
        await asyncio.sleep(0)


async def test_the_app_is_told_the_dns_names_of_its_caller(tmp_path: Path) -> None:
    authority = Authority()
    own = authority.issue(uri="spiffe://cluster.local/ns/default/sa/reviews")
    listener = http_listener(
        [route()], forward_client_cert_details="SANITIZE_SET", set_current_client_cert_details={"dns": True}
    )
    certificate = {
        "certificate_chain": {"inline_string": own.chain.decode()},
        "private_key": {"inline_string": own.key.decode()},
    }
    common = {"tls_certificates": [certificate], **trusting(authority)}
    listener["filter_chains"][0] |= socket_of(
        "DownstreamTlsContext", common_tls_context=common, require_client_certificate=True
    )
    issued = authority.issue(uri="spiffe://cluster.local/ns/default/sa/caller", dns=("b.example", "c.example"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=authority.root.decode())
    context.load_cert_chain(*files(tmp_path, issued))
    async with (
        RawUpstream() as upstream,
        running(bootstrap([listener], [cluster("service", upstream.address)])) as proxy,
    ):
        peer = Peer(*await asyncio.open_connection(*proxy.address, ssl=context))
        peer.send(GET)
        served = await upstream.accept()
        assert b";DNS=b.example;DNS=c.example\r\n" in await served.head()
        served.send(CLOSE)
        assert (await peer.message())[1] == b"ok"
        peer.writer.transport.abort()
        await asyncio.sleep(0)


async def test_each_half_of_an_upgraded_connection_ends_by_itself_over_tls(tmp_path: Path) -> None:
    authority = Authority()
    issued = authority.issue(dns=("a.example",))
    upgraded = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
    listener = http_listener([route()], upgrade_configs=[{"upgrade_type": "x"}])
    certificate = {
        "certificate_chain": {"inline_string": issued.chain.decode()},
        "private_key": {"inline_string": issued.key.decode()},
    }
    listener["filter_chains"][0] |= socket_of(
        "DownstreamTlsContext", common_tls_context={"tls_certificates": [certificate]}
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with (
        RawUpstream() as upstream,
        running(bootstrap([listener], [cluster("service", upstream.address)])) as proxy,
    ):
        said = Said()
        stream = await connect_tls(asyncio.get_running_loop(), context, lambda: said, proxy.address)
        stream.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
        served = await upstream.accept()
        await served.head()
        served.send(upgraded)
        await eventually(lambda: b"101" in said.data)
        stream.write(b"last words")
        stream.write_eof()
        assert await served.rest() == b"last words"
        served.send(b"answer" * 10_000)
        served.end()
        await eventually(lambda: said.ended)
        assert said.data.endswith(b"answer" * 10_000)
        stream.close()


class Said(asyncio.Protocol):
    """What was said to a client."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.ended = True
        return True
