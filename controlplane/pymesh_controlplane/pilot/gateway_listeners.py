"""What a gateway offers → its listeners: one for each port of the pod. Pure.

Plain HTTP needs one filter chain. With TLS each server has its own, told by the server name that the client asks for; a
client that asks for another, or speaks no TLS, finds none and is cut off. Where TLS passes through, or connections are
routed once it has ended, there is a chain for each way that a VirtualService's `tls` and `tcp` routes name.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2

from pymesh.resources.istio.virtual_service import VirtualService
from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.pilot import credentials, tls
from pymesh_controlplane.pilot.callers import Caller
from pymesh_controlplane.pilot.connections import Way, tcp_ways, tls_ways
from pymesh_controlplane.pilot.filters import NOTHING_BEFORE, Before, gateway_http, tcp_to
from pymesh_controlplane.pilot.gateways import PLAIN, Offer, common_hosts, covers, names_for, narrower
from pymesh_controlplane.pilot.listeners import MESH, TLS
from pymesh_controlplane.pilot.messages import duration, packed, socket_address
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.routes import targets

# Seconds for a client to send its ClientHello.
HELLO_TIMEOUT: Final = 15.0

_Chain = listener_components_pb2.FilterChain


class Served(NamedTuple):
    """One server, and, where connections are routed, the ways that they take: by server name, the narrower first.

    Of `trust_domains` the mesh's own clients may be.
    """

    offer: Offer
    ways: tuple[Way, ...] = ()
    trust_domains: tuple[str, ...] = ()


def route_name(offer: Offer) -> str:
    """`http.8080` for all plain HTTP of a port; `https.443.https.bookinfo.default` for a server with TLS."""
    server, gateway = offer.server, offer.gateway.key
    if server.port.protocol in PLAIN:
        return f"http.{offer.port}"
    return f"https.{server.port.number}.{server.port.name}.{gateway.name}.{gateway.namespace}"


def served(
    offers: Sequence[Offer], bound: Mapping[Key, Sequence[Resource[VirtualService]]], caller: Caller, world: World
) -> tuple[Served, ...]:
    """`offers` with the ways of their connections; a server name goes to the first that has it."""
    found = []
    taken = {name for offer in offers if not offer.opaque for name in offer.names}
    for offer in offers:
        ways: list[Way] = []
        if offer.opaque:
            for way in _ways(offer, bound.get(offer.gateway.key, ()), caller, world):
                names = tuple(name for name in way.server_names if name not in taken)
                taken.update(names)
                if names:
                    ways.append(way._replace(server_names=names))
        found.append(Served(offer, tuple(ways), world.trust_domains))
    return tuple(found)


def _ways(offer: Offer, written: Iterable[Resource[VirtualService]], caller: Caller, world: World) -> Iterator[Way]:
    """Where the VirtualServices send the connections of a server; each with server names that the server has."""
    for resource in written:
        common = common_hosts(offer, resource, world)
        known_as = names_for(offer.gateway.key, resource.key.namespace)
        number, meant = offer.server.port.number, targets(resource, world)
        for way in tls_ways(resource, number, caller, meant, known_as):
            names = [narrower(name, host) for name in way.server_names for host in common]
            yield way._replace(server_names=tuple(dict.fromkeys(name for name in names if name)), ranges=())
        if offer.mode != "PASSTHROUGH":
            for way in tcp_ways(resource, number, caller, meant, known_as):
                yield way._replace(server_names=tuple(common), ranges=())


def listener(port: int, servers: Sequence[Served], before: Before = NOTHING_BEFORE) -> listener_pb2.Listener | None:
    """The listener for what is offered on `port` of the pod; None if nothing can be done with any connection.

    Whatever comes passes `before` first.
    """
    message = listener_pb2.Listener(
        name=f"0.0.0.0_{port}",
        address=socket_address("0.0.0.0", port),  # noqa: S104  clients come from everywhere
        traffic_direction=base_pb2.OUTBOUND,
    )
    if servers[0].offer.mode == "":
        offer = servers[0].offer  # requests are told apart by the one route configuration of all of them
        handler = gateway_http(port, route_name(offer), before.requests)
        message.filter_chains.append(_Chain(name=f"{port}_http", filters=[handler]))
        return message
    message.listener_filters.add(
        name="envoy.filters.listener.tls_inspector", typed_config=packed(tls_inspector_pb2.TlsInspector())
    )
    message.listener_filters_timeout.CopyFrom(duration(HELLO_TIMEOUT))
    for server in servers:
        opaque = server.offer.opaque
        chains = _opaque_chains(server, before) if opaque else [_https_chain(server, before)]
        message.filter_chains.extend(chains)
    return message if message.filter_chains else None


def _https_chain(server: Served, before: Before) -> _Chain:
    """Requests once TLS has ended."""
    offer = server.offer
    name = route_name(offer)
    of_the_mesh = offer.mode == "ISTIO_MUTUAL"
    handler = gateway_http(offer.port, name, before.requests, mutual=offer.mode != "SIMPLE", of_the_mesh=of_the_mesh)
    chain = _Chain(name=name, filter_chain_match=_match(offer.names), filters=[handler])
    chain.transport_socket.CopyFrom(_socket(server))
    return chain


def _opaque_chains(server: Served, before: Before) -> Iterator[_Chain]:
    """Connections by their server names, with TLS as it is or, from the mesh's own clients, after its end."""
    offer = server.offer
    for index, way in enumerate(server.ways):
        name = f"{route_name(offer)}.{index}"
        filters = [*before.connections, tcp_to(way.to, name)]
        chain = _Chain(name=name, filter_chain_match=_match(way.server_names), filters=filters)
        if offer.mode != "PASSTHROUGH":
            chain.transport_socket.CopyFrom(_socket(server))
        yield chain


def _socket(server: Served) -> base_pb2.TransportSocket:
    offer = server.offer
    if offer.mode == "ISTIO_MUTUAL":
        return tls.mesh_server(MESH, server.trust_domains)
    settings = offer.server.tls
    assert settings is not None
    return tls.gateway_server(settings, [item.name for item in credentials.wanted(offer)])


def _match(names: Sequence[str]) -> listener_components_pb2.FilterChainMatch:
    """TLS clients that ask for one of `names`; `*` is also whoever names none."""
    any_name = any(covers(name, "*") for name in names)
    return listener_components_pb2.FilterChainMatch(transport_protocol=TLS, server_names=() if any_name else names)
