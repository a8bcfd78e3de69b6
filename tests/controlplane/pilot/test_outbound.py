"""Connections that leave a pod: which server names and addresses are told apart, and where routes send them."""

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy

from pymesh.resources.parse import parse
from pymesh.xds import types
from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.callers import ANYBODY
from pymesh_controlplane.pilot.connections import Share, tcp_ways, tls_ways
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.routes import targets
from tests.controlplane.pilot.chains import chain_for, target
from tests.controlplane.pilot.worlds import (
    BOOKINFO,
    EGRESS,
    EVERYTHING,
    REGISTRY_ONLY,
    resources_for,
    service,
    sidecar,
    world_of,
)

PRODUCTPAGE = sidecar()
REVIEWS = sidecar("10.244.0.11", "reviews-v1")
GATEWAY = "outbound|443||egressgateway.default.svc.cluster.local"
DB = "outbound|5432||db.default.svc.cluster.local"
DB2 = "outbound|5432||db2.default.svc.cluster.local"
PASSTHROUGH = "tcp PassthroughCluster"


def outbound(text: str = EGRESS, node: Node = PRODUCTPAGE) -> Listener:
    found = resources_for(node, world_of(text))[types.LISTENER]["virtualOutbound"]
    assert isinstance(found, Listener)
    return found


def to(port: int, name: str = "", address: str = "192.0.2.1", *, text: str = EGRESS, node: Node = PRODUCTPAGE) -> str:
    return target(chain_for(outbound(text, node), port, address, tls=bool(name), server_name=name))


def shares(port: int, name: str = "", address: str = "192.0.2.1") -> dict[str, int]:
    chain = chain_for(outbound(), port, address, tls=bool(name), server_name=name)
    proxy = TcpProxy.FromString(chain.filters[0].typed_config.value)
    return {cluster.name: cluster.weight for cluster in proxy.weighted_clusters.clusters}


def test_a_world_with_all_of_it_is_right() -> None:
    current = world_of(EGRESS)
    assert [str(item) for item in check(current.resources.values(), current) if "error" in str(item)] == []


def test_a_server_name_goes_where_its_route_says_and_others_to_their_hosts() -> None:
    assert to(443, "api.example.com") == "tcp outbound|443|api|egressgateway.default.svc.cluster.local"
    assert to(443, "other.example.org") == "tcp outbound|443||*.example.org"
    assert to(443, "other.example.net") == PASSTHROUGH


def test_a_route_may_ask_for_the_labels_and_the_namespace_of_the_caller() -> None:
    assert to(443, "one.example.org", node=REVIEWS) == f"tcp {GATEWAY}"
    assert to(443, "one.example.org") == "tcp outbound|443||*.example.org"
    assert shares(443, "a.two.example.org") == {GATEWAY: 9, "outbound|443||*.example.org": 1}
    elsewhere = sidecar("10.244.9.9", "x", namespace="other")
    assert to(443, "a.two.example.org", node=elsewhere) == "tcp outbound|443||*.example.org"


def test_a_service_of_the_mesh_is_told_by_address_and_within_it_by_server_name() -> None:
    assert to(8200, "vault.default.svc.cluster.local", "10.96.0.31") == f"tcp {DB}"
    assert to(8200, "vault", "10.96.0.31") == "tcp outbound|8200||vault.default.svc.cluster.local"
    assert to(8200, "vault.default.svc.cluster.local", "198.51.100.7") == PASSTHROUGH


def test_opaque_connections_are_split_by_address_and_weight() -> None:
    assert shares(5432, address="10.96.0.20") == {DB: 1, DB2: 3}
    assert to(5432, address="203.0.113.7") == f"tcp {DB2}"
    assert to(5432, address="203.0.113.200") == PASSTHROUGH


def test_where_requests_are_told_from_other_bytes_only_those_follow_a_tcp_route() -> None:
    listener = outbound()
    assert target(chain_for(listener, 9080, "10.96.0.21", alpn=("http/1.1",))) == "http 9080"
    assert target(chain_for(listener, 9080, "10.96.0.21")) == "tcp outbound-tcp|9080||cache.default.svc.cluster.local"


def test_a_host_with_routes_of_connections_only_keeps_the_default_for_requests() -> None:
    plain = resources_for(PRODUCTPAGE, world_of(EVERYTHING))[types.ROUTE]["80"]
    routed = resources_for(PRODUCTPAGE, world_of(EGRESS))[types.ROUTE]["80"]
    assert [host for host in routed.virtual_hosts if host.name == "api.example.com:80"] == [  # type: ignore[attr-defined]  # RouteConfiguration
        host for host in plain.virtual_hosts if host.name == "api.example.com:80"  # type: ignore[attr-defined]  # as above
    ]  # fmt: skip


def test_no_two_chains_have_the_same_match() -> None:
    text = EGRESS + "---" + service("db3", "[{name: tcp-sql, port: 5432}]", "10.96.0.20")
    for node in (PRODUCTPAGE, REVIEWS):
        matches = [chain.filter_chain_match.SerializeToString() for chain in outbound(text, node).filter_chains]
        assert len(matches) == len(set(matches))


def test_a_gateway_gets_what_is_written_for_it() -> None:
    current = world_of(EGRESS)
    api = next(item for item in current.virtual_services if item.key.name == "api")
    meant = targets(api, current)
    (way,) = tls_ways(api, 443, ANYBODY, meant, ("egress", "default/egress"))
    assert way.to == (Share("outbound|443||api.example.com"),)
    assert way.server_names == ("api.example.com",)
    assert list(tls_ways(api, 8443, ANYBODY, meant, ("egress",))) == []
    assert list(tcp_ways(api, 443, ANYBODY, meant)) == []


# --- What the mesh asks itself ---


@pytest.mark.parametrize(("namespace", "ours"), [("pymesh-system", True), ("default", False)])
def test_no_app_speaks_to_the_meshs_own_services_with_its_sidecars_certificate(namespace: str, ours: bool) -> None:
    """Else every program in a pod could report requests and take slots."""
    own = service("telemetry", "[{name: grpc-telemetry, port: 9091}]", "10.96.0.77")
    text = f"{BOOKINFO}---{own.replace('default', namespace)}"
    cluster = f"outbound|9091||telemetry.{namespace}.svc.cluster.local"
    assert to(9091, address="10.96.0.77", text=text) == (PASSTHROUGH if ours else f"tcp {cluster}")
    assert cluster in resources_for(PRODUCTPAGE, world_of(text))[types.CLUSTER]


# --- REGISTRY_ONLY ---


@pytest.mark.parametrize("port", [443, 9080, 4444, 5432])
def test_under_registry_only_unknown_connections_end_in_the_black_hole(port: int) -> None:
    assert to(port, address="198.51.100.1") == PASSTHROUGH
    assert to(port, address="198.51.100.1", text=EGRESS + REGISTRY_ONLY) == "tcp BlackHoleCluster"
    assert to(port, "unknown.example.net", text=EGRESS + REGISTRY_ONLY) == "tcp BlackHoleCluster"


def test_under_registry_only_what_is_known_is_as_it_was() -> None:
    for port, name, address in ((443, "api.example.com", "192.0.2.1"), (5432, "", "203.0.113.7")):
        assert to(port, name, address, text=EGRESS + REGISTRY_ONLY) == to(port, name, address)


def test_under_registry_only_a_request_for_an_unknown_host_gets_502() -> None:
    last = resources_for(PRODUCTPAGE, world_of(BOOKINFO + REGISTRY_ONLY))[types.ROUTE]["9080"].virtual_hosts[-1]  # type: ignore[attr-defined]  # RouteConfiguration
    (route,) = last.routes
    assert (last.name, list(last.domains), route.name) == ("block_all", ["*"], "block_all")
    assert route.direct_response.status == 502


# --- What is refused ---


def problems(spec: str, text: str = EVERYTHING) -> list[str]:
    head = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x, namespace: default}\n"
    parsed = parse(f"{text}{head}spec: {spec}\n", "world.yaml")
    if parsed.errors:
        return [f"{error.path}: {error.problem}" for error in parsed.errors]
    current = world.build(parsed.resources)
    found = [item for item in current.virtual_services if item.key.name == "x"]
    return [f"{item.severity.value} {item.path}: {item.sentence}" for item in check(found, current)]


API = "hosts: [api.example.com]"
ROUTE = "route: [{destination: {host: ratings, port: {number: 9080}}}]"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (f"{{{API}, tls: [{{{ROUTE}}}]}}", "spec.tls[0].match: 'match' is missing in spec.tls[0]"),
        (f"{{{API}, tls: [{{match: [{{port: 443}}], {ROUTE}}}]}}", "'sniHosts' is missing in spec.tls[0].match[0]"),
        (
            f"{{{API}, tls: [{{match: [{{sniHosts: [b.example.com]}}], {ROUTE}}}]}}",
            "error spec.tls[0].match[0].sniHosts[0]: b.example.com is none of spec.hosts",
        ),
        (
            f"{{{API}, tls: [{{match: [{{sniHosts: ['*']}}], {ROUTE}}}]}}",
            "error spec.tls[0].match[0].sniHosts[0]: '*' is every server name there is",
        ),
        (
            f"{{{API}, tls: [{{match: [{{sniHosts: [api.example.com]}}]}}]}}",
            "error spec.tls[0].route: there is no destination",
        ),
        (
            f"{{hosts: [db], tcp: [{{match: [{{destinationSubnets: [1.2.3]}}], {ROUTE}}}]}}",
            "error spec.tcp[0].match[0].destinationSubnets[0]: '1.2.3' is not a range of IPv4 addresses",
        ),
        (
            f"{{{API}, tls: [{{match: [{{sniHosts: [api.example.com], gateways: [gone]}}], {ROUTE}}}]}}",
            "error spec.tls[0].match[0].gateways[0]: there is no Gateway gone",
        ),
        (
            "{hosts: [db], tcp: [{route: [{destination: {host: gone}}]}]}",
            "error spec.tcp[0].route[0].destination.host: there is no service gone.default.svc.cluster.local",
        ),
        (
            "{hosts: [db], tcp: [{route: [{destination: {host: db}}, {destination: {host: db}}]}]}",
            "error spec.tcp[0].route: the weights add up to 0",
        ),
        (
            "{hosts: [db], tcp: [{route: [{destination: {host: ratings, subset: v9}}]}]}",
            "error spec.tcp[0].route[0].destination.subset: no DestinationRule defines subsets",
        ),
        (
            f"{{hosts: [db], tls: [{{match: [{{sniHosts: [db.default.svc.cluster.local]}}], {ROUTE}}}]}}",
            "warning spec.tls: no port of db.default.svc.cluster.local is declared TLS",
        ),
        (
            f"{{hosts: [db], gateways: [mesh, x], tcp: [{{match: [{{destinationSubnets: [10.0.0.0/8]}}], {ROUTE}}}]}}",
            "warning spec.tcp[0].match[0].destinationSubnets: at a gateway this says nothing",
        ),
        (f"{{hosts: [peerless], tcp: [{{{ROUTE}}}]}}", "no sidecar takes its connections"),
        (f"{{hosts: [productpage], tcp: [{{{ROUTE}}}]}}", "warning spec.tcp: no port of productpage.default"),
        (f"{{{API}}}", "error spec.http: there is no route: write at least one below spec.http, spec.tls or spec.tcp"),
    ],
)
def test_what_is_wrong_with_routes_of_connections_is_told(spec: str, sentence: str) -> None:
    assert sentence in "\n".join(problems(spec))
