"""DestinationRule consistentHash, tcp.idleTimeout → what routes and TCP proxies say of the clusters they lead to. Pure.

Which endpoint a key leads to is for the cluster to say; what the key of a request is, its route says. So this is put
into routes and listeners when they are put together, by the names of the clusters in them.

Source: Istio's translation (pilot/pkg/networking/core/route, getHashPolicy).
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from pymesh import names
from pymesh.resources.fields import seconds
from pymesh.resources.istio.destination_rule import ConsistentHashLB
from pymesh.xds import types
from pymesh_controlplane.pilot.clusters import opaque_cluster
from pymesh_controlplane.pilot.messages import duration, packed
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.policies import Policy, parts_of, policies_of, policy_for, rule_for

_HashPolicy = route_components_pb2.RouteAction.HashPolicy


class Leads(NamedTuple):
    """What holds for who goes to a cluster. `requests` is a HashPolicy, serialized; empty for none."""

    requests: bytes = b""
    by_source: bool = False  # of opaque connections: the caller's address is the key
    idle_timeout: float | None = None  # of opaque connections, seconds; 0 for none


# By name of the cluster; only those for which something holds.
Hashed: TypeAlias = Mapping[str, Leads]


def hashed(namespace: str, world: World) -> Hashed:
    """For callers in `namespace`."""
    if not any(_leads(policy) != Leads() for rule in world.destination_rules for policy in policies_of(rule.value)):
        return {}
    found: dict[str, Leads] = {}
    for service in world.services.values():
        rule = rule_for(service, namespace, world)
        for port in service.ports if rule is not None else ():
            for subset in parts_of(rule):
                leads = _leads(policy_for(rule, port.port, subset))
                if leads != Leads():
                    name = subset.name if subset is not None else ""
                    found[names.outbound_cluster(port.port, service.host, name)] = leads
                    found[opaque_cluster(port.port, service.host, name)] = leads
    return found


def named(clusters: Hashed, names: Iterable[str]) -> Hashed:
    """Those of `clusters` that are called so."""
    return {name: clusters[name] for name in names if name in clusters}


def named_by_routes(hosts: Iterable[route_components_pb2.VirtualHost]) -> tuple[str, ...]:
    """The clusters to which `hosts` lead, each once, ordered."""
    return tuple(sorted({name for host in hosts for route in host.routes for name in _targets(route.route)}))


def named_by_chains(chains: Iterable[listener_components_pb2.FilterChain]) -> tuple[str, ...]:
    """The clusters to which the TCP proxies of `chains` lead, each once, ordered."""
    opaque = (
        tcp_proxy_pb2.TcpProxy.FromString(item.typed_config.value)
        for chain in chains
        for item in chain.filters
        if item.typed_config.type_url == types.TCP_PROXY
    )
    return tuple(sorted({name for proxy in opaque for name in _targets(proxy)}))


def _targets(to: route_components_pb2.RouteAction | tcp_proxy_pb2.TcpProxy) -> list[str]:
    return [choice.name for choice in to.weighted_clusters.clusters] or [to.cluster]


def put_into_routes(message: route_pb2.RouteConfiguration, clusters: Hashed) -> None:
    """Let the routes to `clusters` say what the keys of their requests are."""
    if not clusters:
        return
    for host in message.virtual_hosts:
        for route in host.routes:
            action = route.route
            for policy in _distinct(clusters[name].requests for name in _targets(action) if name in clusters):
                action.hash_policy.append(_HashPolicy.FromString(policy))


def put_into_connections(message: listener_pb2.Listener, clusters: Hashed) -> None:
    """Let the TCP proxies to `clusters` say what the keys of their connections are, and how long these may idle."""
    for chain in message.filter_chains if clusters else ():
        for item in chain.filters:
            if item.typed_config.type_url == types.TCP_PROXY:
                opaque = tcp_proxy_pb2.TcpProxy.FromString(item.typed_config.value)
                leads = [clusters[name] for name in _targets(opaque) if name in clusters]
                if any(lead.by_source for lead in leads):
                    opaque.hash_policy.add().source_ip.SetInParent()
                for lead in leads[:1]:
                    if lead.idle_timeout is not None:
                        opaque.idle_timeout.CopyFrom(duration(lead.idle_timeout))
                item.typed_config.CopyFrom(packed(opaque))


def _distinct(policies: Iterable[bytes]) -> list[bytes]:
    return [policy for policy in dict.fromkeys(policies) if policy]


def _leads(policy: Policy) -> Leads:
    pool = policy.connection_pool
    written = pool.tcp.idle_timeout if pool is not None and pool.tcp is not None else None
    idle = seconds(written) if written is not None else None
    settings = policy.consistent_hash
    if settings is None:
        return Leads(idle_timeout=idle)
    return Leads(_requests(settings).SerializeToString(deterministic=True), bool(settings.use_source_ip), idle)


def _requests(settings: ConsistentHashLB) -> _HashPolicy:
    found = _HashPolicy()
    if settings.http_header_name is not None:
        found.header.header_name = settings.http_header_name
    elif settings.http_cookie is not None:
        cookie = settings.http_cookie
        found.cookie.name, found.cookie.path = cookie.name, cookie.path
        if cookie.ttl is not None:
            found.cookie.ttl.CopyFrom(duration(seconds(cookie.ttl)))
        for attribute in cookie.attributes:
            found.cookie.attributes.add(name=attribute.name, value=attribute.value)
    elif settings.http_query_parameter_name is not None:
        found.query_parameter.name = settings.http_query_parameter_name
    elif settings.use_source_ip:
        found.connection_properties.source_ip = True
    return found
