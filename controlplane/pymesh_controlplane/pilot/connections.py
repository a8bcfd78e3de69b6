"""VirtualService → where opaque connections go: `tls` routes by server name, `tcp` routes by address. Pure.

Source: istio.io/docs/reference/config/networking/virtual-service, TLSRoute and TCPRoute, release 1.27.
"""

import ipaddress
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from pymesh import names
from pymesh.resources.istio.virtual_service import L4MatchAttributes, RouteDestination, VirtualService
from pymesh.resources.resource import Resource
from pymesh_controlplane.pilot.callers import Caller
from pymesh_controlplane.pilot.clusters import opaque_cluster
from pymesh_controlplane.pilot.matching import MESH, applies
from pymesh_controlplane.pilot.routes import Targets, port_of

ANY_CONNECTION = L4MatchAttributes()


class Share(NamedTuple):
    """A cluster, and its share of the connections relative to the others."""

    cluster: str
    weight: int = 1


class Way(NamedTuple):
    """Some connections to a port, and where they go.

    Attributes:
        to: at least one; every weight is above 0.
        server_names: the names that TLS clients ask for, as in `www.example.com` or `*.example.com`; empty: whatever
            they ask for, and connections without TLS too.
        ranges: the addresses that are dialled, as CIDR ranges; empty: any.
    """

    to: tuple[Share, ...]
    server_names: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()


def tls_ways(
    resource: Resource[VirtualService], port: int, caller: Caller, meant: Targets, gateways: Container[str] = MESH
) -> Iterator[Way]:
    """Where the `tls` routes of a VirtualService send what `caller` dials on `port`; the first that fits counts.

    Args:
        port: as clients know it: a port of a service, or of a gateway's server.
        meant: see `routes.targets`.
        gateways: the names that `resource` may call the gateway by whose connections these are.
    """
    for route in resource.value.spec.tls:
        for match in route.match:
            if applies(match, port, caller, gateways):
                server_names = tuple(dict.fromkeys(name.lower() for name in match.sni_hosts))
                yield Way(_shares(route.route, port, meant), server_names, _ranges(match.destination_subnets))


def tcp_ways(
    resource: Resource[VirtualService], port: int, caller: Caller, meant: Targets, gateways: Container[str] = MESH
) -> Iterator[Way]:
    """Where the `tcp` routes of a VirtualService send what `caller` dials on `port`, up to one that takes the rest."""
    for route in resource.value.spec.tcp:
        for match in route.match or [ANY_CONNECTION]:
            if applies(match, port, caller, gateways):
                ranges = _ranges(match.destination_subnets)
                yield Way(_shares(route.route, port, meant), (), ranges)
                if not ranges:
                    return


def _ranges(subnets: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(ipaddress.ip_network(subnet, strict=False)) for subnet in subnets))


def _shares(route: list[RouteDestination], port: int, meant: Targets) -> tuple[Share, ...]:
    if len(route) == 1:
        return (Share(_cluster(route[0], port, meant)),)
    return tuple(Share(_cluster(item, port, meant), item.weight) for item in route if item.weight)


def _cluster(item: RouteDestination, port: int, meant: Targets) -> str:
    destination = item.destination
    target = meant[destination.host]
    number = port_of(destination, port, meant)
    make = opaque_cluster if number in target.undeclared else names.outbound_cluster
    return make(number, target.host, destination.subset)
