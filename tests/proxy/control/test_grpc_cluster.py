"""Calls to a cluster of the configuration in force, against a real grpcio server that wants the mesh's certificate."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pymesh.grpc.status import RpcError
from pymesh_proxy.control.grpc_cluster import ClusterChannel
from pymesh_proxy.control.secrets import Certificate, Roots
from tests.support.certificates import Authority, Issued
from tests.support.grpc_peers import CHAT, ECHO, WHO, grpcio_server
from tests.support.inprocess import Json, Running, bootstrap, cluster, http_listener, limits, route, running
from tests.support.peers import Address, client
from tests.support.waiting import eventually

POLICY = "spiffe://cluster.local/ns/pymesh-system/sa/policy"
APP = "spiffe://cluster.local/ns/default/sa/app"
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
HTTP2: Json = {
    "typed_extension_protocol_options": {
        _HTTP: {"@type": f"type.googleapis.com/{_HTTP}", "explicit_http_config": {"http2_protocol_options": {}}}
    }
}


def mesh_tls(identity: str = POLICY) -> Json:
    """The mesh's TLS as pilot writes it, ALPN of HTTP/1.1 included."""
    return {
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": _TLS,
                "sni": "outbound_.9091_._.policy",
                "common_tls_context": {
                    "alpn_protocols": ["istio-http/1.1", "istio"],
                    "tls_certificate_sds_secret_configs": [{"name": "default"}],
                    "combined_validation_context": {
                        "default_validation_context": {
                            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": identity}}]
                        },
                        "validation_context_sds_secret_config": {"name": "ROOTCA"},
                    },
                },
            },
        }
    }


@asynccontextmanager
async def proxy_with(*clusters: Json) -> AsyncIterator[Running]:
    async with running(bootstrap([http_listener([route()])], clusters)) as proxy:
        yield proxy


def channel_of(proxy: Running, name: str = "service") -> ClusterChannel:
    return ClusterChannel(proxy.runtime, name)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[Address]:
    with grpcio_server(certificate=authority.issue(uri=POLICY), clients=authority.root) as (_, port):
        yield "127.0.0.1", port


def know(proxy: Running, authority: Authority, issued: Issued) -> None:
    proxy.runtime.secrets.put("ROOTCA", Roots(authority.root))
    proxy.runtime.secrets.put("default", Certificate(issued.chain, issued.key))


async def test_a_call_shows_the_sidecars_certificate_and_speaks_h2(authority: Authority, secured: Address) -> None:
    async with proxy_with(cluster("service", secured, **mesh_tls(), **HTTP2)) as proxy:
        know(proxy, authority, authority.issue(uri=APP))
        channel = channel_of(proxy)
        assert APP.encode() in await channel.unary(WHO, b"", within=5)
        async with channel.stream(CHAT) as stream:
            await stream.send(b"x")
            assert await stream.receive() == b"x"
        assert proxy.counter("envoy_cluster_upstream_cx_total") == 1
        await channel.close()


async def test_a_server_of_another_identity_hears_nothing(authority: Authority, secured: Address) -> None:
    async with proxy_with(cluster("service", secured, **mesh_tls("spiffe://cluster.local/ns/x/sa/y"))) as proxy:
        know(proxy, authority, authority.issue(uri=APP))
        with pytest.raises(RpcError, match=rf"UNAVAILABLE: cluster service: .*certificate_SANs_are_\[{POLICY}\]"):
            await channel_of(proxy).unary(WHO, b"", within=5)


async def test_without_a_certificate_there_is_no_call(secured: Address) -> None:
    async with proxy_with(cluster("service", secured, **mesh_tls())) as proxy:
        with pytest.raises(RpcError, match="Secret_is_not_supplied_by_SDS"):
            await channel_of(proxy).unary(WHO, b"", within=5)


async def test_what_there_is_to_say_when_there_is_nobody_to_call() -> None:
    async with proxy_with(cluster("service"), cluster("full", ("127.0.0.1", 9), **limits(max_connections=0))) as proxy:
        with pytest.raises(RpcError, match="cluster other: there is no such cluster in the configuration in force"):
            await channel_of(proxy, "other").unary(ECHO, b"", within=5)
        with pytest.raises(RpcError, match="cluster service: it has no endpoint"):
            await channel_of(proxy).unary(ECHO, b"", within=5)
        with pytest.raises(RpcError, match="cluster full: it has 0 connections, its limit"):
            await channel_of(proxy, "full").unary(ECHO, b"", within=5)


async def test_calls_follow_the_endpoint_and_open_ones_end_where_they_are() -> None:
    with grpcio_server() as (_, first), grpcio_server() as (_, second):
        async with proxy_with(cluster("service", ("127.0.0.1", first))) as proxy:
            channel = channel_of(proxy)
            async with channel.stream(CHAT) as stream:
                await stream.send(b"a")
                assert await stream.receive() == b"a"
                assert not channel.moved
                moved = bootstrap([http_listener([route()])], [cluster("service", ("127.0.0.1", second))])
                async with running(moved) as other:
                    proxy.runtime.adopt(other.runtime.snapshot)
                assert bool(channel.moved)
                assert await channel.unary(ECHO, b"new", within=5) == b"new"
                assert not channel.moved
                await stream.send(b"b")
                assert await stream.receive() == b"b"
                assert proxy.counter("envoy_cluster_upstream_cx_active") == 2
            await eventually(lambda: proxy.counter("envoy_cluster_upstream_cx_active") == 1)
            await channel.close()


async def test_a_server_that_comes_back_is_found_again() -> None:
    with grpcio_server() as (server, port):
        async with proxy_with(cluster("service", ("127.0.0.1", port))) as proxy:
            channel = channel_of(proxy)
            async with channel.stream(CHAT) as stream:
                await stream.send(b"a")
                assert await stream.receive() == b"a"
                server.stop(grace=None).wait()
                with pytest.raises(RpcError):
                    await stream.receive()
            with pytest.raises(RpcError, match=f"cluster service: 127.0.0.1:{port}: .*refused"):
                await channel.unary(ECHO, b"b", within=5)
            with grpcio_server(f"127.0.0.1:{port}"):
                assert await channel.unary(ECHO, b"c", within=5) == b"c"
                await channel.close()


async def test_a_peer_that_agrees_on_no_protocol_is_refused(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue(uri=POLICY)
    (tmp_path / "pair").write_bytes(issued.chain + issued.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair")
    server = await asyncio.start_server(lambda _, writer: writer.write(b""), "127.0.0.1", 0, ssl=context)
    async with proxy_with(cluster("service", server.sockets[0].getsockname(), **mesh_tls())) as proxy:
        know(proxy, authority, authority.issue(uri=APP))
        with pytest.raises(RpcError, match=r"does not speak HTTP/2 \(ALPN h2\)"):
            await channel_of(proxy).unary(ECHO, b"", within=5)
    server.close()
    await server.wait_closed()


async def test_a_request_routed_to_an_http2_cluster_is_told_so() -> None:
    with grpcio_server() as (_, port):
        async with proxy_with(cluster("service", ("127.0.0.1", port), **HTTP2)) as proxy:
            async with client(proxy.address) as peer:
                peer.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                head = await peer.head()
            assert head.startswith(b"HTTP/1.1 503")
            assert b"error=proxy_configuration_error" in head
            assert b"cluster service speaks HTTP/2, which only gRPC clients of this proxy itself do" in head
            assert (await proxy.record()).flag.value == "NC"
            assert (await proxy.record()).details == "http2_upstream_not_supported"
