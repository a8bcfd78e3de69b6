"""To which service an address belongs that Kubernetes has given it: to that one alone, whatever others write. Pure.

The API server gives every ClusterIP once. The addresses of a ServiceEntry, `externalIPs` and the ranges of a route's
`destinationSubnets` are free text, and of them connections to another service's ClusterIP are left out.
"""

import ipaddress
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pymesh.resources.kubernetes import Service as KubernetesService
from pymesh.resources.resource import holds
from pymesh_controlplane.pilot import precedence
from pymesh_controlplane.pilot.model import ClusterIPs, Protocol, Service


class _Given(NamedTuple):
    rank: precedence.Rank
    address: str
    service: Service


def given(services: Iterable[Service], root_namespace: str) -> ClusterIPs:
    """The ClusterIPs of `services`. Where files give one twice, the service that comes first has it."""
    owners: dict[str, Service] = {}
    requests: dict[int, list[tuple[int, str]]] = {}
    found = [
        _Given(precedence.rank(resource, "", root_namespace), address, service)
        for service in services
        if holds(resource := service.resource, KubernetesService) and not service.external
        for address in {resource.value.spec.cluster_ip, *(resource.value.spec.cluster_ips or [])}
        if address in service.addresses
    ]
    for item in sorted(found, key=lambda item: item.rank):
        owners.setdefault(item.address, item.service)
    for address, service in owners.items():
        for port in service.ports if _is_address(address) else ():
            if port.protocol is Protocol.HTTP:
                requests.setdefault(port.port, []).append((int(ipaddress.IPv4Address(address)), service.host))
    return ClusterIPs(
        owners={address: service.host for address, service in owners.items()},
        requests={port: tuple(sorted(addresses)) for port, addresses in requests.items()},
    )


def holder(text: str, port: int, hosts: Iterable[str], known: ClusterIPs) -> str | None:
    """The host to which opaque connections to `port` of the address or range `text` are left; None if they are free.

    A range may cover ClusterIPs: the more specific address counts, which connections have by it. Requests have not:
    what takes a range of addresses away from a port takes away the requests to all of them.

    Args:
        hosts: for which the connections are wanted.
    """
    network = ipaddress.ip_network(text, strict=False)
    if network.num_addresses == 1:
        own = known.owners.get(str(network.network_address))
        return None if own in {None, *hosts} else own
    return _covered(known.requests.get(port, ()), int(network.network_address), int(network.broadcast_address))


def without_others(service: Service, known: ClusterIPs) -> tuple[str, ...]:
    """The addresses of a service but those that are another's."""
    return tuple(item for item in service.addresses if known.owners.get(item, service.host) == service.host)


def _covered(requests: Sequence[tuple[int, str]], first: int, last: int) -> str | None:
    at = bisect_left(requests, (first, ""))
    return requests[at][1] if at < len(requests) and requests[at][0] <= last else None


def _is_address(text: str) -> bool:
    """Whether it is one: the world is made before galley refuses what is none."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
