"""What sidecars are told to ask: ours, and real Envoys."""

from collections.abc import Iterator

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz, ExtAuthzPerRoute
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf import json_format
from xds.type.v3.typed_struct_pb2 import TypedStruct

from pymesh import names, policy_api
from pymesh.xds import types
from pymesh.xds.check import check
from tests.controlplane.pilot.worlds import BOOKINFO, resources_for, sidecar, world_of

POLICY = "outbound|9091||policy.pymesh-system.svc.cluster.local"
SERVICE = """
---
apiVersion: v1
kind: Service
metadata: {name: policy, namespace: pymesh-system}
spec: {clusterIP: 10.96.9.9, selector: {app: policy}, ports: [{name: grpc-policy, port: 9091}, {name: http, port: 80}]}
"""
LIMITS = """
---
apiVersion: policy.pymesh.io/v1alpha1
kind: ConcurrencyLimit
metadata: {name: all, namespace: default}
spec: {targetRefs: [{name: reviews}], max: 100}
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: free, namespace: default}
spec: {targetRefs: [{name: reviews}], requests: 10, per: Minute, by: [request.path], otherwise: Open}
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: strict, namespace: default}
spec: {targetRefs: [{name: reviews}], requests: 10, per: Minute, failureMode: Closed}
"""
CHECK = """
---
apiVersion: policy.pymesh.io/v1alpha1
kind: Check
metadata: {name: ticket, namespace: default}
spec: {targetRefs: [{name: reviews}], function: with_ticket, timeout: 80ms}
"""


def managers(text: str, **node: object) -> Iterator[HttpConnectionManager]:
    """The HTTP connection managers of the inbound listener of a sidecar."""
    listener = resources_for(sidecar(**node), world_of(text))[types.LISTENER]["virtualInbound"]
    assert isinstance(listener, Listener)
    if "user_agent" not in node:
        check(listener)
    for chain in (*listener.filter_chains, listener.default_filter_chain):
        box = chain.filters[0].typed_config
        if box.type_url == types.HTTP_CONNECTION_MANAGER:
            yield HttpConnectionManager.FromString(box.value)


def on_port(text: str, port: int, **node: object) -> HttpConnectionManager:
    return next(one for one in managers(text, **node) if one.stat_prefix == f"inbound_0.0.0.0_{port}")


REVIEWS = {"pod": "reviews-v1", "ip": "10.244.0.11"}


def test_where_nothing_is_limited_nothing_is_asked() -> None:
    """Nor at the sidecar of another service, nor on the ports that nobody declared."""
    for manager in managers(BOOKINFO + SERVICE, **REVIEWS):
        assert [one.name for one in manager.http_filters] == ["envoy.filters.http.router"]
    for manager in managers(BOOKINFO + SERVICE + LIMITS, pod="productpage-1", ip="10.244.0.10"):
        assert len(manager.http_filters) == 1
    for manager in managers(BOOKINFO + SERVICE + LIMITS, **REVIEWS):
        limited = manager.stat_prefix == "inbound_0.0.0.0_9080"
        assert [one.name for one in manager.http_filters][:-1] == ["pymesh.filters.http.policy"] * limited


def test_our_sidecar_is_told_all_of_the_rules() -> None:
    """Before the router, in one filter."""
    asking, router = on_port(BOOKINFO + SERVICE + LIMITS, 9080, **REVIEWS).http_filters
    assert router.name == "envoy.filters.http.router"
    config = TypedStruct.FromString(asking.typed_config.value)
    assert config.type_url == "type.googleapis.com/pymesh.policy.v1alpha1.Policy"
    assert json_format.MessageToDict(config.value) == {
        "cluster": POLICY,
        "timeout": "0.05s",
        "rules": [
            {
                "name": "ConcurrencyLimit default/all",
                "kind": "slots",
                "max": 100.0,
                "failure_mode": "LAST_DECISION",
                "otherwise": "CLOSED",
            },
            {
                "name": "RateLimit default/free",
                "kind": "check",
                "by": ["request.path"],
                "failure_mode": "LAST_DECISION",
                "otherwise": "OPEN",
            },
            {
                "name": "RateLimit default/strict",
                "kind": "rate",
                "requests": 10.0,
                "period": "60s",
                "burst": 10.0,
                "failure_mode": "CLOSED",
                "otherwise": "CLOSED",
            },
        ],
    }


def test_another_proxy_asks_as_envoy_does() -> None:
    """Once for the rules that let in what cannot be asked about, once for those that do not; slots it cannot hold."""
    manager = on_port(BOOKINFO + SERVICE + LIMITS, 9080, **REVIEWS, user_agent="envoy")
    *asking, router = manager.http_filters
    assert router.name == "envoy.filters.http.router"
    found = {}
    for one in asking:
        config = ExtAuthz.FromString(one.typed_config.value)
        assert config.grpc_service.envoy_grpc.cluster_name == POLICY
        assert config.grpc_service.timeout.ToMilliseconds() == 50
        assert config.status_on_error.code == 503
        (host,) = manager.route_config.virtual_hosts
        route = ExtAuthzPerRoute.FromString(host.typed_per_filter_config[one.name].value)
        found[config.failure_mode_allow] = dict(route.check_settings.context_extensions)
    assert found == {
        True: {"pymesh.rules": "RateLimit default/free"},
        False: {"pymesh.rules": "RateLimit default/strict"},
    }


def test_the_policy_service_is_spoken_to_in_http2_and_by_its_identity() -> None:
    """Its pages are not. Anyone's own gRPC service is, but it is the mesh's TLS that sidecars speak to each other."""
    own = SERVICE.replace("pymesh-system", "default")
    clusters = resources_for(sidecar(), world_of(BOOKINFO + SERVICE + own))[types.CLUSTER]
    cluster = clusters[POLICY]
    assert isinstance(cluster, Cluster)
    (options,) = cluster.typed_extension_protocol_options.values()
    assert HttpProtocolOptions.FromString(options.value).explicit_http_config.HasField("http2_protocol_options")
    mesh = UpstreamTlsContext.FromString(cluster.transport_socket_matches[0].transport_socket.typed_config.value)
    assert list(mesh.common_tls_context.alpn_protocols) == ["h2"]
    assert not clusters[POLICY.replace("9091", "80")].typed_extension_protocol_options
    theirs = clusters[POLICY.replace("pymesh-system", "default")]
    assert isinstance(theirs, Cluster)
    assert theirs.typed_extension_protocol_options == cluster.typed_extension_protocol_options
    mesh = UpstreamTlsContext.FromString(theirs.transport_socket_matches[0].transport_socket.typed_config.value)
    assert list(mesh.common_tls_context.alpn_protocols) == list(names.ALPN_MESH_TCP)


@pytest.mark.parametrize("user_agent", ["", "envoy"])
def test_a_function_has_its_own_time_on_top(user_agent: str) -> None:
    """An answer that comes just in time for the service must not be late for who has asked it."""
    more = {"user_agent": user_agent} if user_agent else {}
    manager = on_port(BOOKINFO + SERVICE + LIMITS + CHECK, 9080, **REVIEWS, **more)
    configs = {one.name: one.typed_config for one in manager.http_filters}
    if user_agent:
        config = ExtAuthz.FromString(configs["envoy.filters.http.ext_authz"].value)
        assert config.grpc_service.timeout.ToMilliseconds() == 130
        others = ExtAuthz.FromString(configs["envoy.filters.http.ext_authz.open"].value)
        assert others.grpc_service.timeout.ToMilliseconds() == 50, "of which none is a function"
    else:
        told = TypedStruct()
        assert configs[policy_api.FILTER].Unpack(told)
        assert told.value["timeout"] == "0.13s"
