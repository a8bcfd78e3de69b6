"""Requests and connections of a proxy, as a real access log service is told of them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry

from pymesh import telemetry_tags
from pymesh_proxy.control import call, reporter
from pymesh_proxy.control.reporter import SLICE
from tests.support.als_server import als_server
from tests.support.echo import EchoServer
from tests.support.inprocess import (
    Json,
    Running,
    bootstrap,
    cluster,
    http_listener,
    route,
    running,
    tcp_listener,
    write_bootstrap,
)
from tests.support.peers import RawUpstream, client
from tests.support.proxy_process import ProxyProcess, free_port
from tests.support.waiting import eventually

NODE = "sidecar~10.0.0.1~pod.ns~ns.svc.cluster.local"
_TYPE = "type.googleapis.com/envoy.extensions"
_HTTP2 = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
}


def log(kind: str, **common: object) -> Json:
    """`access_log` of a manager or a TCP proxy."""
    config: Json = {
        "@type": f"{_TYPE}.access_loggers.grpc.v3.{kind}GrpcAccessLogConfig",
        "common_config": {
            "log_name": "pymesh",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "telemetry"}},
            "buffer_flush_interval": "0.05s",
            **common,
        },
    }
    if kind == "Http":
        config["additional_request_headers_to_log"] = ["X-Extra", "x-absent"]
        config["additional_response_headers_to_log"] = ["X-Upstream"]
    return {"access_log": [{"name": "als", "typed_config": config}]}


def proxied(upstream: int, telemetry: int, **common: object) -> str:
    """An HTTP listener and a TCP listener that report."""
    listeners = [http_listener([route()], **log("Http", **common)), tcp_listener(**log("Tcp", **common))]
    clusters = [cluster("service", ("127.0.0.1", upstream)), cluster("telemetry", ("127.0.0.1", telemetry), **_HTTP2)]
    return bootstrap(listeners, clusters)


async def ask(proxy: Running, path: str = "/", method: str = "GET", extra: str = "") -> None:
    """One request on a connection of its own."""
    async with client(proxy.address_of("http")) as peer:
        peer.send(f"{method} {path} HTTP/1.1\r\nhost: a.test\r\n{extra}connection: close\r\n\r\n".encode("latin-1"))
        await peer.rest()


@contextlib.asynccontextmanager
async def reporting(collector: int, **common: object) -> AsyncIterator[Running]:
    """A proxy in front of an echo server, which reports to the port `collector`."""
    with EchoServer("a") as upstream:
        async with running(proxied(upstream.port, collector, **common), settle=False) as proxy:
            proxy.runtime.reporters.node.id = NODE
            yield proxy


async def test_a_request_is_reported_with_all_that_is_known() -> None:
    with als_server() as collector:
        async with reporting(collector.port) as proxy:
            await ask(proxy, "/a?b=c", extra="user-agent: test\r\nx-extra: \xe4\r\nx-request-id: id-1\r\n")
            [entry] = await eventually(lambda: collector.http)
            record = await proxy.record()
    assert collector.messages[0].identifier.node.id == NODE
    assert collector.messages[0].identifier.log_name == "pymesh"
    common = entry.common_properties
    assert common.downstream_remote_address.socket_address.address == "127.0.0.1"
    assert common.upstream_cluster == "service"
    assert common.upstream_remote_address.socket_address.port_value == int(record.endpoint.rpartition(":")[2])
    assert common.access_log_type == AccessLogType.DownstreamEnd
    assert common.start_time.ToNanoseconds() == pytest.approx(record.wall * 1e9, abs=1000)
    assert common.duration.ToMicroseconds() == round((record.t_end - record.t_start) * 1e6)
    assert 0 < common.time_to_first_upstream_tx_byte.ToNanoseconds() < common.duration.ToNanoseconds()
    assert common.custom_tags[telemetry_tags.VIRTUAL_HOST] == "all"
    assert (entry.protocol_version, entry.request.request_method) == (HTTPAccessLogEntry.HTTP11, RequestMethod.GET)
    assert (entry.request.path, entry.request.authority) == ("/a?b=c", "a.test")
    assert (entry.request.user_agent, entry.request.request_id) == ("test", "id-1")
    assert dict(entry.request.request_headers) == {"x-extra": "\xe4"}
    assert dict(entry.response.response_headers) == {"x-upstream": "yes"}
    assert (entry.response.response_code.value, entry.response.response_code_details) == (200, "via_upstream")
    assert entry.response.response_body_bytes == record.bytes_sent > 0


async def test_a_connection_is_reported_at_its_end() -> None:
    with als_server() as collector:
        async with reporting(collector.port) as proxy:
            async with client(proxy.address_of("tcp")) as peer:
                peer.send(b"GET /status/204 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                await peer.rest()
            [entry] = await eventually(lambda: collector.tcp)
            record = await proxy.record()
    assert entry.common_properties.access_log_type == AccessLogType.TcpConnectionEnd
    assert entry.common_properties.upstream_cluster == "service"
    assert entry.connection_properties.received_bytes == record.bytes_received > 0
    assert entry.connection_properties.sent_bytes == record.bytes_sent > 0


async def test_entries_go_in_batches_over_one_stream_and_none_is_lost_or_doubled() -> None:
    with als_server() as collector:
        async with reporting(collector.port, buffer_flush_interval="60s", buffer_size_bytes=8192) as proxy:
            for number in range(3 * SLICE):
                await ask(proxy, f"/{number}")
            await proxy.runtime.reporters.finish(10.0)
            assert collector.ended == collector.streams == 1
            assert [entry.request.path for entry in collector.http] == [f"/{number}" for number in range(3 * SLICE)]
            assert len(collector.messages) <= 4
            assert proxy.counter("pymesh_telemetry_sent_total") == 3 * SLICE
            assert proxy.counter("pymesh_telemetry_dropped_total") == 0


async def test_a_collector_that_is_away_costs_no_request_and_only_the_oldest_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporter, "MAX_BACKLOG", 8 * 1024)
    port = free_port()
    async with reporting(port) as proxy:
        for number in range(100):
            await ask(proxy, f"/{number}")
        await eventually(lambda: proxy.counter("pymesh_telemetry_dropped_total") > 50)
        assert proxy.counter("pymesh_telemetry_connected") == 0
        assert proxy.counter("pymesh_telemetry_sent_total") == 0
        with als_server(port) as collector:
            await eventually(lambda: collector.http)
            assert proxy.counter("pymesh_telemetry_connected") == 1
            paths = [entry.request.path for entry in collector.http]
            assert paths == [f"/{number}" for number in range(100 - len(paths), 100)]
            dropped = int(proxy.counter("pymesh_telemetry_dropped_total"))
            assert dropped == 100 - len(paths)
            assert collector.http[0].common_properties.custom_tags[telemetry_tags.DROPPED] == str(dropped)


async def test_a_collector_that_is_stopped_is_given_up_and_costs_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "SEND_TIMEOUT", 0.2)
    monkeypatch.setattr(call, "SEND_WATERMARK", 0)
    async with RawUpstream() as stopped, reporting(stopped.address[1]) as proxy:  # it takes connections, and no more
        extra = f"user-agent: {'x' * 8000}\r\n"
        for number in range(20):  # more than an HTTP/2 window of a peer that says nothing
            await ask(proxy, f"/{number}", extra=extra)
        await eventually(lambda: proxy.counter("pymesh_telemetry_dropped_total"))
        assert proxy.counter("pymesh_telemetry_connected") == 0
        await ask(proxy)
        assert len(await proxy.records(21)) == 21


async def test_a_collector_that_comes_back_is_reported_to_again() -> None:
    port = free_port()
    async with reporting(port) as proxy:
        for name in ("/first", "/second"):
            with als_server(port) as collector:
                await ask(proxy, name)
                await eventually(lambda: [entry.request.path for entry in collector.http][-1:] == [name])  # noqa: B023
        assert proxy.counter("pymesh_telemetry_dropped_total") == 0


@pytest.mark.e2e
async def test_what_waits_is_sent_before_a_proxy_ends(tmp_path: Path) -> None:
    with EchoServer("a") as upstream, als_server() as collector:
        config = json.loads(proxied(upstream.port, collector.port, buffer_flush_interval="60s"))
        port = config["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] = free_port()
        path = write_bootstrap(tmp_path, json.dumps(config))
        with ProxyProcess("--config", str(path)) as proxy:
            async with client(("127.0.0.1", port)) as peer:
                peer.send(b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                await peer.rest()
            proxy.terminate()
            assert await asyncio.to_thread(proxy.wait) == 0
        assert [entry.request.path for entry in collector.http] == ["/last"]
        assert collector.ended == 1


async def test_entries_of_a_configuration_that_is_gone_are_still_sent() -> None:
    with als_server() as collector:
        async with reporting(collector.port, buffer_flush_interval="60s") as proxy:
            await ask(proxy)
            proxy.runtime.adopt(replace(proxy.runtime.snapshot, listeners={}))
            await eventually(lambda: collector.ended)
            assert len(collector.http) == 1
