"""A real Envoy under pilot reports to the collector and sends spans, though it has both clusters from pilot only."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf import json_format

from pymesh.xds import types
from pymesh_controlplane.pilot.reporting import Reporting, Tracing, put_into
from tests.controlplane.pilot.serving import NODE_ID, mesh, serving
from tests.support.als_server import als_server
from tests.support.echo import EchoServer
from tests.support.envoy import envoy_process
from tests.support.otlp_server import otlp_server
from tests.support.peers import client
from tests.support.proxy_process import free_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.envoy

HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": types.HTTP_PROTOCOL_OPTIONS,
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def cluster(name: str, port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": HTTP2,
    }


def bootstrap(pilot: int) -> Mapping[str, Any]:
    ads = {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "pilot"}}],
    }
    source = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": NODE_ID, "cluster": "reviews-v1.default"},
        "dynamic_resources": {"ads_config": ads, "lds_config": source, "cds_config": source},
        "static_resources": {"clusters": [cluster("pilot", pilot)]},
    }


async def test_an_envoy_reports_and_traces(tmp_path: Path) -> None:
    port = free_port()
    with als_server() as collector, otlp_server() as spans, EchoServer("a") as upstream:
        resources = {kind: dict(found) for kind, found in mesh(port, backend=upstream.port).items()}
        for name, to in (("outbound|9091||telemetry", collector.port), ("outbound|4317||otel", spans.port)):
            resources[types.CLUSTER][name] = json_format.ParseDict(cluster(name, to), Cluster())
        listener = resources[types.LISTENER]["front"]
        assert isinstance(listener, Listener)
        put_into(
            listener,
            Reporting("outbound|9091||telemetry", tracing=Tracing("outbound|4317||otel", 100.0, "reviews-v1.default")),
        )
        async with serving() as pilot, envoy_process(json.dumps(bootstrap(pilot.port)), tmp_path):
            pilot.feed.put(resources)

            async def answered() -> bool:
                async with client(("127.0.0.1", port)) as peer:
                    peer.send(b"GET /a HTTP/1.1\r\nhost: reviews:9080\r\nconnection: close\r\n\r\n")
                    return b"200 OK" in await peer.rest()

            await eventually(answered, timeout=20.0)
            entry = (await eventually(lambda: collector.http, timeout=20.0))[-1]
            span = (await eventually(lambda: spans.spans, timeout=20.0))[-1]
        assert collector.messages[0].identifier.node.id == NODE_ID
        assert (entry.request.path, entry.response.response_code.value) == ("/a", 200)
        assert span.name
        [resource] = spans.requests[0].resource_spans
        names = {item.key: item.value.string_value for item in resource.resource.attributes}
        assert names["service.name"] == "reviews-v1.default"
