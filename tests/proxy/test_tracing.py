"""Spans of a real chain: a client, two sidecars and an app between them that hands on the headers of its request."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from pymesh.errors import ConfigError
from pymesh_proxy import reporting
from pymesh_proxy.admin_pages import record_as_json
from pymesh_proxy.control import reporter
from tests.support.echo import EchoServer
from tests.support.inprocess import Json, Running, bootstrap, cluster, http_listener, route, running
from tests.support.otlp_server import OtlpServer, otlp_server
from tests.support.peers import Address, client
from tests.support.waiting import eventually

_TYPE = "type.googleapis.com/envoy"
_HTTP2 = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
}
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
# What an app has to hand on, as every guide to tracing says.
HANDED_ON = (b"traceparent", b"tracestate", b"b3", b"x-request-id")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are sent at once."""
    monkeypatch.setattr(reporting, "SPANS_INTERVAL", 0.02)


def tracing(sampling: float = 100, **more: object) -> Json:
    """`tracing` of a manager."""
    config = {
        "@type": f"{_TYPE}.config.trace.v3.OpenTelemetryConfig",
        "grpc_service": {"envoy_grpc": {"cluster_name": "otel"}},
        "service_name": "shop",
    }
    return {
        "tracing": {
            "random_sampling": {"value": sampling},
            "provider": {"name": "otel", "typed_config": config},
            **more,
        }
    }


def listener(name: str, direction: str, to: str, **manager: object) -> Json:
    """A listener of a sidecar."""
    return {**http_listener([route(to)], **manager), "name": name, "traffic_direction": direction}


def sidecar(upstreams: dict[str, Address], collector: int, *listeners: Json) -> str:
    """A sidecar that sends its spans to a port of loopback."""
    clusters = [cluster(name, address) for name, address in upstreams.items()]
    return bootstrap(listeners, [*clusters, cluster("otel", ("127.0.0.1", collector), **_HTTP2)])


@contextlib.asynccontextmanager
async def app(outbound: list[Address]) -> AsyncIterator[Address]:
    """An app that asks `outbound[0]` before it answers, with the headers about the trace that it was asked with."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            kept = [line for line in lines[1:] if line.partition(b":")[0].lower() in HANDED_ON]
            async with client(outbound[0]) as peer:
                peer.send(b"\r\n".join([b"GET /back HTTP/1.1", b"host: back", b"connection: close", *kept, b"", b""]))
                await peer.rest()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]


@contextlib.asynccontextmanager
async def chain(collector: OtlpServer, sampling: float = 100) -> AsyncIterator[tuple[Running, Running]]:
    """The sidecars of the front, which has the app, and of the back."""
    traced = tracing(sampling)
    with EchoServer("back") as back:
        behind = sidecar({"app": ("127.0.0.1", back.port)}, collector.port, listener("in", "INBOUND", "app", **traced))
        async with running(behind, settle=False) as second:
            asked: list[Address] = []
            async with app(asked) as address:
                before = sidecar(
                    {"app": address, "back": second.address},
                    collector.port,
                    listener("in", "INBOUND", "app", **traced),
                    listener("out", "OUTBOUND", "back", **traced),
                )
                async with running(before, settle=False) as first:
                    asked.append(first.address_of("out"))
                    yield first, second


async def ask(front: Running, extra: str = "") -> None:
    async with client(front.address_of("in")) as peer:
        peer.send(f"GET /front HTTP/1.1\r\nhost: front\r\n{extra}connection: close\r\n\r\n".encode())
        assert (await peer.rest()).startswith(b"HTTP/1.1 200")


def by_parent(spans: list[Span]) -> list[Span]:
    """`spans`, each before the one whose parent it is."""
    ordered: list[Span] = []
    left = list(spans)
    while left:
        known = {span.span_id for span in left}
        [first] = [span for span in left if span.parent_span_id not in known]
        assert not ordered or first.parent_span_id == ordered[-1].span_id
        ordered.append(first)
        left.remove(first)
    return ordered


@pytest.mark.parametrize(
    ("extra", "trace", "parent"),
    [
        ("", "", ""),
        (f"traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=1\r\n", TRACE, SPAN),
        (f"b3: {TRACE}-{SPAN}-1\r\n", TRACE, SPAN),
    ],
    ids=["no trace", "w3c", "b3"],
)
async def test_the_spans_of_a_chain_are_one_tree(extra: str, trace: str, parent: str) -> None:
    with otlp_server() as collector:
        async with chain(collector) as (first, second):
            await ask(first, extra)
            spans = await eventually(lambda: collector.spans if len(collector.spans) >= 3 else [])
            records = [*await first.records(2), await second.record()]
    ordered = by_parent(spans)
    assert [span.kind for span in ordered] == [Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER]
    assert [span.name for span in ordered] == ["ingress", "egress back", "ingress"]
    assert len({span.trace_id for span in spans}) == 1
    assert ordered[0].parent_span_id.hex() == parent
    assert not trace or ordered[0].trace_id.hex() == trace
    assert {span.trace_state for span in ordered} == ({"a=1"} if "tracestate" in extra else {""})
    told = {record.span.span_id: record_as_json(record) for record in records if record.span}
    for span in ordered:
        shown = told[span.span_id.hex()]
        assert (shown["trace_id"], shown["parent_span_id"]) == (span.trace_id.hex(), span.parent_span_id.hex())
        assert shown["sampled"] is True


async def test_the_first_proxy_decides_for_all() -> None:
    with otlp_server() as collector:
        async with chain(collector, sampling=30) as (first, _):
            for _ in range(60):
                await ask(first)
            sampled = sum(record.span is not None and record.span.sampled for record in await first.records(120))
            assert 0 < sampled < 120
            await eventually(lambda: len(collector.spans) >= sampled * 3 // 2, timeout=20.0)
        traces: dict[bytes, list[Span]] = {}
        for span in collector.spans:
            traces.setdefault(span.trace_id, []).append(span)
        assert all(len(by_parent(spans)) == 3 for spans in traces.values())


async def test_a_collector_that_asks_for_it_gets_spans_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "LONGEST_PAUSE", 0.05)
    with otlp_server() as collector:
        collector.refusing = grpc.StatusCode.UNAVAILABLE
        async with chain(collector) as (first, second):
            await ask(first)
            await eventually(lambda: collector.refused >= 4)
            assert first.counter("pymesh_telemetry_dropped_total") == 0
            collector.refusing = None
            await eventually(lambda: len(collector.spans) == 3)
            collector.refusing = grpc.StatusCode.INVALID_ARGUMENT
            await ask(first)
            await eventually(lambda: first.counter("pymesh_telemetry_dropped_total") == 2)
            await eventually(lambda: second.counter("pymesh_telemetry_dropped_total") == 1)


async def test_a_collector_that_takes_a_part_only_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with otlp_server() as collector:
        collector.partly = b"\x0a\x08\x08\x01\x12\x04late"  # partial_success: {rejected_spans: 1, error_message: late}
        async with chain(collector) as (first, second):
            for count in (1, 2):
                await ask(first)
                await eventually(lambda: len(collector.spans) == 3 * count)  # noqa: B023 - awaited here
            await eventually(lambda: second.counter("pymesh_telemetry_sent_total") == 2)
    assert len([line for line in caplog.messages if "refuses some" in line and "late" in line]) == 2  # a proxy each


async def test_without_tracing_headers_pass_untouched() -> None:
    fields = {"traceparent": "rubbish", "tracestate": "a=1", "b3": "rubbish", "x-request-id": f"{TRACE[:8]}-x"}
    with EchoServer("a") as upstream:
        config = bootstrap([http_listener([route()])], [cluster("service", ("127.0.0.1", upstream.port))])
        async with running(config) as proxy, client(proxy.address) as peer:
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            peer.send(f"GET / HTTP/1.1\r\nhost: a\r\n{lines}connection: close\r\n\r\n".encode())
            found = dict(json.loads((await peer.rest()).partition(b"\r\n\r\n")[2])["headers"])
            assert {name: found[name] for name in fields} == fields
            assert record_as_json(await proxy.record())["trace_id"] == ""


@pytest.mark.parametrize(
    ("manager", "path"),
    [
        ({"tracing": {}}, "tracing.provider"),
        (tracing(101), "tracing.random_sampling"),
        (tracing(overall_sampling={"value": -1}), "tracing.overall_sampling"),
        (tracing(verbose=True), "tracing.verbose"),
        (
            {"tracing": {"provider": {"typed_config": {"@type": f"{_TYPE}.config.trace.v3.OpenTelemetryConfig"}}}},
            "tracing.provider.typed_config.grpc_service",
        ),
        (
            {
                "tracing": {
                    "provider": {
                        "typed_config": {
                            "@type": f"{_TYPE}.config.trace.v3.OpenTelemetryConfig",
                            "grpc_service": {"envoy_grpc": {}},
                        }
                    }
                }
            },
            "tracing.provider.typed_config.grpc_service.envoy_grpc.cluster_name",
        ),
        (
            {"tracing": {"provider": {"typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"}}}},
            "tracing.provider.typed_config",
        ),
    ],
)
async def test_tracing_that_cannot_be_is_refused(manager: Json, path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        async with running(bootstrap([http_listener([route()], **manager)], [cluster("service", ("127.0.0.1", 1))])):
            pass
    assert refused.value.path.endswith(path)
