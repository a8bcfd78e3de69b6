"""Connections through a gateway: PASSTHROUGH by server name, opaque bytes by tcp routes."""

from pymesh.resources.istio import VirtualService
from pymesh.resources.resource import Resource
from pymesh_controlplane.pilot import gateways
from pymesh_controlplane.pilot.connections import Share
from pymesh_controlplane.pilot.gateway_connections import opaque_way, passthrough_chain, passthrough_ways
from pymesh_controlplane.pilot.gateways import Offer
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.routes import Caller
from tests.controlplane.pilot.worlds import EGRESS, world_of

CALLER = Caller("default")

MORE = """
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: tunnel, namespace: default}
spec:
  selector: {app: egressgateway}
  servers:
  - {port: {number: 9443, name: tls, protocol: TLS}, hosts: [db.example.net], tls: {mode: ISTIO_MUTUAL}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a-tunnel, namespace: default}
spec:
  hosts: [db.example.net]
  gateways: [tunnel]
  tcp:
  - match: [{port: 1}]
    route: [{destination: {host: cache, port: {number: 6379}}}]
  - route: [{destination: {host: db}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b-late, namespace: default}
spec:
  hosts: [api.example.com, "*.example.org", elsewhere.example.net]
  gateways: [default/egress]
  tls:
  - match: [{sniHosts: [api.example.com, one.example.org, elsewhere.example.net]}]
    route: [{destination: {host: db}}]
"""


def offered(text: str) -> tuple[World, dict[str, Offer], dict[str, list[Resource[VirtualService]]]]:
    """The world, and by gateway what it offers and what is bound to it."""
    current = world_of(text)
    node = Node("", gateways.ROUTER, ("10.244.0.30",), "egressgateway-1", "default", labels={"app": "egressgateway"})
    found = [offer for offers in gateways.offers(node, current).by_port.values() for offer in offers]
    bound = {key.name: written for key, written in gateways.bound(current).items()}
    return current, {offer.gateway.key.name: offer for offer in found}, bound


def test_a_server_name_goes_where_the_first_route_for_it_says() -> None:
    current, offers, bound = offered(EGRESS + MORE)
    first, second = passthrough_ways(offers["egress"], bound["egress"], CALLER, current)
    assert (first.server_names, first.to) == (("api.example.com",), (Share("outbound|443||api.example.com"),))
    # api.example.com is taken, and elsewhere.example.net is no host of the server
    assert second.server_names == ("one.example.org",)
    chain = passthrough_chain(8443, 1, second)
    assert list(chain.filter_chain_match.server_names) == ["one.example.org"]
    assert chain.filter_chain_match.transport_protocol == "tls"


def test_what_a_gateway_is_left_with_after_tls_follows_a_tcp_route() -> None:
    current, offers, bound = offered(EGRESS + MORE)
    way = opaque_way(offers["tunnel"], bound["tunnel"], CALLER, current)
    assert way is not None
    assert way.to == (Share("outbound|5432||db.default.svc.cluster.local"),)
    assert opaque_way(offers["egress"], bound["egress"], CALLER, current) is None
