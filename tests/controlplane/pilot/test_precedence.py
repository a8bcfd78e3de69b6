"""Nobody takes what belongs to another namespace, whatever the alphabet says, and the loser is told."""

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from pymesh.xds import types
from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot import precedence
from tests.controlplane.pilot.chains import chain_for, target
from tests.controlplane.pilot.worlds import resources_for, service, sidecar, world_of

SHOP = "shop.vic.svc.cluster.local"
YOUNG, OLD = "2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z"


def mine(name: str, ip: str, ports: str = "[{name: http, port: 80}]", namespace: str = "vic") -> str:
    return "---" + service(name, ports, ip).replace("namespace: default", f"namespace: {namespace}")


def written(kind: str, where: str, spec: str, created: str = "") -> str:
    namespace, _, name = where.partition("/")
    age = f", creationTimestamp: '{created}'" if created else ""
    return f"""
---
apiVersion: networking.istio.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}{age}}}
spec: {spec}
"""


def virtual(where: str, created: str = "", host: str = SHOP) -> str:
    spec = f"{{hosts: [{host}], http: [{{route: [{{destination: {{host: {SHOP}}}}}]}}]}}"
    return written("VirtualService", where, spec, created)


def warnings(text: str) -> list[str]:
    current = world_of(text)
    return [f"{item.resource} {item.path}: {item.sentence}" for item in check(current.resources.values(), current)]


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (virtual("vic/z", YOUNG), virtual("atk-a/a", OLD), "which is of the host's own namespace"),
        (virtual("vic/z"), virtual("pymesh-system/a"), "which is of the host's own namespace"),
        (virtual("pymesh-system/z", YOUNG), virtual("atk-a/a", OLD), "which is of the root namespace"),
        (virtual("other/z", OLD), virtual("atk-a/a", YOUNG), "which is older"),
        (virtual("other/z", OLD), virtual("atk-a/a"), "which is older"),
        (virtual("vic/z", OLD), virtual("vic/a", YOUNG), "which is older"),
        (virtual("atk-a/z"), virtual("other/a"), "which comes first by name"),
    ],
)
def test_who_routes_a_host(first: str, second: str, why: str) -> None:
    for text in (first + second, second + first):
        current = world_of(mine("shop", "10.96.0.50") + text)
        winner = world_of(first).virtual_services[0].key
        assert current.routing[SHOP].key == winner
        (told,) = warnings(mine("shop", "10.96.0.50") + text)
        assert f"{SHOP} is already routed by {winner}, {why}" in told
        assert not told.startswith(str(winner))


def test_a_host_belongs_to_its_namespace_even_before_its_service_is_there() -> None:
    assert world_of(virtual("vic/z") + virtual("atk-a/a")).routing[SHOP].key.namespace == "vic"


@pytest.mark.parametrize(
    ("host", "namespace"),
    [(SHOP, "vic"), ("*.vic.svc.cluster.local", "vic"), ("*.svc.cluster.local", ""), ("shop.example.com", "")],
)
def test_the_namespace_in_a_name(host: str, namespace: str) -> None:
    assert precedence.owner_by_name(host) == namespace


def test_a_host_of_service_entries_is_the_older_ones() -> None:
    spec = "{hosts: [api.example.com], ports: [{number: 80, name: http}]}"
    text = written("ServiceEntry", "vic/z", spec, OLD) + written("ServiceEntry", "atk-a/a", spec, YOUNG)
    assert world_of(text).services["api.example.com"].namespace == "vic"


# --- Addresses -----------------------------------------------------------------------------------------------------

TCP = "ports: [{number: 80, name: tcp, protocol: TCP}], resolution: STATIC, endpoints: [{address: 192.0.2.66}]"


def entry(address: str, ports: str = TCP, where: str = "atk-a/a") -> str:
    return written("ServiceEntry", where, f"{{hosts: [a.example.com], addresses: ['{address}'], {ports}}}", OLD)


def led(text: str, address: str = "10.96.0.50", port: int = 80) -> str:
    listener = resources_for(sidecar(namespace="vic"), world_of(text))[types.LISTENER]["virtualOutbound"]
    assert isinstance(listener, Listener)
    return target(chain_for(listener, port, address, alpn=("http/1.1",)))


@pytest.mark.parametrize("protocol", ["http", "tcp"])
@pytest.mark.parametrize(
    ("taker", "field"),
    [
        (entry("10.96.0.50"), "ServiceEntry atk-a/a spec.addresses[0]"),
        (entry("10.96.0.50/32"), "ServiceEntry atk-a/a spec.addresses[0]"),
        (
            mine("a", "10.96.0.66", "[{name: tcp, port: 80}]", "atk-a") + "  externalIPs: [10.96.0.50]\n",
            "Service atk-a/a spec.externalIPs[0]",
        ),
    ],
)
def test_a_cluster_ip_belongs_to_its_service(taker: str, field: str, protocol: str) -> None:
    alone = mine("shop", "10.96.0.50", f"[{{name: {protocol}, port: 80}}]")
    assert led(alone + taker) == led(alone) == ("http 80" if protocol == "http" else f"tcp outbound|80||{SHOP}")
    (told,) = warnings(alone + taker)
    assert told.startswith(f"{field}: 10.96.0.50")
    assert "is the ClusterIP of Service vic/shop" in told


def test_nor_has_a_service_ports_that_others_give_its_address() -> None:
    assert led(mine("shop", "10.96.0.50") + entry("10.96.0.50", TCP.replace("80", "81")), port=81).startswith(
        "tcp Pass"
    )


def test_a_range_takes_no_requests_away_and_has_effect_beside_more_specific_addresses() -> None:
    requests = mine("shop", "10.96.0.50")
    connections = mine("shop", "10.96.0.50", "[{name: tcp, port: 80}]")
    assert led(requests + entry("10.0.0.0/8")) == "http 80"
    (told,) = warnings(requests + entry("10.0.0.0/8"))
    assert "10.0.0.0/8 covers the ClusterIP of Service vic/shop, which has requests on port 80" in told
    assert led(connections + entry("10.0.0.0/8")) == f"tcp outbound|80||{SHOP}"
    assert led(connections + entry("10.0.0.0/8"), "10.1.2.3") == "tcp outbound|80||a.example.com"
    assert warnings(connections + entry("10.0.0.0/8")) == []


def test_a_route_of_connections_takes_no_cluster_ip() -> None:
    spec = "{hosts: [a], tcp: [{match: [{destinationSubnets: [10.96.0.50/32]}], route: [{destination: {host: a}}]}]}"
    taker = mine("a", "10.96.0.66", "[{name: tcp, port: 80}]", "atk-a") + written("VirtualService", "atk-a/a", spec)
    assert led(mine("shop", "10.96.0.50") + taker) == "http 80"


def test_an_address_that_is_nobodys_is_the_older_ones() -> None:
    older = entry("192.0.2.1", where="vic/z").replace("a.example.com", "z.example.com")
    younger = entry("192.0.2.1").replace(OLD, YOUNG)
    assert led(older + younger, "192.0.2.1") == "tcp outbound|80||z.example.com"


@pytest.mark.parametrize("name", ["10.96.0.50", "shop.vic"])
@pytest.mark.parametrize("kind", ["VirtualService", "ServiceEntry"])
def test_requests_that_name_a_service_reach_it(kind: str, name: str) -> None:
    http = "ports: [{number: 80, name: http}], addresses: [10.96.0.50]"
    spec = {
        "VirtualService": f"{{hosts: ['{name}'], http: [{{route: [{{destination: {{host: a}}}}]}}]}}",
        "ServiceEntry": f"{{hosts: ['{name}'], {http}}}",
    }[kind]
    text = mine("shop", "10.96.0.50") + mine("a", "10.96.0.66", namespace="atk-a")
    table = resources_for(sidecar(namespace="vic"), world_of(text + written(kind, "atk-a/a", spec)))[types.ROUTE]["80"]
    assert isinstance(table, RouteConfiguration)
    (found,) = (host.name for host in table.virtual_hosts if name in host.domains)
    assert found == f"{SHOP}:80"
