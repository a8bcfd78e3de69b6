"""pilot's server against clients that are not ours: a real Envoy, over both variants of xDS, and grpcio's xds:///."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf import json_format

from pymesh.xds.types import CLUSTER, ENDPOINT, HTTP_CONNECTION_MANAGER, HTTP_ROUTER, LISTENER, ROUTE
from pymesh_controlplane.pilot import status
from pymesh_controlplane.pilot.session import PUSH_ORDER
from tests.controlplane.pilot.envoys import DELTA, backend, envoy, free_port, get
from tests.controlplane.pilot.serving import NODE_ID, Pilot, mesh, serving
from tests.controlplane.pilot.worlds import Messages
from tests.support.waiting import eventually

FOUR = PUSH_ORDER[:-1]  # what every proxy asks for


def all_synced(pilot: Pilot) -> bool:
    """Whether the one proxy has taken everything of all four types."""
    (connection,) = pilot.server.connections.values() or (None,)
    return (
        connection is not None
        and connection.session.subscriptions.keys() == set(FOUR)
        and all(map(connection.session.synced, FOUR))
    )


def told(pilot: Pilot) -> Mapping[str, Mapping[str, object]]:
    """The one proxy's types, as /debug/syncz tells them."""

    def time_of(seconds: float) -> datetime:
        return datetime.fromtimestamp(time.time() - time.monotonic() + seconds, UTC)

    (proxy,) = json.loads(json.dumps(status.syncz(pilot.server.connections.values(), time_of)))
    types: Mapping[str, Mapping[str, object]] = proxy["types"]
    return types


@pytest.mark.envoy
@DELTA
async def test_a_real_envoy_takes_everything_and_routes_by_it(tmp_path: Path, api: str) -> None:
    """Listener, route, cluster and endpoints come from pilot, without one NACK; a request gets through."""
    front = await free_port()
    async with serving() as pilot, backend("first") as one, backend("second") as two:
        pilot.feed.put(mesh(front, backend=one))
        async with envoy(tmp_path, pilot.port, api):
            await eventually(lambda: all_synced(pilot), what="Envoy to take everything", timeout=30)
            assert [proxy.node.user_agent for proxy in pilot.server.connections.values()] == ["envoy"]
            assert await eventually(lambda: get(front), what="the listener") == "first"
            # The route moves to a new cluster, the old one goes: no request may fail meanwhile.
            pilot.feed.put(mesh(front, backend=two, cluster="outbound|9080||ratings"))
            answers = []
            while not answers or answers[-1] != "second":
                answers.append(await get(front))
                assert answers[-1] in {"first", "second"}
            await eventually(lambda: all_synced(pilot))
            # The cluster changes, its endpoints do not: Envoy builds it anew and must get them again.
            pilot.feed.put(mesh(front, backend=two, cluster="outbound|9080||ratings", timeout=2))
            await eventually(lambda: all_synced(pilot) and pilot.metrics.counted("pilot_xds_pushes", "cds") >= 3)
            for _ in range(20):
                assert await get(front) == "second"
    assert pilot.metrics.counted("pilot_total_xds_rejects") == 0
    assert pilot.metrics.counted("pilot_xds_refused") == 0


@pytest.mark.envoy
@DELTA
async def test_what_envoy_refuses_is_seen_and_a_mended_config_is_taken(tmp_path: Path, api: str) -> None:
    """The NACK, with Envoy's own words, is in the status; the old listener serves on."""
    front = await free_port()
    async with serving() as pilot, backend("first") as one, backend("second") as two:
        good = mesh(front, backend=one)
        pilot.feed.put(good)
        async with envoy(tmp_path, pilot.port, api):
            await eventually(lambda: all_synced(pilot), what="Envoy to take everything", timeout=30)
            pilot.feed.put(with_broken_listener(good))
            await eventually(lambda: told(pilot)["lds"]["status"] == "NACKED", what="the NACK")
            lds = told(pilot)["lds"]
            assert "no.such.filter" in str(lds["error"])
            assert lds["last_nack"] is not None
            assert lds["version"] != lds["acked_version"]
            assert told(pilot)["cds"]["status"] == "SYNCED"
            assert pilot.metrics.counted("pilot_xds_rejects", "lds") == 1
            assert await get(front) == "first"
            pilot.feed.put(mesh(front, backend=two))
            await eventually(lambda: all_synced(pilot), what="the mended configuration")
            assert await eventually(lambda: get(front)) == "second"
    assert pilot.metrics.counted("pilot_total_xds_rejects") == 1


def with_broken_listener(resources: Messages) -> Messages:
    """The same mesh, whose listener has a filter that no Envoy knows."""
    listener = Listener()
    listener.CopyFrom(resources[LISTENER]["front"])
    listener.filter_chains[0].filters[0].name = "no.such.filter"
    listener.filter_chains[0].filters[0].typed_config.type_url = "type.googleapis.com/no.such.Type"
    return {**resources, LISTENER: {"front": listener}}


GRPC_CLIENT = """
import grpc, sys
with grpc.insecure_channel("xds:///reviews:9080") as channel:
    call = channel.unary_unary("/test.Echo/Say")
    print(call(b"hello", timeout=20, wait_for_ready=True).decode())
"""


def for_grpc(port: int) -> Messages:
    """What grpc's own xDS client asks for: an API listener, a route, a cluster and its endpoints."""
    ads = {"ads": {}, "resource_api_version": "V3"}
    cluster = "outbound|9080||reviews"
    route = {"match": {"prefix": ""}, "route": {"cluster": cluster}}
    manager = {
        "@type": HTTP_CONNECTION_MANAGER,
        "rds": {"route_config_name": "9080", "config_source": ads},
        "http_filters": [{"name": "router", "typed_config": {"@type": HTTP_ROUTER}}],
    }
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    locality = {
        "locality": {"zone": "here"},
        "load_balancing_weight": 1,
        "lb_endpoints": [{**endpoint, "health_status": "HEALTHY"}],
    }
    base = mesh(port, backend=port)
    routes = base[ROUTE]["9080"]
    routes_dict = json_format.MessageToDict(routes, preserving_proto_field_name=True)
    routes_dict["virtual_hosts"][0]["routes"] = [route]
    return {
        CLUSTER: {
            cluster: json_format.ParseDict(
                {"name": cluster, "type": "EDS", "eds_cluster_config": {"eds_config": ads}}, Cluster()
            )
        },
        ENDPOINT: {
            cluster: json_format.ParseDict({"cluster_name": cluster, "endpoints": [locality]}, ClusterLoadAssignment())
        },
        LISTENER: {
            "reviews:9080": json_format.ParseDict(
                {"name": "reviews:9080", "api_listener": {"api_listener": manager}}, Listener()
            )
        },
        ROUTE: {"9080": json_format.ParseDict(routes_dict, type(routes)())},
    }


async def test_a_grpc_client_finds_its_service_by_xds(tmp_path: Path) -> None:
    """grpcio's C-core, with xds:///: it names what it wants, state of the world."""
    import grpc
    import grpc.aio

    async def echo(request: bytes, _: object) -> bytes:
        return b"echo " + request

    service = grpc.aio.server()
    service.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Echo", {"Say": grpc.unary_unary_rpc_method_handler(echo)}),)
    )
    port = service.add_insecure_port("127.0.0.1:0")
    await service.start()
    async with serving() as pilot:
        pilot.feed.put(for_grpc(port))
        xds = {
            "xds_servers": [
                {
                    "server_uri": f"127.0.0.1:{pilot.port}",
                    "channel_creds": [{"type": "insecure"}],
                    "server_features": ["xds_v3"],
                }
            ],
            "node": {"id": NODE_ID, "metadata": {"NAMESPACE": "default"}},
        }
        (tmp_path / "xds.json").write_text(json.dumps(xds))
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            GRPC_CLIENT,
            env={**os.environ, "GRPC_XDS_BOOTSTRAP": str(tmp_path / "xds.json")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await client.communicate()
        assert out == b"echo hello\n", err.decode()
        assert pilot.metrics.counted("pilot_total_xds_rejects") == 0
        assert {kind for kind in ("cds", "eds", "lds", "rds") if pilot.metrics.counted("pilot_xds_pushes", kind)} == {
            "cds",
            "eds",
            "lds",
            "rds",
        }
    await service.stop(0)
