"""World → what is told apart among the connections that leave a pod, port by port. Pure."""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pymesh import names
from pymesh.resources.istio.virtual_service import VirtualService
from pymesh.resources.resource import Resource
from pymesh_controlplane.pilot import cluster_ips, hosts, precedence
from pymesh_controlplane.pilot.callers import Caller
from pymesh_controlplane.pilot.clusters import opaque_cluster
from pymesh_controlplane.pilot.connections import Share, Way, tcp_ways, tls_ways
from pymesh_controlplane.pilot.model import Protocol, Service, ServicePort, World
from pymesh_controlplane.pilot.routes import targets


class Opaque(NamedTuple):
    """A port of a service whose connections are told apart by address or server name: it is not, or may not be, HTTP.

    Attributes:
        ways: no two of them have both a server name (or none) and a range (or none) in common.
    """

    host: str
    port: int
    protocol: Protocol
    ways: tuple[Way, ...]


def plan(caller: Caller, world: World) -> list[tuple[int, bool, list[Opaque]]]:
    """By port, whether some service may speak HTTP there, and the services that are told apart from it.

    Two chains with the same match make Envoy refuse the listener, so that an address or a server name goes to one
    service: a ClusterIP to its own, anything else to the one whose resource comes first (see `precedence`).
    """
    by_port: dict[int, list[tuple[Service, ServicePort]]] = {}
    for service in world.services.values():
        for port in service.ports:
            if port.port != names.PORT_OUTBOUND and not _is_for_sidecars(service, port, world):
                by_port.setdefault(port.port, []).append((service, port))
    ranks = {
        service.host: precedence.rank(service.resource, "", world.root_namespace) for service in world.services.values()
    }
    for speakers in by_port.values():
        speakers.sort(key=lambda speaker: ranks[speaker[0].host][:2])
    return [
        (number, any(port.protocol.may_be_http for _, port in speakers), list(_opaque(speakers, caller, world)))
        for number, speakers in sorted(by_port.items())
    ]


def _is_for_sidecars(service: Service, port: ServicePort, world: World) -> bool:
    """Whether it is the policy or the telemetry service. They believe what they are told as far as the certificate of
    the caller goes, and are called by sidecars; a connection of the app would come with that certificate, too.
    """
    return port.port == names.PORT_MESH_GRPC and service.namespace == world.root_namespace


def _opaque(speakers: Iterable[tuple[Service, ServicePort]], caller: Caller, world: World) -> Iterator[Opaque]:
    taken: set[tuple[str, str]] = set()
    for service, port in speakers:
        if port.protocol is not Protocol.HTTP:
            wanted = (_without_others(way, service, port, world) for way in _ways(service, port, caller, world))
            free = (_untaken(way, taken) for way in wanted if way is not None)
            ways = tuple(way for way in free if way is not None)
            if ways:
                yield Opaque(service.host, port.port, port.protocol, ways)


def _ways(service: Service, port: ServicePort, caller: Caller, world: World) -> Iterator[Way]:
    """Where connections to a port of a service go: as routes say, and the rest to the service itself."""
    # TLS to an outside host is told by its server name, since its addresses are nobody's to know.
    by_name = port.protocol is Protocol.TLS and service.external
    ranges: tuple[str, ...] = () if by_name else _addresses(service, port, world)
    if not by_name and not ranges:
        return
    routed = tls_ways if port.protocol is Protocol.TLS else tcp_ways
    for written in _written_for(service, world):
        for way in routed(written, port.port, caller, targets(written, world)):
            yield way._replace(ranges=way.ranges or ranges)
    make = opaque_cluster if port.protocol is Protocol.AUTO else names.outbound_cluster
    if not by_name or service.host != "*":
        yield Way((Share(make(port.port, service.host)),), (service.host,) if by_name else (), ranges)


def _without_others(way: Way, service: Service, port: ServicePort, world: World) -> Way | None:
    """What of `way` is not another service's by its ClusterIP."""
    own = {service.host}
    ranges = tuple(item for item in way.ranges if not cluster_ips.holder(item, port.port, own, world.cluster_ips))
    return way._replace(ranges=ranges) if ranges or not way.ranges else None


def _untaken(way: Way, taken: set[tuple[str, str]]) -> Way | None:
    """What of `way` nobody has yet, as (server name, range); it has it from now on."""
    server_names: tuple[str, ...] = way.server_names or ("",)
    ranges: tuple[str, ...] = way.ranges or ("",)
    if way.server_names:
        server_names = tuple(name for name in server_names if not any((name, item) in taken for item in ranges))
    else:
        ranges = tuple(item for item in ranges if ("", item) not in taken)
    if not server_names or not ranges:
        return None
    taken.update((name, item) for name in server_names for item in ranges)
    return way._replace(server_names=server_names if way.server_names else (), ranges=ranges if way.ranges else ())


def _written_for(service: Service, world: World) -> Iterator[Resource[VirtualService]]:
    """The VirtualServices with routes of connections to `service`: for its host, or for one that a wildcard covers."""
    found = [world.routing[host] for host in [hosts.most_specific(service.host, world.routing)] if host is not None]
    if "*" in service.host:
        found += [written for host, written in world.routing.items() if _covers(service.host, host)]
    for written in {resource.key: resource for resource in found}.values():
        if written.value.spec.tls or written.value.spec.tcp:
            yield written


def _covers(wildcard: str, host: str) -> bool:
    return host != wildcard and hosts.most_specific(host, {wildcard}) is not None


def _addresses(service: Service, port: ServicePort, world: World) -> tuple[str, ...]:
    """Where a service is dialled: its virtual addresses, or, where it has none, its pods; each as a CIDR range."""
    if service.headless:
        endpoints = world.endpoints.get((service.host, port.port), ())
        return tuple(sorted({f"{endpoint.address}/32" for endpoint in endpoints}))
    return tuple(dict.fromkeys(str(ipaddress.ip_network(address, strict=False)) for address in service.addresses))
