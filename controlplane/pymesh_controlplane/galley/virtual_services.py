"""VirtualService: which hosts, by which gateways, to which destinations."""

from collections.abc import Iterator

from pymesh.resources.istio.virtual_service import Destination, HTTPRoute, VirtualService
from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.galley import connection_routes, gateways, http_routes
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.pilot import hosts, matching, precedence
from pymesh_controlplane.pilot.model import Problem, World
from pymesh_controlplane.pilot.policies import rule_for, subset_of
from pymesh_controlplane.wording import listed

_MAX_WEIGHTS = 2**32 - 1  # sum of the weights of a route (envoy.config.route.v3.WeightedCluster)


def check(resource: Resource[VirtualService], world: World) -> list[Problem]:
    """Everything that is wrong with a VirtualService in this world."""
    findings = Findings(resource)
    spec = resource.value.spec
    findings.check_exported("spec.exportTo", spec.export_to)
    _check_gateways(findings, resource, world)
    _check_hosts(findings, resource, world)
    gateways.check_bound(findings, resource, world)
    if not spec.http and not spec.tls and not spec.tcp:
        findings.error("spec.http", "there is no route: write at least one below spec.http, spec.tls or spec.tcp")
    for index, http in enumerate(spec.http):
        http_routes.check(findings, http, f"spec.http[{index}]")
    connection_routes.check(findings, resource, world)
    for path, route in spec.routes():
        _check_weights(findings, path, [item.weight for item in route.route])
    for path, destination in spec.destinations():
        _check_destination(findings, resource, destination, path, world)
    _check_reachable(findings, spec.http)
    return findings.problems


def missing_subsets(world: World) -> dict[Key, list[tuple[Key, str]]]:
    """By DestinationRule, the subsets that it has not, each with the VirtualService that routes to it."""
    found: dict[Key, list[tuple[Key, str]]] = {}
    for resource in world.virtual_services:
        for _, destination in resource.value.spec.destinations():
            full = hosts.destination(destination.host, resource.key.namespace, world)
            if not destination.subset or full not in world.services:
                continue
            rule = rule_for(world.services[full], resource.key.namespace, world)
            if rule is not None and subset_of(rule, destination.subset) is None:
                found.setdefault(rule.key, []).append((resource.key, destination.subset))
    return found


def _check_gateways(findings: Findings, resource: Resource[VirtualService], world: World) -> None:
    known = [str(gateway.key).removeprefix("Gateway ") for gateway in world.gateways]
    for path, name in _gateways(resource.value):
        if name == "mesh":
            continue
        namespace, _, plain = name.rpartition("/")
        if Key("Gateway", namespace or resource.key.namespace, plain) not in world.resources:
            findings.dangling(
                path, f"there is no Gateway {name}; known: {listed(known)}{findings.near(name, [*known, 'mesh'])}"
            )


def _gateways(virtual: VirtualService) -> Iterator[tuple[str, str]]:
    for index, name in enumerate(virtual.spec.gateways):
        yield f"spec.gateways[{index}]", name
    for path, match in virtual.spec.matches():
        for index, name in enumerate(match.gateways):
            yield f"{path}.gateways[{index}]", name


def _check_hosts(findings: Findings, resource: Resource[VirtualService], world: World) -> None:
    spec = resource.value.spec
    in_mesh = not spec.gateways or "mesh" in spec.gateways
    for index, host in enumerate(spec.hosts):
        path = f"spec.hosts[{index}]"
        findings.check_host(path, host)
        if not in_mesh:
            continue
        if host == "*":
            findings.error(path, "'*' would route everything that leaves any pod: name the hosts")
            continue
        full = hosts.resolve(host, resource.key.namespace, world.services)
        holder = world.routing.get(full)
        if holder is not None and holder.key != resource.key:
            owner = precedence.owner(full, world.services)
            ranks = (precedence.rank(item, owner, world.root_namespace) for item in (holder, resource))
            why = precedence.reason(*ranks)
            findings.warning(path, f"{host} is already routed by {holder.key}, {why}: this one has no effect for it")
        service = world.services.get(full)
        if service is None and "*" not in full:
            effect = "routed only where a caller names it so" if spec.http else "no sidecar takes its connections"
            findings.warning(path, f"there is no service {full}: {effect}{findings.near(full, world.services)}")
        elif service is not None and spec.http and not any(port.protocol.may_be_http for port in service.ports):
            findings.warning(
                path, f"no port of {full} speaks HTTP/1.1, so no route applies: name such a port http or http-something"
            )


def _check_weights(findings: Findings, path: str, weights: list[int]) -> None:
    if len(weights) > 1:
        total = sum(weights)
        if total == 0:
            findings.error(f"{path}.route", "the weights add up to 0: no destination gets anything")
        if total > _MAX_WEIGHTS:
            findings.error(f"{path}.route", f"the weights add up to {total}, more than {_MAX_WEIGHTS}")


def _check_destination(
    findings: Findings, resource: Resource[VirtualService], destination: Destination, path: str, world: World
) -> None:
    namespace = resource.key.namespace
    full = hosts.destination(destination.host, namespace, world)
    service = world.services.get(full)
    if service is None:
        names = (name for other in world.services.values() for name in hosts.short_names(other, namespace))
        findings.dangling(f"{path}.host", f"there is no service {full}{findings.near(destination.host, names)}")
        return
    numbers = [port.port for port in service.ports]
    if destination.port is not None and destination.port.number not in numbers:
        sentence = f"{full} has no port {destination.port.number}; it has {listed(numbers)}"
        findings.dangling(f"{path}.port.number", sentence)
    elif destination.port is None and len(numbers) > 1:
        own = [hosts.resolve(host, namespace, world.services) for host in resource.value.spec.hosts]
        at_gateway = any(name != "mesh" for name in resource.value.spec.gateways)
        if full not in own or at_gateway:  # a gateway's port says nothing of the service's
            findings.dangling(f"{path}.port", f"{full} has several ports ({listed(numbers)}): say which")
    if destination.subset:
        rule = rule_for(service, namespace, world)
        if rule is None:
            findings.dangling(
                f"{path}.subset", f"no DestinationRule defines subsets of {full}: write one for this host"
            )
        elif subset_of(rule, destination.subset) is None:
            known = [subset.name for subset in rule.value.spec.subsets]
            findings.dangling(
                f"{path}.subset",
                f"{rule.key} has no subset '{destination.subset}'{findings.near(destination.subset, known)}; "
                f"it has {listed(known)}",
            )


def _check_reachable(findings: Findings, routes: list[HTTPRoute]) -> None:
    for index, http in enumerate(routes[:-1]):
        catches_all = not http.match or any(_takes_everything(http, position) for position in range(len(http.match)))
        if catches_all:
            findings.warning(
                f"spec.http[{index + 1}]", f"no request gets here: spec.http[{index}] takes them all. Put it last"
            )
            return


def _takes_everything(http: HTTPRoute, position: int) -> bool:
    match = http.match[position]
    narrowed = match.port or match.source_labels or match.source_namespace or match.gateways
    return matching.is_catch_all(match) and not narrowed
