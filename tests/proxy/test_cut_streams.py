"""A TLS stream that ends without close_notify was cut: what it carried is not passed off as complete (RFC 9112 9.8).

Anybody on the way can end TCP; only the peer can end TLS.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from pymesh_proxy.errors import Flag
from tests.support.certificates import Authority
from tests.support.envoy import envoy_process
from tests.support.inprocess import Json, Running, bootstrap, cluster, http_listener, route, running
from tests.support.peers import Address, Peer, RawUpstream, client, connect
from tests.support.proxy_process import free_port
from tests.support.waiting import eventually

GET: Final = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OLD_GET: Final = b"GET / HTTP/1.0\r\nhost: a\r\n\r\n"
UNFRAMED: Final = b"HTTP/1.1 200 OK\r\n\r\nhello"
UPGRADE: Final = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
UPGRADED: Final = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello"
BEGUN: Final = "upstream_reset_after_response_started{connection_termination}"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chain and key of `localhost`, in one file."""
    issued = Authority().issue(dns=("localhost",))
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    path.write_bytes(issued.chain + issued.key)
    return path


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def asking() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def socket_of(kind: str, **common: object) -> Json:
    return {
        "transport_socket": {"name": "tls", "typed_config": {"@type": f"{_TLS}{kind}", "common_tls_context": common}}
    }


def in_front_of(upstream: Address, port: int = 0) -> str:
    """A plaintext listener, whose upstream is reached over TLS."""
    listener = http_listener(
        [route()], http_protocol_options={"accept_http_10": True}, upgrade_configs=[{"upgrade_type": "x"}]
    )
    listener["address"]["socket_address"]["port_value"] = port
    return bootstrap([listener], [cluster("service", upstream, **socket_of("UpstreamTlsContext"))])


@asynccontextmanager
async def tls_upstream(certificate: Path) -> AsyncIterator[tuple[RawUpstream, Running, Peer]]:
    """A client in plaintext, and an upstream over TLS."""
    async with (
        RawUpstream(tls=serving(certificate)) as upstream,
        running(in_front_of(upstream.address)) as proxy,
        client(proxy.address) as peer,
    ):
        yield upstream, proxy, peer


@asynccontextmanager
async def tls_client(certificate: Path) -> AsyncIterator[tuple[RawUpstream, Running, Peer]]:
    """A client over TLS, and an upstream in plaintext."""
    both = {"inline_string": certificate.read_text()}
    own = {"tls_certificates": [{"certificate_chain": both, "private_key": both}]}
    listener = http_listener([route()], http_protocol_options={"accept_http_10": True})
    listener["filter_chains"][0] |= socket_of("DownstreamTlsContext", **own)
    async with (
        RawUpstream() as upstream,
        running(bootstrap([listener], [cluster("service", upstream.address)])) as proxy,
        client(proxy.address, tls=asking()) as peer,
    ):
        yield upstream, proxy, peer


async def begun(peer: Peer, upstream: RawUpstream, request: bytes, response: bytes) -> Peer:
    """The upstream's end, when `response`, which ends with `hello`, has gone through."""
    peer.send(request)
    served = await upstream.accept()
    await served.head()
    served.send(response)
    await peer.until(b"hello")
    return served


# --- Upstream ---------------------------------------------------------------------------------------------------------


async def test_a_body_that_was_cut_does_not_end_for_the_client(certificate: Path) -> None:
    async with tls_upstream(certificate) as (upstream, proxy, peer):
        (await begun(peer, upstream, GET, UNFRAMED)).cut()
        assert await peer.rest() == b"\r\n"  # of its chunk; there is no last one
        record = await proxy.record()
        assert (record.status, record.flag, record.details) == (200, Flag.UPSTREAM_CONNECTION_TERMINATION, BEGUN)
        assert record.notes["reason"] == "the connection ended without TLS's close_notify"


async def test_a_body_that_was_ended_does(certificate: Path) -> None:
    async with tls_upstream(certificate) as (upstream, proxy, peer):
        (await begun(peer, upstream, GET, UNFRAMED)).close()
        assert await peer.until(b"0\r\n\r\n") == b"\r\n0\r\n\r\n"
        assert (await proxy.record()).flag is Flag.NONE


@pytest.mark.parametrize(("request_", "response"), [(OLD_GET, UNFRAMED), (UPGRADE, UPGRADED)], ids=["1.0", "upgraded"])
async def test_where_closing_would_mean_the_end_the_client_is_reset(
    certificate: Path, request_: bytes, response: bytes
) -> None:
    async with tls_upstream(certificate) as (upstream, proxy, peer):
        (await begun(peer, upstream, request_, response)).cut()
        with pytest.raises(ConnectionResetError):
            await peer.rest()
        assert (await proxy.record()).flag is Flag.UPSTREAM_CONNECTION_TERMINATION


async def test_what_was_complete_before_is_complete(certificate: Path) -> None:
    async with tls_upstream(certificate) as (upstream, proxy, peer):
        framed = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
        (await begun(peer, upstream, GET, framed)).cut()
        assert (await proxy.record()).flag is Flag.NONE
        await eventually(lambda: not proxy.counter("envoy_cluster_upstream_cx_active"))
        await begun(peer, upstream, GET, framed)  # over another connection
        assert upstream.connections == 2


@pytest.mark.envoy
async def test_envoy_takes_it_for_complete(certificate: Path, tmp_path: Path) -> None:
    """If this fails, Envoy has learned it, and docs/envoy-support.md need not name it as a difference any more."""
    address = ("127.0.0.1", free_port())
    async with (
        RawUpstream(tls=serving(certificate)) as upstream,
        envoy_process(in_front_of(upstream.address, address[1]), tmp_path),
    ):
        await eventually(lambda: _accepts(address), what="Envoy", timeout=20)
        async with client(address) as peer:
            (await begun(peer, upstream, GET, UNFRAMED)).cut()
            assert await peer.until(b"0\r\n\r\n") == b"\r\n0\r\n\r\n"


async def _accepts(address: Address) -> bool:
    try:
        peer = await connect(address)
    except OSError:
        return False
    peer.writer.transport.abort()
    return True


# --- Downstream -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "close"])
@pytest.mark.parametrize(
    "body",
    [b"content-length: 10\r\n\r\nhello", b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"],
    ids=["length", "chunked"],
)
async def test_a_request_that_was_cut_is_not_ended_for_the_upstream(certificate: Path, body: bytes, how: str) -> None:
    async with tls_client(certificate) as (upstream, proxy, peer):
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\n" + body)
        served = await upstream.accept()
        await served.until(b"hello")
        getattr(peer, how)()
        assert await served.rest() in {b"", b"\r\n"}  # its connection is over, and no last chunk has come
        record = await proxy.record()
        assert record.flag is Flag.DOWNSTREAM_CONNECTION_TERMINATION


async def test_an_answer_that_was_cut_ends_without_close_notify(certificate: Path) -> None:
    """As its client speaks HTTP/1.0, that would mean that the answer is complete."""
    async with tls_client(certificate) as (upstream, proxy, peer):
        (await begun(peer, upstream, OLD_GET, UNFRAMED)).reset()
        with pytest.raises(ConnectionResetError):
            await peer.rest()
        assert (await proxy.record()).flag is Flag.UPSTREAM_CONNECTION_TERMINATION
