"""Which servers of which gateways a proxy of kind `router` serves, and which VirtualServices are bound to them. Pure.

A server names a port as clients know it, which is a port of the Service in front of the gateway's pods; the listener is
on what that port leads to (80 to 8080). One port of the pod has either plain HTTP or TLS; where two servers ask for
different things, or for the same server name, the gateway that comes first has it (see `precedence`).

Source: istio.io/docs/reference/config/networking/gateway, release 1.27.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from pymesh.resources.istio.gateway import Gateway, Server
from pymesh.resources.istio.virtual_service import VirtualService
from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.pilot import hosts, precedence
from pymesh_controlplane.pilot.listeners import RESERVED_PORTS, inbound_services
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node

ROUTER: Final = "router"
# Protocols of a gateway's port.
PLAIN: Final = frozenset({"HTTP", "GRPC-Web"})
ENCRYPTED: Final = frozenset({"HTTPS", "TLS"})
# TLS that ends at the gateway, with a certificate of its own.
TERMINATED: Final = frozenset({"SIMPLE", "MUTUAL"})
# What may stand before the slash of a server's host: any namespace.
ANY_NAMESPACE: Final = "*"


class Offer(NamedTuple):
    """One server of a gateway, the one at `position`, as a pod serves it on its `port`.

    `hosts` are those of the server that no earlier one has on this port (`*` is any), each with the namespace whose
    VirtualServices may use it (`*`: any).
    """

    gateway: Resource[Gateway]
    position: int
    port: int
    hosts: tuple[tuple[str, str], ...]

    @property
    def server(self) -> Server:
        """The server as it is written."""
        return self.gateway.value.spec.servers[self.position]

    @property
    def mode(self) -> str:
        """What happens to TLS: SIMPLE, MUTUAL, ISTIO_MUTUAL or PASSTHROUGH; empty for plain HTTP."""
        server = self.server
        if server.port.protocol in PLAIN or server.tls is None:
            return ""
        return server.tls.mode or ""

    @property
    def opaque(self) -> bool:
        """Whether connections are routed, by their server names, and not requests."""
        return self.mode == "PASSTHROUGH" or (self.mode == "ISTIO_MUTUAL" and self.server.port.protocol == "TLS")

    @property
    def names(self) -> tuple[str, ...]:
        """The hosts without their namespaces."""
        return tuple(dict.fromkeys(host for _, host in self.hosts))


class Conflict(NamedTuple):
    """Why a server, or one of its hosts (`path`), is not served."""

    gateway: Key
    path: str
    sentence: str


class Offers(NamedTuple):
    """What a pod serves, by its port, in the order of the gateways; and what it cannot."""

    by_port: Mapping[int, tuple[Offer, ...]]
    conflicts: tuple[Conflict, ...]


def offers(node: Node, world: World) -> Offers:
    """What `node` serves. Of two servers that exclude each other the first counts."""
    by_port: dict[int, list[Offer]] = {}
    conflicts: list[Conflict] = []
    targets = _targets(node, world)
    for gateway in sorted(world.gateways, key=lambda gateway: precedence.rank(gateway, "", world.root_namespace)):
        if not selects(gateway.value, node.labels):
            continue
        for index, server in enumerate(gateway.value.spec.servers):
            port = targets.get(server.port.number, server.port.number)
            if port in RESERVED_PORTS:
                sentence = f"port {port} of the gateway's pod is the proxy's own"
                conflicts.append(Conflict(gateway.key, f"spec.servers[{index}].port.number", sentence))
                continue
            offer = Offer(gateway, index, port, tuple(hosts_of(server, gateway)))
            remaining = _without_conflicts(offer, by_port.get(port, []), conflicts, world.root_namespace)
            if remaining is not None:
                by_port.setdefault(port, []).append(remaining)
    return Offers({port: tuple(found) for port, found in sorted(by_port.items())}, tuple(conflicts))


def selects(gateway: Gateway, labels: Mapping[str, str]) -> bool:
    """Whether the gateway is for pods with these labels; one without a selector is for every gateway pod."""
    return gateway.spec.selector.items() <= labels.items()


def _targets(node: Node, world: World) -> dict[int, int]:
    """By port of a Service in front of the pod, the pod's port."""
    found: dict[int, int] = {}
    for target, speakers in inbound_services(node, world).items():
        for _, port in speakers:
            found.setdefault(port.port, target)
    return found


def hosts_of(server: Server, gateway: Resource[Gateway]) -> Iterator[tuple[str, str]]:
    """`ns/host` taken apart; `./host` is the gateway's own namespace, `host` alone is open to any."""
    for written in server.hosts:
        place, slash, host = written.rpartition("/")
        yield (gateway.key.namespace if place == "." else place) if slash else ANY_NAMESPACE, host.lower()


def _without_conflicts(
    offer: Offer, earlier: Iterable[Offer], conflicts: list[Conflict], root_namespace: str
) -> Offer | None:
    """What is left of `offer` beside `earlier` on the same port; None if nothing is."""
    number, path = offer.server.port.number, f"spec.servers[{offer.position}]"
    plain = offer.server.port.protocol in PLAIN
    left = list(offer.hosts)
    for other in earlier:
        if (other.server.port.protocol in PLAIN) is not plain:
            who = _named(other.gateway, offer.gateway, root_namespace)
            sentence = f"{who} has {other.server.port.protocol} on port {number}: use another port"
            conflicts.append(Conflict(offer.gateway.key, f"{path}.port.protocol", sentence))
            return None
        if plain:
            continue  # requests are told apart by more than the host: both are served
        for place, host in offer.hosts:
            if host in other.names and (place, host) in left:
                left.remove((place, host))
                who = _named(other.gateway, offer.gateway, root_namespace)
                sentence = f"{who} already has TLS for {host} on port {number}"
                at = [item for _, item in offer.hosts].index(host)
                conflicts.append(Conflict(offer.gateway.key, f"{path}.hosts[{at}]", sentence))
    return offer._replace(hosts=tuple(left)) if left else None


def _named(winner: Resource[Gateway], loser: Resource[Gateway], root_namespace: str) -> str:
    """Who has it, and why, if that is another."""
    if winner.key == loser.key:
        return str(winner.key)
    ranks = (precedence.rank(gateway, "", root_namespace) for gateway in (winner, loser))
    return f"{winner.key}, {precedence.reason(*ranks)},"


# --- VirtualServices -----------------------------------------------------------------------------------------------


def bound(world: World) -> dict[Key, list[Resource[VirtualService]]]:
    """By gateway, the VirtualServices that name it: first those of its own namespace (see `precedence`)."""
    found: dict[Key, list[Resource[VirtualService]]] = {}
    for resource in world.virtual_services:
        for gateway in dict.fromkeys(gateway_key(name, resource.key.namespace) for name in _gateways(resource)):
            found.setdefault(gateway, []).append(resource)
    return {gateway: sorted(some, key=_rank_at(gateway, world)) for gateway, some in found.items()}


def _rank_at(gateway: Key, world: World) -> Callable[[Resource[VirtualService]], precedence.Rank]:
    return lambda resource: precedence.rank(resource, gateway.namespace, world.root_namespace)


def _gateways(resource: Resource[VirtualService]) -> Iterator[str]:
    return (name for name in resource.value.spec.gateways if name != "mesh")


def gateway_key(name: str, namespace: str) -> Key:
    """The gateway that a resource of `namespace` calls `name`: `name` or `namespace/name`."""
    place, _, plain = name.rpartition("/")
    return Key("Gateway", place or namespace, plain)


def names_for(gateway: Key, namespace: str) -> tuple[str, ...]:
    """What a resource of `namespace` may call the gateway."""
    full = f"{gateway.namespace}/{gateway.name}"
    return (full, gateway.name) if gateway.namespace == namespace else (full,)


def common_hosts(offer: Offer, resource: Resource[VirtualService], world: World) -> list[str]:
    """The hosts that both the server and the VirtualService are for; of a name and a wildcard over it, the name."""
    namespace = resource.key.namespace
    found: dict[str, None] = {}
    for written in resource.value.spec.hosts:
        own = hosts.resolve(written, namespace, world.services)
        for place, host in offer.hosts:
            both = narrower(own, host) if place in {ANY_NAMESPACE, namespace} else None
            if both is not None:
                found[both] = None
    return list(found)


def narrower(one: str, other: str) -> str | None:
    """The narrower of two hosts, either of which may be a wildcard, if it lies within the wider; else None."""
    if covers(other, one):
        return one
    return other if covers(one, other) else None


def covers(wide: str, narrow: str) -> bool:
    """Whether `wide` (a name, `*.example.com`, `*`) stands for everything that `narrow` stands for."""
    if wide in {"*", narrow}:
        return True
    return wide.startswith("*.") and narrow.removeprefix("*").endswith(wide[1:]) and narrow != wide[2:]
