"""World + node → everything that one proxy is to know. Pure and deterministic.

Little of it is the node's own. Clusters and endpoints depend on the namespace of the caller, routes on that and on the
labels that some route asks for, the outbound listener on nothing of it. So a `Translation` makes each of these once
for all proxies, out of pieces (the clusters of one service, its virtual host on one port ...) that a `Memory` keeps
from one world to the next: after a change only what it concerns is made, serialized and hashed again.
"""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Final, NamedTuple

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from google.protobuf.message import Message

from pymesh.peer_metadata import ServiceFacts
from pymesh.resources.istio.destination_rule import DestinationRule
from pymesh.resources.resource import Resource as Written
from pymesh.xds import types
from pymesh_controlplane.pilot import (
    callers,
    clusters,
    endpoints,
    gateway_listeners,
    gateway_routes,
    gateways,
    guards,
    hashing,
    listeners,
    localities,
    policy_filters,
    routes,
)
from pymesh_controlplane.pilot.callers import Caller
from pymesh_controlplane.pilot.clusters import Viewpoint
from pymesh_controlplane.pilot.credentials import secrets
from pymesh_controlplane.pilot.endpoints import Behind
from pymesh_controlplane.pilot.filters import Before
from pymesh_controlplane.pilot.gateways import ROUTER, Offer
from pymesh_controlplane.pilot.guards import SecurityPolicies
from pymesh_controlplane.pilot.hashing import Hashed
from pymesh_controlplane.pilot.listener_settings import ListenerSettings, listener_settings, put_into
from pymesh_controlplane.pilot.memory import Memory
from pymesh_controlplane.pilot.model import NOWHERE, Locality, Service, ServicePort, World
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.outbound import plan as outbound_plan
from pymesh_controlplane.pilot.policies import PeerModes, rule_for
from pymesh_controlplane.pilot.policy_filters import PortLimits
from pymesh_controlplane.pilot.session import Snapshot
from pymesh_controlplane.pilot.subscription import Resource, Resources, digest_of
from pymesh_controlplane.policy.rules import Rule, rules_by_host

SIDECAR: Final = "sidecar"

# Snapshots after which what only earlier callers needed is forgotten, even if the world stays. Namespace and labels are
# what a proxy says they are: without a bound, whoever reaches the plaintext port could fill pilot's memory with routes.
MAX_SNAPSHOTS: Final = 200


class Translator:
    """Translates world after world. For one thread at a time."""

    def __init__(self) -> None:
        self._memory = Memory()
        self._current: Translation | None = None
        self._left = 0

    def snapshot(self, node: Node, world: World) -> Snapshot:
        """All listeners, route configurations, clusters and endpoint assignments of `node`.

        The keys of the outer mapping are the type URLs of these four, and of secrets for gateways; those of the inner
        one, sorted, are the names under which the proxy asks for them. The same node and world give the same bytes,
        whatever was translated before. Every route configuration and endpoint assignment that a listener or a cluster
        here names is here too. What is as it was in the world before is the same object.

        A `router` gets what its gateways offer; a node of any other kind nothing.
        """
        if self._current is None or self._current.world is not world or not self._left:
            self._memory.turn()
            self._current = Translation(world, self._memory)
            self._left = MAX_SNAPSHOTS
        self._left -= 1
        return self._current.snapshot(node)


class _Outbound(NamedTuple):
    """How callers in one namespace reach the services."""

    clusters: Resources
    endpoints: Resources


class Translation:
    """One world, translated for one node after the other."""

    def __init__(self, world: World, memory: Memory) -> None:
        self.world = world
        self._memory = memory
        self._outbound: dict[tuple[str, Viewpoint], _Outbound] = {}
        self._hashed: dict[str, Hashed] = {}
        self._routes: dict[Caller, Resources] = {}
        self._listeners: dict[tuple[Caller, ListenerSettings], Resource] = {}

    def snapshot(self, node: Node) -> Snapshot:
        """See `Translator.snapshot`."""
        node = self._with_labels(node)
        if node.kind == ROUTER:
            return self._gateway(node)
        if node.kind != SIDECAR:
            return {types.CLUSTER: {}, types.ENDPOINT: {}, types.LISTENER: {}, types.ROUTE: {}}
        services = listeners.inbound_services(node, self.world)
        ports = listeners.inbound_ports(node, self.world, services)
        held = policy_filters.limits(services, self._limits, ours=node.ours)
        outbound = self._outbound_of(node.namespace, Viewpoint(locality=self._locality_of(node)))
        own = [self._inbound_cluster(port.number, services.get(port.number, ())) for port in ports]
        everywhere = self._memory.call(_everywhere, None)
        caller = callers.caller_of(node, self._asked_labels)
        settings = listener_settings(node, self.world)
        return {
            types.CLUSTER: _sorted([*outbound.clusters.values(), *everywhere, *own]),
            types.ENDPOINT: outbound.endpoints,
            types.LISTENER: _sorted(
                [self._inbound_listener(node, ports, held, settings), self._outbound_listener_of(caller, settings)]
            ),
            types.ROUTE: self._routes_of(caller),
        }

    def _gateway(self, node: Node) -> Snapshot:
        """What a gateway's pod offers, and the way to every service."""
        offers = gateways.offers(node, self.world)
        outbound = self._outbound_of(node.namespace, Viewpoint(gateway=True, locality=self._locality_of(node)))
        everywhere = self._memory.call(_everywhere, None)
        caller = callers.caller_of(node, self._asked_labels)
        settings = listener_settings(node, self.world)
        offered = [offer for some in offers.by_port.values() for offer in some]
        tables: dict[str, list[Offer]] = {}
        for offer in (offer for offer in offered if not offer.opaque):
            tables.setdefault(gateway_listeners.route_name(offer), []).append(offer)
        return {
            types.CLUSTER: _sorted([*outbound.clusters.values(), *everywhere]),
            types.ENDPOINT: outbound.endpoints,
            types.LISTENER: _sorted(
                resource
                for port, some in offers.by_port.items()
                for resource in self._gateway_listener(node, port, some, caller, settings)
            ),
            types.ROUTE: _sorted(self._gateway_routes(name, some, caller) for name, some in tables.items()),
            types.SECRET: _sorted(encoded(item.name, item) for item in secrets(node, offered, self.world)),
        }

    def _gateway_listener(
        self, node: Node, port: int, offers: tuple[Offer, ...], caller: Caller, settings: ListenerSettings
    ) -> tuple[Resource, ...]:
        servers = gateway_listeners.served(offers, self._bound, caller, self.world)
        who, before = self._before(node)
        hashed = self._hashed_for(caller.namespace)
        if hashed:
            name = (servers, caller.namespace)
            hashed = hashing.named(hashed, self._memory.call(_named_by_gateway, name, port, servers))
        return self._memory.call(_gateway_listener, (servers, settings, who), port, servers, settings, hashed, before)

    def _gateway_routes(self, name: str, offers: Iterable[Offer], caller: Caller) -> Resource:
        plans = gateway_routes.plan(offers, self._bound, caller, self.world)
        hosts = tuple(self._memory.call(gateway_routes.virtual_host, (name, plan.host, caller), plan) for plan in plans)
        hashed = self._hashed_in(hosts, (name, caller), caller)
        return self._memory.call(_gateway_configuration, (name, caller), name, hosts, hashed)

    @cached_property
    def _bound(self) -> gateway_routes.Bound:
        return gateways.bound(self.world)

    def _with_labels(self, node: Node) -> Node:
        """The node with the labels of its pod: as Kubernetes knows them, else as the proxy itself says."""
        workload = self.world.workload_at(node.addresses)
        return node if workload is None else replace(node, labels=workload.labels)

    def _locality_of(self, node: Node) -> Locality:
        """Where the node stands, if any rule makes a difference of that."""
        if not self._localities_matter:
            return NOWHERE
        workload = self.world.workload_at(node.addresses)
        return NOWHERE if workload is None else workload.locality

    def _hashed_for(self, namespace: str) -> Hashed:
        if namespace not in self._hashed:
            self._hashed[namespace] = hashing.hashed(namespace, self.world)
        return self._hashed[namespace]

    def _hashed_in(self, hosts: tuple[VirtualHost, ...], name: Hashable, caller: Caller) -> Hashed:
        """What holds for the clusters that `hosts` name: so a table is not made again for what it does not name."""
        hashed = self._hashed_for(caller.namespace)
        return hashing.named(hashed, self._memory.call(hashing.named_by_routes, name, hosts)) if hashed else hashed

    def _outbound_of(self, namespace: str, viewpoint: Viewpoint) -> _Outbound:
        whose = (namespace, viewpoint)
        if whose not in self._outbound:
            found_clusters: list[Resource] = []
            found_endpoints: list[Resource] = []
            for service in self.world.services.values():
                rule = rule_for(service, namespace, self.world)
                # All other services are the same to gateways and to sidecars.
                nearby = rule is not None and localities.matter(rule.value)
                view = Viewpoint(viewpoint.gateway and service.headless, viewpoint.locality if nearby else NOWHERE)
                name = (service.host, rule.key if rule is not None else None, view)
                behind = endpoints.behind(service, self.world)
                found_clusters += self._memory.call(_clusters, name, service, rule, behind, view)
                found_endpoints += self._memory.call(_assignments, name, service, rule, behind, view)
            self._outbound[whose] = _Outbound(_sorted(found_clusters), _sorted(found_endpoints))
        return self._outbound[whose]

    def _inbound_cluster(self, port: int, behind: Iterable[tuple[Service, ServicePort]]) -> Resource:
        services = tuple(dict.fromkeys(service.facts for service, _ in behind))
        return self._memory.call(_inbound_cluster, (port, services), port, services)

    def _inbound_listener(
        self,
        node: Node,
        ports: tuple[listeners.InboundPort, ...],
        held: tuple[PortLimits, ...],
        settings: ListenerSettings,
    ) -> Resource:
        modes = listeners.inbound_modes(node, self.world)
        who, before = self._before(node)
        name = (ports, held, settings, who, modes.default, *modes.by_port.items())  # many pods are alike in this
        return self._memory.call(_inbound_listener, name, ports, modes, held, settings, before)

    def _before(self, node: Node) -> tuple[Hashable, Before]:
        """What everything that comes in passes first, and a name for it."""
        found = self._security.guards(node)
        return found.name, self._memory.call(guards.before, found.name, found)

    @cached_property
    def _security(self) -> SecurityPolicies:
        return SecurityPolicies(self.world)

    def _outbound_listener_of(self, caller: Caller, settings: ListenerSettings) -> Resource:
        who = caller if self._connections_ask else callers.ANYBODY
        hashed = self._hashed_for(caller.namespace)
        if hashed:  # the rules that say so may be others in another namespace
            who = who._replace(namespace=caller.namespace)
        name = (who, settings)
        if name not in self._listeners:
            chains: list[FilterChain] = []
            for port, http, opaque in outbound_plan(who, self.world):
                if http:
                    chains += self._memory.call(listeners.http_chains, port, port)
                for to in opaque:
                    chains += self._memory.call(listeners.opaque_chains, to, to)
            only = self.world.mesh.registry_only
            if hashed:
                hashed = hashing.named(hashed, self._memory.call(hashing.named_by_chains, name, tuple(chains)))
            self._listeners[name] = self._memory.call(_outbound_listener, name, tuple(chains), only, settings, hashed)
        return self._listeners[name]

    @cached_property
    def _limits(self) -> dict[str, tuple[Rule, ...]]:
        return rules_by_host(self.world)

    @cached_property
    def _localities_matter(self) -> bool:
        return any(localities.matter(rule.value) for rule in self.world.destination_rules)

    @cached_property
    def _connections_ask(self) -> bool:
        return callers.matter_to_connections(self.world)

    @cached_property
    def _asked_labels(self) -> frozenset[str]:
        return callers.asked_labels(self.world)

    def _routes_of(self, caller: Caller) -> Resources:
        if caller not in self._routes:
            only = self.world.mesh.registry_only
            found: list[Resource] = []
            for port, plans in routes.plans(caller, self.world).items():
                name, hosts = (port, caller), tuple(self._virtual_hosts(plans))
                hashed = self._hashed_in(hosts, name, caller)
                found.append(self._memory.call(_configuration, name, port, hosts, only, hashed))
            self._routes[caller] = _sorted(found)
        return self._routes[caller]

    def _virtual_hosts(self, plans: Iterable[routes.Plan]) -> Iterator[VirtualHost]:
        for plan in plans:
            name = (plan.port, plan.host, plan.domains, plan.caller)  # the same for most namespaces
            yield self._memory.call(routes.virtual_host, name, plan)


# --- The pieces that are kept, serialized --------------------------------------------------------------------------


def _everywhere() -> tuple[Resource, ...]:
    return tuple(encoded(cluster.name, cluster) for cluster in clusters.everywhere())


def _inbound_cluster(port: int, services: tuple[ServiceFacts, ...]) -> Resource:
    cluster = clusters.inbound(port, services)
    return encoded(cluster.name, cluster)


def _clusters(
    service: Service, rule: Written[DestinationRule] | None, behind: Behind, viewpoint: Viewpoint
) -> tuple[Resource, ...]:
    found = clusters.outbound(service, rule, behind, viewpoint)
    return tuple(encoded(cluster.name, cluster) for cluster in found)


def _assignments(
    service: Service, rule: Written[DestinationRule] | None, behind: Behind, viewpoint: Viewpoint
) -> tuple[Resource, ...]:
    found = clusters.assignments(service, rule, behind, viewpoint)
    return tuple(encoded(item.cluster_name, item) for item in found)


def _inbound_listener(
    ports: tuple[listeners.InboundPort, ...],
    modes: PeerModes,
    held: tuple[PortLimits, ...],
    settings: ListenerSettings,
    before: Before,
) -> Resource:
    return _listener(listeners.virtual_inbound(ports, modes, held, before), settings)


def _outbound_listener(
    chains: tuple[FilterChain, ...], registry_only: bool, settings: ListenerSettings, hashed: Hashed
) -> Resource:
    message = listeners.virtual_outbound(chains, registry_only)
    hashing.put_into_connections(message, hashed)
    return _listener(message, settings)


def _configuration(port: int, virtual_hosts: tuple[VirtualHost, ...], registry_only: bool, hashed: Hashed) -> Resource:
    message = routes.configuration(port, virtual_hosts, registry_only)
    hashing.put_into_routes(message, hashed)
    return encoded(str(port), message)


def _gateway_listener(
    port: int, servers: tuple[gateway_listeners.Served, ...], settings: ListenerSettings, hashed: Hashed, before: Before
) -> tuple[Resource, ...]:
    message = gateway_listeners.listener(port, servers, before)
    if message is None:
        return ()
    hashing.put_into_connections(message, hashed)
    return (_listener(message, settings),)


def _named_by_gateway(port: int, servers: tuple[gateway_listeners.Served, ...]) -> tuple[str, ...]:
    message = gateway_listeners.listener(port, servers)
    return () if message is None else hashing.named_by_chains(message.filter_chains)


def _listener(message: Listener, settings: ListenerSettings) -> Resource:
    put_into(message, settings)
    return encoded(message.name, message)


def _gateway_configuration(name: str, virtual_hosts: tuple[VirtualHost, ...], hashed: Hashed) -> Resource:
    message = gateway_routes.configuration(name, virtual_hosts)
    hashing.put_into_routes(message, hashed)
    return encoded(name, message)


def encoded(name: str, message: Message) -> Resource:
    """`message` as it travels."""
    body = message.SerializeToString(deterministic=True)
    return Resource(name, digest_of(body), body, _needs(message))


def _needs(message: Message) -> str:
    """The endpoint assignment that a cluster waits for."""
    if not isinstance(message, Cluster) or message.type != Cluster.EDS:
        return ""
    return message.eds_cluster_config.service_name or message.name


def _sorted(resources: Iterable[Resource]) -> dict[str, Resource]:
    return {resource.name: resource for resource in sorted(resources, key=lambda resource: resource.name)}
