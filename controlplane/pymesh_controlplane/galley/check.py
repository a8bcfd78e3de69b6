"""Everything that is wrong with resources in the world that they make."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from envoy.config.route.v3 import route_components_pb2, route_pb2

from pymesh.resources.istio.authorization_policy import AuthorizationPolicy
from pymesh.resources.istio.destination_rule import DestinationRule
from pymesh.resources.istio.gateway import Gateway
from pymesh.resources.istio.peer_authentication import PeerAuthentication
from pymesh.resources.istio.request_authentication import RequestAuthentication
from pymesh.resources.istio.service_entry import ServiceEntry
from pymesh.resources.istio.virtual_service import VirtualService
from pymesh.resources.kubernetes import ConfigMap, EndpointSlice, Pod, Secret
from pymesh.resources.kubernetes import Service as KubernetesService
from pymesh.resources.policy import Check, ConcurrencyLimit, RateLimit
from pymesh.resources.resource import Key, Resource, holds
from pymesh_controlplane.galley import (
    authorization,
    destination_rules,
    gateways,
    limits,
    mesh_configs,
    request_authentication,
    secrets,
    services,
    taken_hosts,
    virtual_services,
)
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.galley.pods import Pods
from pymesh_controlplane.galley.selection import warn_of_nobody
from pymesh_controlplane.galley.supported import unsupported
from pymesh_controlplane.pilot import clusters, endpoints, guards, routes
from pymesh_controlplane.pilot.matching import ANYTHING
from pymesh_controlplane.pilot.memory import Memory
from pymesh_controlplane.pilot.model import Problem, Service, Severity, World
from pymesh_controlplane.pilot.policies import in_one_place, rule_for, selected_labels

# Stands in for the port of the caller where a route does not depend on it.
_SOME_PORT = 80


def check(
    resources: Iterable[Resource[object]], world: World, memory: Memory | None = None, *, now: datetime | None = None
) -> list[Problem]:
    """What is wrong with each of `resources`, all of which are in `world`; in their order.

    A resource with an error (`Severity.ERROR`) must not come into force. One without is translated to messages that
    the proxy supports: that is checked here too.

    Args:
        memory: what was found in an earlier world, so that only what has changed is translated and checked again.
        now: for what ends one day; without it, nothing is said of that.
    """
    found: list[Problem] = []
    memory = memory if memory is not None else Memory()
    memory.turn()
    concerned = _services_by_resource(world)
    missing = virtual_services.missing_subsets(world)
    pods = Pods(world)
    lost = taken_hosts.taken(world, pods)
    for resource in resources:
        problems = (
            secrets.check(resource, now) if holds(resource, Secret) else _check(resource, missing, world, pods, memory)
        )
        problems = problems + taken_hosts.check(resource, lost)
        if not any(problem.severity is Severity.ERROR for problem in problems):
            problems = problems + _check_translation(resource, concerned.get(resource.key, []), world, memory)
        found += problems
    return found


def _check(
    resource: Resource[object],
    missing: Mapping[Key, Iterable[tuple[Key, str]]],
    world: World,
    pods: Pods,
    memory: Memory,
) -> list[Problem]:
    if holds(resource, VirtualService):
        return virtual_services.check(resource, world)
    if holds(resource, DestinationRule):
        return destination_rules.check(resource, missing.get(resource.key, ()), world)
    if holds(resource, ServiceEntry):
        return services.check_entry(resource, world)
    # Of these there are thousands, and what is wrong with one is wrong in any world.
    if holds(resource, KubernetesService):
        problems = memory.call(services.check_service, resource.key, resource)
        return problems + services.check_external_ips(resource, world)
    if holds(resource, EndpointSlice):
        return memory.call(services.check_slice, resource.key, resource)
    if holds(resource, Pod):
        return memory.call(services.check_pod, resource.key, resource)
    if holds(resource, PeerAuthentication):
        return _check_authentication(resource, world, pods)
    if holds(resource, RequestAuthentication):
        return request_authentication.check(resource, world, pods)
    if holds(resource, AuthorizationPolicy):
        return authorization.check(resource, world, pods)
    if holds(resource, RateLimit) or holds(resource, ConcurrencyLimit) or holds(resource, Check):
        return limits.check(resource, world)
    if holds(resource, ConfigMap):
        return mesh_configs.check(resource, world)
    if holds(resource, Gateway):
        return gateways.check(resource, world, pods)
    return []


def _check_authentication(resource: Resource[PeerAuthentication], world: World, pods: Pods) -> list[Problem]:
    findings = Findings(resource)
    spec = resource.value.spec
    if selector := selected_labels(resource.value):
        # Unlike other policies, one of the root namespace is for pods of that namespace alone.
        path, namespace = "spec.selector.matchLabels", resource.key.namespace
        warn_of_nobody(findings, path, namespace, pods, lambda _, labels: selector.items() <= labels.items())
        return findings.problems
    if spec.port_level_mtls:
        findings.error("spec.portLevelMtls", "ports belong to a workload: say which by spec.selector.matchLabels")
    first = in_one_place(world.peer_authentications).get(resource.key.namespace, [resource])[0]
    if first.key != resource.key:
        findings.warning("spec", f"{first.key} already holds for the whole namespace: this one has no effect")
    return findings.problems


# --- What the proxy would say --------------------------------------------------------------------------------------


def _services_by_resource(world: World) -> dict[Key, list[Service]]:
    """The services whose clusters a resource has a say in: its own, or those that a rule is for."""
    found: dict[Key, list[Service]] = {}
    for service in world.services.values():
        found.setdefault(service.resource.key, []).append(service)
        for namespace in world.rules:
            rule = rule_for(service, namespace, world)
            if rule is not None and rule.key.namespace == namespace:
                found.setdefault(rule.key, []).append(service)
    return found


def _check_translation(
    resource: Resource[object], concerned: Iterable[Service], world: World, memory: Memory
) -> list[Problem]:
    """Translate the resource as pilot does, and hold the result against the table of what the proxy supports."""
    findings = Findings(resource)
    if holds(resource, VirtualService):
        targets = routes.targets(resource, world)
        for path, reason in memory.call(_unsupported_routes, resource.key, resource, targets):
            findings.error(path, reason)
    if holds(resource, RequestAuthentication):
        for reason in memory.call(request_authentication.refused, resource.key, resource):
            findings.error("spec", reason)
    if holds(resource, AuthorizationPolicy):
        settings = guards.settings(world, ours=True)
        for reason in memory.call(authorization.refused, resource.key, resource, settings):
            findings.error("spec", reason)
    for service in concerned:
        rule = rule_for(service, resource.key.namespace, world)
        name = (service.host, rule.key if rule is not None else None)
        for reason in memory.call(_unsupported_clusters, name, service, rule, endpoints.behind(service, world)):
            findings.error("spec", reason)
    return findings.problems


def _unsupported_routes(resource: Resource[VirtualService], targets: routes.Targets) -> list[tuple[str, str]]:
    """What the proxy would refuse of a VirtualService, by field path."""
    found: list[tuple[str, str]] = []
    for index, http in enumerate(resource.value.spec.http):
        for match in http.match or [ANYTHING]:
            route = routes.route_for(resource, index, match, match.port or _SOME_PORT, targets)
            host = route_components_pb2.VirtualHost(name="check", domains=["*"], routes=[route])
            message = route_pb2.RouteConfiguration(name="check", virtual_hosts=[host])
            found += [(f"spec.http[{index}]", reason) for reason in unsupported([message])]
    return found


def _unsupported_clusters(
    service: Service, rule: Resource[DestinationRule] | None, behind: endpoints.Behind
) -> list[str]:
    """What the proxy would refuse of the clusters of a service."""
    return unsupported(clusters.outbound(service, rule, behind))
