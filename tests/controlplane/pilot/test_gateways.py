"""Which servers a gateway's pod serves on which port, and for whom."""

import pytest

from pymesh_controlplane.pilot.gateways import Conflict, common_hosts, covers, narrower, offers
from tests.controlplane.pilot.gateway_worlds import EDGE, HTTP, gateway, router, virtual
from tests.controlplane.pilot.worlds import world_of


def tls(hosts: str, number: int = 443, name: str = "https") -> str:
    return (
        f"{{port: {{number: {number}, name: {name}, protocol: HTTPS}}, hosts: {hosts}, "
        "tls: {mode: SIMPLE, credentialName: web}}"
    )


def served(*manifests: str) -> dict[int, list[tuple[str, tuple[str, ...]]]]:
    found = offers(router(), world_of(EDGE + "".join(manifests)))
    return {port: [(str(one.gateway.key), one.names) for one in some] for port, some in found.by_port.items()}


def conflicts(*manifests: str) -> list[Conflict]:
    return list(offers(router(), world_of(EDGE + "".join(manifests))).conflicts)


def test_a_server_names_the_services_port_and_is_served_on_its_target() -> None:
    assert served(gateway(HTTP)) == {8080: [("Gateway default/edge", ("*",))]}


def test_a_port_that_no_service_has_is_taken_as_it_is() -> None:
    server = "{port: {number: 9000, name: http, protocol: HTTP}, hosts: ['*']}"
    assert list(served(gateway(server))) == [9000]


def test_a_gateway_for_other_pods_is_not_ours() -> None:
    assert served(gateway(HTTP, selector="egressgateway")) == {}


def test_two_gateways_may_share_plain_http() -> None:
    assert len(served(gateway(HTTP), gateway(HTTP, name="second"))[8080]) == 2


def test_of_tls_and_plain_http_on_one_port_the_first_gateway_has_it() -> None:
    both = gateway(HTTP), gateway(tls("['a.example.com']", 80), name="second")
    assert served(*both) == {8080: [("Gateway default/edge", ("*",))]}
    assert conflicts(*both)[0].path == "spec.servers[0].port.protocol"


def test_a_server_name_belongs_to_the_first_gateway_and_the_rest_is_served() -> None:
    both = gateway(tls("['a.example.com']")), gateway(tls("['b.example.com', 'x/a.example.com']"), name="second")
    assert [names for _, names in served(*both)[8443]] == [("a.example.com",), ("b.example.com",)]
    (conflict,) = conflicts(*both)
    assert (conflict.gateway.name, conflict.path) == ("second", "spec.servers[0].hosts[1]")


@pytest.mark.parametrize("number", [15001, 15021])
def test_the_proxys_own_ports_are_not_given_away(number: int) -> None:
    server = f"{{port: {{number: {number}, name: http, protocol: HTTP}}, hosts: ['*']}}"
    assert served(gateway(server)) == {}
    assert conflicts(gateway(server))[0].path == "spec.servers[0].port.number"


@pytest.mark.parametrize(
    ("server", "own", "namespace", "expected"),
    [
        ("*", "a.example.com", "default", ["a.example.com"]),
        ("*.example.com", "a.example.com", "default", ["a.example.com"]),
        ("*.example.com", "example.com", "default", []),
        ("a.example.com", "*.example.com", "default", ["a.example.com"]),
        ("a.example.com", "*", "default", ["a.example.com"]),
        ("a.example.com", "b.example.com", "default", []),
        ("web/*", "a.example.com", "default", []),
        ("web/*", "a.example.com", "web", ["a.example.com"]),
        ("./*", "a.example.com", "default", ["a.example.com"]),
        ("./*", "a.example.com", "web", []),
        ("*/A.Example.com", "a.example.COM", "web", ["a.example.com"]),
    ],
)
def test_a_virtual_service_gets_what_lies_in_its_hosts_and_the_servers(
    server: str, own: str, namespace: str, expected: list[str]
) -> None:
    port = "{number: 80, name: http, protocol: HTTP}"
    world = world_of(
        EDGE
        + gateway(f"{{port: {port}, hosts: ['{server}']}}")
        + virtual(f"['{own}']", gateways="[default/edge]", namespace=namespace)
    )
    (offer,) = offers(router(), world).by_port[8080]
    assert common_hosts(offer, world.virtual_services[0], world) == expected


def test_wildcards_over_wildcards() -> None:
    assert covers("*.example.com", "*.a.example.com")
    assert not covers("*.a.example.com", "*.example.com")
    assert narrower("*.example.com", "*.a.example.com") == "*.a.example.com"
    assert narrower("*.example.com", "*.example.org") is None
