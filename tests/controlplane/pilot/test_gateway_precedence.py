"""Nobody takes a host of a gateway from the namespace that has it, and who comes later is told."""

import pytest

from pymesh.xds import types
from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot.gateways import offers
from tests.controlplane.pilot.gateway_worlds import EDGE, edge, gateway, router, virtual
from tests.controlplane.pilot.worlds import BOOKINFO, world_of

YOUNG, OLD = "2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z"
WWW = "[www.example.com]"


def server(protocol: str = "HTTP", hosts: str = WWW, number: int = 80, more: str = "") -> str:
    tls = ", tls: {mode: SIMPLE, credentialName: web}" if protocol == "HTTPS" else more
    return f"{{port: {{number: {number}, name: x, protocol: {protocol}}}, hosts: {hosts}{tls}}}"


def aged(manifest: str, created: str) -> str:
    return manifest.replace("metadata: {", f"metadata: {{creationTimestamp: '{created}', ")


def front(namespace: str, path: str = "/", created: str = YOUNG, gateways: str = "[edge]", hosts: str = WWW) -> str:
    """A VirtualService that redirects, so that its routes say whose they are."""
    http = f"[{{name: {namespace}, match: [{{uri: {{prefix: {path}}}}}], redirect: {{uri: /{namespace}}}}}]"
    return aged(virtual(hosts, http, gateways, namespace=namespace), created)


def routes(*manifests: str) -> list[str]:
    (host,) = edge(*manifests)[types.ROUTE]["http.8080"].virtual_hosts  # type: ignore[attr-defined]  # RouteConfiguration
    return [f"{route.name} {route.match.prefix}" for route in host.routes]


def told(*manifests: str) -> list[str]:
    world = world_of(BOOKINFO + EDGE + "".join(manifests))
    return [f"{item.resource} {item.path}: {item.sentence}" for item in check(world.resources.values(), world)]


VICTIM = aged(gateway(server(), namespace="vic"), OLD), front("vic")


@pytest.mark.parametrize("path", ["/", "/login"])
@pytest.mark.parametrize("hosts", [WWW, "['*']"])
def test_a_younger_gateway_of_another_namespace_takes_no_host(path: str, hosts: str) -> None:
    attack = aged(gateway(server(hosts=hosts), namespace="atk-a"), YOUNG), front("atk-a", path, OLD)
    assert routes(*VICTIM, *attack) == ["vic /"]
    (found,) = told(*VICTIM, *attack)
    assert found == (
        "VirtualService atk-a/front spec.hosts: host www.example.com of port 80 is served by Gateway vic/edge, "
        "which is older: this one has no effect at Gateway atk-a/edge"
    )


def test_nor_by_a_redirect() -> None:
    more = ", tls: {httpsRedirect: true}"
    attack = aged(gateway(server(more=more), namespace="atk-a"), YOUNG)
    assert routes(*VICTIM, attack) == ["vic /"]
    (found,) = told(*VICTIM, attack)
    assert found.startswith("Gateway atk-a/edge spec.servers: host www.example.com of port 80 is served by Gateway vic")


def test_a_gateway_of_the_root_namespace_comes_before_older_ones() -> None:
    root = aged(gateway(server(), namespace="pymesh-system"), YOUNG), front("pymesh-system")
    assert routes(*VICTIM, *root) == ["pymesh-system /"]


def test_at_a_shared_gateway_another_namespace_gets_what_is_left_over() -> None:
    shared = aged(gateway(server(), namespace="infra"), OLD)
    at = "[infra/edge]"
    everything = front("vic", "/", OLD, at)
    assert routes(shared, everything, front("atk-a", "/login", YOUNG, at)) == ["vic /"]
    (found,) = told(shared, everything, front("atk-a", "/login", YOUNG, at))
    assert "is served by VirtualService vic/front, which is older" in found
    some = front("vic", "/api", OLD, at)
    assert routes(shared, some, front("atk-a", "/login", YOUNG, at)) == ["vic /api", "atk-a /login"]
    assert told(shared, some, front("atk-a", "/login", YOUNG, at)) == []


def test_a_host_of_the_cluster_is_its_namespaces_at_the_gateway_too() -> None:
    hosts = "[productpage.default.svc.cluster.local]"
    older = aged(gateway(server(hosts=hosts), namespace="atk-a"), OLD), front("atk-a", hosts=hosts)
    own = aged(gateway(server(hosts=hosts)), YOUNG), front("default", hosts=hosts)
    assert routes(*older, *own) == ["default /"]


@pytest.mark.parametrize("attack", [server("HTTP", "['*']", 443), server("HTTPS", WWW, 443)])
def test_a_younger_gateway_takes_no_port_and_no_server_name(attack: str) -> None:
    victim = aged(gateway(server("HTTPS", WWW, 443), namespace="vic"), OLD)
    world = world_of(EDGE + victim + aged(gateway(attack, namespace="atk-a"), YOUNG))
    found = offers(router(), world)
    assert [str(offer.gateway.key) for offer in found.by_port[8443]] == ["Gateway vic/edge"]
    (conflict,) = found.conflicts
    assert conflict.gateway.namespace == "atk-a"
    assert conflict.sentence.startswith("Gateway vic/edge, which is older, ")
