"""World → the two listeners of a sidecar. Pure.

Outbound and inbound are one listener each; which filter chain serves a connection is decided by the port and address
that it was meant for and by what its first bytes look like. Envoy looks at these one after the other (port, address,
server name, TLS or not, ALPN) and never goes back: once one chain for a port asks for TLS and another for plaintext,
one that asks for neither is never reached. What finds no chain on its way goes to the default chain.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2

from pymesh import names
from pymesh_controlplane.pilot import tls
from pymesh_controlplane.pilot.connections import Way
from pymesh_controlplane.pilot.filters import NOTHING_BEFORE, Before, Where, inbound_http, outbound_http, tcp, tcp_to
from pymesh_controlplane.pilot.messages import cidr_range, duration, packed, socket_address
from pymesh_controlplane.pilot.model import Protocol, Service, ServicePort, World
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.outbound import Opaque
from pymesh_controlplane.pilot.policies import Mtls, PeerModes, peer_modes
from pymesh_controlplane.pilot.policy_filters import PortLimits

VIRTUAL_OUTBOUND: Final = "virtualOutbound"
VIRTUAL_INBOUND: Final = "virtualInbound"

# Seconds that a connection may stay silent before it is taken for one where the server speaks first. Long enough for a
# slow client's first request, short enough for a person who waits for MySQL's greeting on a port that nobody declared.
DETECTION_TIMEOUT: Final = 5.0

# What tls_inspector says of a connection.
TLS: Final = "tls"
RAW: Final = "raw_buffer"
# What http_inspector says of HTTP/1. HTTP/2 without TLS ("h2c") is not among them: it is carried as opaque bytes.
HTTP1: Final = ("http/1.0", "http/1.1")
# What a sidecar offers when it is about to send requests, and what it offers in every case.
MESH_HTTP: Final = ("istio-http/1.0", "istio-http/1.1")
MESH: Final = (*MESH_HTTP, *names.ALPN_MESH_TCP)

# Ports of the proxy itself: nothing that comes in for them is passed on to the application.
RESERVED_PORTS: Final = (15000, 15001, 15004, 15006, 15008, 15020, 15021, 15090)

_Chain = listener_components_pb2.FilterChain
_Match = listener_components_pb2.FilterChainMatch


# --- Outbound ------------------------------------------------------------------------------------------------------


def http_chains(port: int) -> list[_Chain]:
    """Requests to `port`, whatever the address."""
    return [_chain(f"{port}_http", _match(port, RAW, HTTP1), outbound_http(port))]


def opaque_chains(to: Opaque) -> list[_Chain]:
    """Connections to a service that is told apart by its addresses or its server name."""
    chains: list[_Chain] = []
    for index, way in enumerate(to.ways):
        # The last one is, as a rule, the service itself, and is called by its name alone.
        name = f"{to.port}_{to.host}" if index == len(to.ways) - 1 else f"{to.port}_{to.host}_{index}"
        chains += _way_chains(name, to, way)
    return chains


def _way_chains(name: str, to: Opaque, way: Way) -> list[_Chain]:
    handler = tcp_to(way.to, name)
    if way.server_names:
        match = _match(to.port, TLS, ranges=way.ranges)
        match.server_names.extend(way.server_names)
        return [_chain(name, match, handler)]
    if to.protocol is not Protocol.AUTO:
        return [_chain(name, _match(to.port, ranges=way.ranges), handler)]
    return [
        _chain(f"{name}_http", _match(to.port, RAW, HTTP1, way.ranges), outbound_http(to.port)),
        _chain(name, _match(to.port, RAW, ranges=way.ranges), handler),
        _chain(f"{name}_tls", _match(to.port, TLS, ranges=way.ranges), handler),
    ]


def virtual_outbound(chains: Iterable[_Chain], registry_only: bool) -> listener_pb2.Listener:
    """What the pod's applications dial; `chains` are those of all ports.

    What none of them takes goes where the application dialled, or, under REGISTRY_ONLY, nowhere.
    """
    listener = _listener(VIRTUAL_OUTBOUND, names.PORT_OUTBOUND, base_pb2.OUTBOUND)
    listener.filter_chains.append(
        _chain("blackhole", _match(names.PORT_OUTBOUND), tcp(names.BLACK_HOLE_CLUSTER, names.BLACK_HOLE_CLUSTER))
    )
    listener.filter_chains.extend(chains)
    name, cluster = ("block", names.BLACK_HOLE_CLUSTER) if registry_only else ("passthrough", names.PASSTHROUGH_CLUSTER)
    listener.default_filter_chain.CopyFrom(_chain(name, None, tcp(cluster, cluster)))
    return listener


# --- Inbound -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InboundPort:
    """A port of the pod, and what is spoken there."""

    number: int
    protocol: Protocol


# What the services that select a pod have at each of its ports, in the order of the services.
Inbound: TypeAlias = Mapping[int, Sequence[tuple[Service, ServicePort]]]


def inbound_services(node: Node, world: World) -> Inbound:
    """The services whose ports lead to the pod's."""
    container_ports = _container_ports(node, world)
    found: dict[int, list[tuple[Service, ServicePort]]] = {}
    for service in world.services.values():
        if not service.selector or service.namespace != node.namespace:
            continue
        if service.selector.items() <= node.labels.items():
            for port in service.ports:
                number = port.target if isinstance(port.target, int) else container_ports.get(port.target)
                if number is not None:
                    found.setdefault(number, []).append((service, port))
    return found


def inbound_ports(node: Node, world: World, services: Inbound) -> tuple[InboundPort, ...]:
    """The pod's ports: those of its `services` (see `inbound_services`), of its containers and with an mTLS mode.

    Where services disagree about a protocol, the first service by name says what it is.
    """
    found = {number: behind[0][1].protocol for number, behind in services.items()}
    for number in (*_container_ports(node, world).values(), *inbound_modes(node, world).by_port):
        found.setdefault(number, Protocol.AUTO)
    return tuple(InboundPort(number, found[number]) for number in sorted(found) if number not in RESERVED_PORTS)


def _container_ports(node: Node, world: World) -> Mapping[str, int]:
    workload = world.workload_at(node.addresses)
    return workload.container_ports if workload is not None else {}


def inbound_modes(node: Node, world: World) -> PeerModes:
    """Whether the pod asks for mutual TLS."""
    modes = peer_modes(node.namespace, node.labels, world.peer_authentications, world.root_namespace)
    return replace(modes, trust_domains=world.trust_domains)


def virtual_inbound(
    ports: Iterable[InboundPort],
    modes: PeerModes,
    limits: Iterable[PortLimits] = (),
    before: Before = NOTHING_BEFORE,
) -> listener_pb2.Listener:
    """What reaches the pod from outside, on whatever port: it passes `before` first."""
    held = {limit.port: limit for limit in limits}
    listener = _listener(VIRTUAL_INBOUND, names.PORT_INBOUND, base_pb2.INBOUND)
    for number in RESERVED_PORTS:
        black_hole = tcp(names.BLACK_HOLE_CLUSTER, names.BLACK_HOLE_CLUSTER)
        listener.filter_chains.append(_chain(f"{number}_reserved", _match(number), black_hole))
    for port in ports:
        where = Where(port.number, names.inbound_cluster(port.number))
        trusted = Trusted(modes.at(port.number), modes.trust_domains)
        listener.filter_chains.extend(_inbound_chains(where, port.protocol, trusted, before, held.get(port.number)))
    # A port that nobody declared is treated as one of which nobody said what is spoken there. Its last chain takes all
    # that is left, so it is the default; under STRICT that one demands mutual TLS too.
    where = Where(None, names.INBOUND_PASSTHROUGH_CLUSTER)
    trusted = Trusted(modes.default, modes.trust_domains)
    *special, default = _inbound_chains(where, Protocol.AUTO, trusted, before)
    listener.filter_chains.extend(special)
    default.ClearField("filter_chain_match")
    listener.default_filter_chain.CopyFrom(default)
    return listener


class Trusted(NamedTuple):
    """Whether mutual TLS is asked for on a port, and of which trust domains callers may be."""

    mode: Mtls
    domains: tuple[str, ...]

    def mutual(
        self, name: str, match: _Match, filters: Sequence[listener_components_pb2.Filter], alpn: Sequence[str]
    ) -> _Chain:
        """A chain with mutual TLS."""
        chain = _chain(name, match, *filters)
        chain.transport_socket.CopyFrom(tls.mesh_server(alpn, self.domains))
        return chain


def _inbound_chains(
    where: Where, protocol: Protocol, trusted: Trusted, before: Before, held: PortLimits | None = None
) -> list[_Chain]:
    """A chain for everything that may come to a port; the last one is also right for whatever was not thought of."""
    mode, mutual = trusted.mode, trusted.mutual
    http = [inbound_http(where, held, before.requests)]
    opaque = [*before.connections, tcp(where.cluster, where.cluster)]
    if protocol is not Protocol.AUTO:
        whole = http if protocol is Protocol.HTTP else opaque
        if mode is Mtls.STRICT:
            return [mutual(f"{where.name}_mtls", _match(where.port), whole, MESH)]
        chains = [mutual(f"{where.name}_mtls", _match(where.port, TLS, MESH), whole, MESH)]
        plain = [
            _chain(f"{where.name}_tls", _match(where.port, TLS), *opaque),  # the application's own
            _chain(where.name, _match(where.port, RAW), *whole),
        ]
        return plain if mode is Mtls.DISABLE else chains + plain
    mutual_http = mutual(f"{where.name}_mtls_http", _match(where.port, TLS, MESH_HTTP), http, MESH_HTTP)
    if mode is Mtls.STRICT:
        return [
            mutual_http,
            mutual(f"{where.name}_mtls", _match(where.port, TLS), opaque, MESH),
            mutual(f"{where.name}_refused", _match(where.port, RAW), opaque, MESH),  # no TLS: the handshake fails
        ]
    plain = [
        _chain(f"{where.name}_tls", _match(where.port, TLS), *opaque),
        _chain(f"{where.name}_http", _match(where.port, RAW, HTTP1), *http),
        _chain(where.name, _match(where.port, RAW), *opaque),
    ]
    mutual_tcp = mutual(f"{where.name}_mtls", _match(where.port, TLS, names.ALPN_MESH_TCP), opaque, MESH)
    return plain if mode is Mtls.DISABLE else [mutual_http, mutual_tcp, *plain]


# --- Pieces --------------------------------------------------------------------------------------------------------


def _listener(name: str, port: int, direction: base_pb2.TrafficDirection) -> listener_pb2.Listener:
    listener = listener_pb2.Listener(
        name=name,
        address=socket_address("0.0.0.0", port),  # noqa: S104  the redirect leads here from every address of the pod
        traffic_direction=direction,
        listener_filters_timeout=duration(DETECTION_TIMEOUT),
        continue_on_listener_filters_timeout=True,
    )
    for filter_name, config in (
        ("envoy.filters.listener.original_dst", original_dst_pb2.OriginalDst()),
        ("envoy.filters.listener.tls_inspector", tls_inspector_pb2.TlsInspector()),
        ("envoy.filters.listener.http_inspector", http_inspector_pb2.HttpInspector()),
    ):
        listener.listener_filters.add(name=filter_name, typed_config=packed(config))
    return listener


def _match(
    port: int | None = None, transport: str = "", alpn: Sequence[str] = (), ranges: Iterable[str] = ()
) -> _Match:
    match = _Match(transport_protocol=transport, application_protocols=alpn)
    if port is not None:
        match.destination_port.value = port
    match.prefix_ranges.extend(cidr_range(text) for text in ranges)
    return match


def _chain(name: str, match: _Match | None, *filters: listener_components_pb2.Filter) -> _Chain:
    return _Chain(name=name, filter_chain_match=match, filters=filters)
