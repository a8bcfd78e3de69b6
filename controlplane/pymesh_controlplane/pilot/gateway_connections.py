"""Where a gateway sends connections that it reads no requests from, by the VirtualServices bound to it. Pure.

A server with PASSTHROUGH leaves TLS closed and tells connections by their server name: `tls` routes. One of protocol
TLS that ends it (ISTIO_MUTUAL, SIMPLE, MUTUAL) has opaque bytes left: `tcp` routes.
"""

from collections.abc import Iterable, Iterator

from envoy.config.listener.v3 import listener_components_pb2

from pymesh.resources.istio import VirtualService
from pymesh.resources.resource import Resource
from pymesh_controlplane.pilot.connections import Way, tcp_ways, tls_ways
from pymesh_controlplane.pilot.filters import tcp_to
from pymesh_controlplane.pilot.gateways import Offer, common_hosts, covers, names_for
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.routes import Caller, targets


def passthrough_ways(
    offer: Offer, bound: Iterable[Resource[VirtualService]], caller: Caller, world: World
) -> Iterator[Way]:
    """By server name, where TLS connections to a PASSTHROUGH server go; no two ways have a name in common.

    Args:
        bound: the VirtualServices that name the gateway, in the order of their keys.
        caller: the gateway's own namespace and labels.
    """
    taken: set[str] = set()
    for written in bound:
        shared = common_hosts(offer, written, world)
        gateways = names_for(offer.gateway.key, written.key.namespace)
        for way in tls_ways(written, offer.server.port.number, caller, targets(written, world), gateways):
            free = [name for name in way.server_names if name not in taken and _within(name, shared)]
            taken.update(free)
            if free:
                yield way._replace(server_names=tuple(free))


def opaque_way(offer: Offer, bound: Iterable[Resource[VirtualService]], caller: Caller, world: World) -> Way | None:
    """Where the bytes go that come to a server of protocol TLS once TLS has ended there; None if nobody says so."""
    for written in bound:
        if common_hosts(offer, written, world):
            gateways = names_for(offer.gateway.key, written.key.namespace)
            for way in tcp_ways(written, offer.server.port.number, caller, targets(written, world), gateways):
                if not way.ranges:  # who dials the gateway dials the gateway's address
                    return way
    return None


def passthrough_chain(port: int, index: int, way: Way) -> listener_components_pb2.FilterChain:
    """The chain for one way of a PASSTHROUGH server: the `index`-th on the pod's `port`."""
    name = f"{port}_passthrough_{index}"
    match = listener_components_pb2.FilterChainMatch(transport_protocol="tls", server_names=way.server_names)
    return listener_components_pb2.FilterChain(name=name, filter_chain_match=match, filters=[tcp_to(way.to, name)])


def _within(name: str, hosts: Iterable[str]) -> bool:
    return any(covers(host, name) for host in hosts)
