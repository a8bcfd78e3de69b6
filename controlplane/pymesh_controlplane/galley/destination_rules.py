"""DestinationRule: which host, which subsets, which policy."""

from collections.abc import Iterable, Iterator

from pymesh.resources.fields import seconds
from pymesh.resources.istio.destination_rule import (
    ClientTLSSettings,
    ConnectionPoolSettings,
    DestinationRule,
    TrafficPolicy,
)
from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.galley import resilience
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.pilot import hosts
from pymesh_controlplane.pilot.model import Problem, Service, World
from pymesh_controlplane.wording import listed, near


def check(resource: Resource[DestinationRule], missing: Iterable[tuple[Key, str]], world: World) -> list[Problem]:
    """Everything that is wrong with a DestinationRule in this world.

    Args:
        missing: subsets that it has not, and who routes to them.
    """
    findings = Findings(resource)
    spec = resource.value.spec
    namespace = resource.key.namespace
    findings.check_exported("spec.exportTo", spec.export_to)
    findings.check_host("spec.host", spec.host)
    full = hosts.resolve(spec.host, namespace, world.services)
    service = world.services.get(full)
    holder = world.rules.get(namespace, {}).get(full)
    if service is None and "*" not in full:
        findings.warning("spec.host", f"there is no service {full}: nothing follows it yet{near(full, world.services)}")
    if holder is not None and holder.key != resource.key:
        findings.warning("spec.host", f"{holder.key} already holds for {full}: this one has no effect. Put both in one")
    names = [subset.name for subset in spec.subsets]
    for index, subset in enumerate(spec.subsets):
        if subset.name in names[:index]:
            findings.error(f"spec.subsets[{index}].name", f"there are two subsets '{subset.name}'")
    for user, name in dict.fromkeys(missing):
        findings.warning("spec.subsets", f"{user} routes to the subset '{name}', which is not here: that gets a 503")
    for path, policy in _policies(resource.value):
        _check_policy(findings, policy, path, service)
    resilience.check(findings, _policies(resource.value), service, world)
    return findings.problems


def _policies(rule: DestinationRule) -> Iterator[tuple[str, TrafficPolicy]]:
    if rule.spec.traffic_policy is not None:
        yield "spec.trafficPolicy", rule.spec.traffic_policy
    for index, subset in enumerate(rule.spec.subsets):
        if subset.traffic_policy is not None:
            yield f"spec.subsets[{index}].trafficPolicy", subset.traffic_policy


def _check_policy(findings: Findings, policy: TrafficPolicy, path: str, service: Service | None) -> None:
    _check_pool(findings, policy.connection_pool, f"{path}.connectionPool")
    _check_tls(findings, policy.tls, f"{path}.tls")
    seen: set[int] = set()
    for index, settings in enumerate(policy.port_level_settings):
        here, number = f"{path}.portLevelSettings[{index}]", settings.port.number
        if number in seen:
            findings.error(f"{here}.port.number", f"there are settings for port {number} above already")
        seen.add(number)
        if service is not None and service.port(number) is None:
            ports = listed(port.port for port in service.ports)
            findings.dangling(f"{here}.port.number", f"{service.host} has no port {number}; it has {ports}")
        _check_pool(findings, settings.connection_pool, f"{here}.connectionPool")
        _check_tls(findings, settings.tls, f"{here}.tls")


def _check_pool(findings: Findings, pool: ConnectionPoolSettings | None, path: str) -> None:
    if pool is None or pool.tcp is None or pool.tcp.connect_timeout is None:
        return
    if seconds(pool.tcp.connect_timeout) < 0.001:
        findings.error(f"{path}.tcp.connectTimeout", "must be at least 1ms")


def _check_tls(findings: Findings, settings: ClientTLSSettings | None, path: str) -> None:
    if settings is None:
        return
    pair = {"clientCertificate": settings.client_certificate, "privateKey": settings.private_key}
    if settings.mode == "MUTUAL":
        for name, value in pair.items():
            if not value:
                findings.error(f"{path}.{name}", "mode MUTUAL needs the path of this file in the sidecar's container")
        return
    for name, value in pair.items():
        if value:
            findings.error(f"{path}.{name}", f"has no effect with mode {settings.mode}: write MUTUAL or remove it")
    if settings.mode in {"DISABLE", "ISTIO_MUTUAL"} and settings.ca_certificates:
        findings.error(f"{path}.caCertificates", f"has no effect with mode {settings.mode}: remove it")
