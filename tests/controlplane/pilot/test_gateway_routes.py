"""What a gateway makes of a request: by host and path, as the VirtualServices that are bound to it say."""

from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.message import Message

from pymesh.xds import types
from tests.controlplane.pilot.gateway_worlds import HTTP, TO, edge, gateway, virtual

PAGE = "outbound|9080||productpage.default.svc.cluster.local"


def table(*manifests: str, name: str = "http.8080") -> RouteConfiguration:
    message: Message = edge(*manifests)[types.ROUTE][name]
    assert isinstance(message, RouteConfiguration)
    return message


def hosts(*manifests: str) -> dict[str, VirtualHost]:
    return {host.domains[0]: host for host in table(*manifests).virtual_hosts}


def test_a_host_leads_to_its_service() -> None:
    found = hosts(gateway(HTTP), virtual("[www.example.com]"))
    assert list(found) == ["www.example.com"]
    assert [route.route.cluster for route in found["www.example.com"].routes] == [PAGE]


def test_a_host_that_nobody_named_has_no_route() -> None:
    assert hosts(gateway(HTTP)) == {}


def test_the_port_that_clients_know_does_not_matter() -> None:
    assert table(gateway(HTTP), virtual("[www.example.com]")).ignore_port_in_host_matching


def test_virtual_services_of_one_host_are_joined_and_everything_else_comes_last() -> None:
    found = hosts(
        gateway(HTTP),
        virtual("[www.example.com]", name="a"),
        virtual("[www.example.com]", f"[{{match: [{{uri: {{prefix: /api}}}}], {TO}}}]", name="b"),
    )
    assert [route.match.prefix for route in found["www.example.com"].routes] == ["/api", "/"]


def test_the_order_within_one_virtual_service_is_its_authors() -> None:
    http = f"[{{name: all, {TO}}}, {{name: never, match: [{{uri: {{prefix: /api}}}}], {TO}}}]"
    found = hosts(gateway(HTTP), virtual("[www.example.com]", http))
    assert [route.name for route in found["www.example.com"].routes] == ["all", "never"]


def test_one_for_the_mesh_and_a_gateway_serves_both_and_clauses_tell_them_apart() -> None:
    http = (
        f"[{{name: inside, match: [{{gateways: [mesh]}}], {TO}}},"
        f" {{name: here, match: [{{gateways: [edge]}}], {TO}}},"
        f" {{name: elsewhere, match: [{{gateways: [other/edge]}}], {TO}}}]"
    )
    found = hosts(gateway(HTTP), virtual("[www.example.com]", http, "[mesh, edge]"))
    assert [route.name for route in found["www.example.com"].routes] == ["here"]


def test_a_clause_on_the_port_means_the_gateways() -> None:
    http = f"[{{name: plain, match: [{{port: 80}}], {TO}}}, {{name: tls, match: [{{port: 443}}], {TO}}}]"
    found = hosts(gateway(HTTP), virtual("[www.example.com]", http))
    assert [route.name for route in found["www.example.com"].routes] == ["plain"]


def test_a_server_that_redirects_does_so_for_all_that_it_is_asked() -> None:
    redirecting = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*'], tls: {httpsRedirect: true}}"
    found = hosts(gateway(redirecting), virtual("[www.example.com]"))
    assert [(route.match.prefix, route.redirect.https_redirect) for route in found["*"].routes] == [("/", True)]
    assert list(found) == ["*"]


def test_a_virtual_service_for_sidecars_is_none_of_the_gateways() -> None:
    assert hosts(gateway(HTTP), virtual("[productpage]", gateways="[mesh]")) == {}
    assert list(hosts(gateway(HTTP), virtual("[productpage]"))) == ["productpage.default.svc.cluster.local"]
