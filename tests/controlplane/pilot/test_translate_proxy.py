"""pymesh-proxy compiles what pilot makes, whole, and finds nothing missing that it asks for."""

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from pymesh.xds import types
from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot.model import Severity
from pymesh_controlplane.pilot.node import Node
from pymesh_proxy.config.secrets import compile_secret
from pymesh_proxy.config.snapshot import Configuration
from pymesh_proxy.upstream.registry import EndpointRegistry
from tests.controlplane.galley.certificates import AUTHORITY, WEB, tls_secret
from tests.controlplane.pilot.gateway_worlds import EVERY_SERVER, router
from tests.controlplane.pilot.reporting_worlds import REPORTED
from tests.controlplane.pilot.worlds import BOOKINFO, EGRESS, EVERYTHING, resources_for, service, sidecar, world_of
from tests.support.configuration import apply

NODES = {"productpage": sidecar(), "reviews": sidecar("10.244.0.11", "reviews-v1")}

INCOMPLETE = (
    BOOKINFO
    + "---"
    + EVERY_SERVER
    + "---"
    + service("two", "[{name: http, port: 80}, {name: tcp, port: 81}]", ip="10.96.0.77")
    + """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec: {host: reviews, subsets: [{name: v1}, {name: v2}, {name: v3}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: two, namespace: default}
spec:
  host: two
  trafficPolicy: {portLevelSettings: [{port: {number: 99}, loadBalancer: {simple: ROUND_ROBIN}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: incomplete, namespace: default}
spec:
  hosts: [reviews, gone]
  gateways: [mesh, edge, nowhere]
  http:
  - {match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews, subset: v9}}]}
  - {match: [{uri: {prefix: /b}}], route: [{destination: {host: ratings, subset: v1}}]}
  - {match: [{uri: {prefix: /c}}], route: [{destination: {host: ratings, port: {number: 99}}}]}
  - {match: [{uri: {prefix: /d}}], route: [{destination: {host: two}}]}
  - {match: [{uri: {prefix: /e}, gateways: [nowhere]}], route: [{destination: {host: gone}}]}
  - route:
    - {destination: {host: gone}, weight: 1}
    - {destination: {host: reviews, port: {number: 9080}, subset: v1}, weight: 9}
  tcp: [{route: [{destination: {host: gone, port: {number: 99}}}]}]
"""
)


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
        apply(configuration, kind, resources[kind])
    assert configuration.wanted_routes() == frozenset(resources[types.ROUTE])
    assert configuration.wanted_endpoints() == frozenset(resources[types.ENDPOINT])
    assert configuration.wanted_secrets() == {"default", "ROOTCA"}


def test_the_proxy_compiles_what_names_something_missing() -> None:
    """Whatever galley finds dangling may be in force: a request or connection that is led there fails, nothing else."""
    found = world_of(INCOMPLETE)
    said = check(found.resources.values(), found)
    assert all(problem.dangling for problem in said if problem.severity is Severity.ERROR)
    assert {problem.sentence for problem in said if problem.dangling} == {
        "DestinationRule default/reviews has no subset 'v9'; it has v1, v2, v3",
        "no DestinationRule defines subsets of ratings.default.svc.cluster.local: write one for this host",
        "ratings.default.svc.cluster.local has no port 99; it has 9080",
        "two.default.svc.cluster.local has no port 99; it has 80, 81",
        "two.default.svc.cluster.local has several ports (80, 81): say which",
        "there is no service gone.default.svc.cluster.local",
        "there is no Gateway nowhere; known: default/edge",
    }
    for node in (sidecar(), router(service_account="default")):
        resources = resources_for(node, found)
        configuration = Configuration(EndpointRegistry(), lambda: 0.5)
        for kind in (types.CLUSTER, types.ENDPOINT, types.LISTENER, types.ROUTE):
            apply(configuration, kind, resources[kind])
        assert configuration.wanted_routes() == frozenset(resources[types.ROUTE])


def test_the_proxy_compiles_all_of_a_gateway() -> None:
    text = BOOKINFO + EVERY_SERVER + tls_secret(WEB, roots=AUTHORITY.root)
    resources = resources_for(router(service_account="default"), world_of(text))
    configuration = Configuration(EndpointRegistry(), lambda: 0.5)
    for kind in (types.CLUSTER, types.ENDPOINT, types.LISTENER, types.ROUTE):
        apply(configuration, kind, resources[kind])
    assert configuration.wanted_routes() == frozenset(resources[types.ROUTE])
    assert configuration.wanted_secrets() == {"default", "ROOTCA", *resources[types.SECRET]}
    for secret in resources[types.SECRET].values():
        assert isinstance(secret, Secret)
        assert compile_secret(secret)
