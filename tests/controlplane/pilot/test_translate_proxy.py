"""pymesh-proxy compiles what pilot makes, whole, and finds nothing missing that it asks for."""

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from pymesh.xds import types
from pymesh_controlplane.pilot.node import Node
from pymesh_proxy.config.secrets import compile_secret
from pymesh_proxy.config.snapshot import Configuration
from pymesh_proxy.upstream.registry import EndpointRegistry
from tests.controlplane.galley.certificates import AUTHORITY, WEB, tls_secret
from tests.controlplane.pilot.gateway_worlds import EVERY_SERVER, router
from tests.controlplane.pilot.test_reporting import REPORTED
from tests.controlplane.pilot.worlds import BOOKINFO, EGRESS, EVERYTHING, resources_for, sidecar, world_of

NODES = {"productpage": sidecar(), "reviews": sidecar("10.244.0.11", "reviews-v1")}


@pytest.mark.parametrize(
    "text",
    [BOOKINFO, EVERYTHING, EGRESS, BOOKINFO + REPORTED, ""],
    ids=["bookinfo", "everything", "egress", "reported", "empty"],
)
@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
def test_the_proxy_compiles_all_of_it(text: str, node: Node) -> None:
    resources = resources_for(node, world_of(text))
    configuration = Configuration(EndpointRegistry(), lambda: 0.5)
    for kind in (types.CLUSTER, types.ENDPOINT, types.LISTENER, types.ROUTE):
        configuration.apply(kind, resources[kind])
    assert configuration.wanted_routes() == frozenset(resources[types.ROUTE])
    assert configuration.wanted_endpoints() == frozenset(resources[types.ENDPOINT])
    assert configuration.wanted_secrets() == {"default", "ROOTCA"}


def test_the_proxy_compiles_all_of_a_gateway() -> None:
    text = BOOKINFO + EVERY_SERVER + tls_secret(WEB, roots=AUTHORITY.root)
    resources = resources_for(router(service_account="default"), world_of(text))
    configuration = Configuration(EndpointRegistry(), lambda: 0.5)
    for kind in (types.CLUSTER, types.ENDPOINT, types.LISTENER, types.ROUTE):
        configuration.apply(kind, resources[kind])
    assert configuration.wanted_routes() == frozenset(resources[types.ROUTE])
    assert configuration.wanted_secrets() == {"default", "ROOTCA", *resources[types.SECRET]}
    for secret in resources[types.SECRET].values():
        assert isinstance(secret, Secret)
        assert compile_secret(secret)
