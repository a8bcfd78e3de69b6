"""RateLimit, ConcurrencyLimit and Check: targets that exist and speak HTTP, settings that mean something."""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from pymesh import names, policy_attributes
from pymesh.checks import LONGEST
from pymesh.resources.fields import seconds
from pymesh.resources.mesh_config import CONFIG_MAP
from pymesh.resources.policy import Check, ConcurrencyLimit, RateLimit
from pymesh.resources.resource import Resource
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.pilot.model import Problem, Service, World
from pymesh_controlplane.policy import sources
from pymesh_controlplane.policy.rules import PERIODS, POLICY_SERVICE, with_other_proxies
from pymesh_controlplane.wording import listed, near

# Requests per second that one policy service can be asked about with room to spare; every one is a question to it.
MAX_RATE: Final = 1_000_000
# Seconds that a function may take, for which sidecars wait longer than for other answers.
MAX_CHECK_TIME: Final = 0.1
AnyLimit: TypeAlias = Resource[RateLimit] | Resource[ConcurrencyLimit] | Resource[Check]


def check(resource: AnyLimit, world: World) -> list[Problem]:
    """What is wrong with a limit."""
    findings = Findings(resource)
    spec = resource.value.spec
    _check_targets(findings, resource, world)
    if spec.failure_mode != "LastDecision" and "otherwise" in _written(resource):
        findings.warning(
            "spec.otherwise",
            f"has no effect with failureMode {spec.failure_mode}: LastDecision falls back to it",
        )
    if POLICY_SERVICE not in world.services:
        findings.warning("spec", "no policy service runs in this mesh: sidecars do what failureMode says")
    if isinstance(resource.value, RateLimit):
        _check_rate(findings, resource.value, resource.key.namespace, world)
    elif isinstance(resource.value, Check):
        _check_function(findings, resource.value, world)
    else:
        _check_proxies(findings, resource.value, resource.key.namespace, world)
    return findings.problems


def _check_targets(findings: Findings, resource: AnyLimit, world: World) -> None:
    seen: set[str] = set()
    here = [service.name for service in world.services.values() if service.namespace == resource.key.namespace]
    for index, target in enumerate(resource.value.spec.target_refs):
        path = f"spec.targetRefs[{index}]"
        if target.name in seen:
            findings.error(f"{path}.name", f"Service {target.name} is named above already")
        seen.add(target.name)
        service = world.services.get(names.service_host(target.name, resource.key.namespace))
        if service is None:
            findings.warning(
                f"{path}.name",
                f"there is no Service {target.name} in namespace {resource.key.namespace}: it limits nothing there"
                f"{near(target.name, here)}",
            )
        else:
            _check_protocol(findings, path, service)


def _check_protocol(findings: Findings, path: str, service: Service) -> None:
    opaque = [port for port in service.ports if not port.protocol.may_be_http]
    if opaque and len(opaque) == len(service.ports):
        findings.warning(path, f"no port of Service {service.name} carries HTTP: there are no requests to count")


def _check_proxies(findings: Findings, limit: ConcurrencyLimit, namespace: str, world: World) -> None:
    if others := with_other_proxies(_hosts(limit, namespace), world):
        findings.warning(
            "spec.targetRefs", f"only pymesh-proxy can hold slots: the sidecars of {listed(others)} let in what comes"
        )


def _hosts(limit: ConcurrencyLimit | RateLimit, namespace: str) -> list[str]:
    return [names.service_host(target.name, namespace) for target in limit.spec.target_refs]


def _check_rate(findings: Findings, limit: RateLimit, namespace: str, world: World) -> None:
    spec = limit.spec
    if spec.requests / PERIODS[spec.per] > MAX_RATE:
        findings.error("spec.requests", f"more than {MAX_RATE} per second: nothing could keep count of that")
    if spec.burst is not None and spec.burst > spec.requests:
        findings.warning(
            "spec.burst",
            f"after a quiet time {spec.burst} come at once, more than the {spec.requests} per {spec.per}",
        )
    check_attributes(findings, "spec.by", spec.by)
    if spec.quota == "Leased" and spec.by:
        findings.error("spec.quota", "what is counted apart cannot be leased: leave it out, or say Asked")
    elif spec.quota == "Leased" and (others := with_other_proxies(_hosts(limit, namespace), world)):
        findings.warning(
            "spec.quota",
            f"only pymesh-proxy can hold leases: since {listed(others)} cannot, all ask about each request",
        )


def _check_function(findings: Findings, check: Check, world: World) -> None:
    spec, known = check.spec, sources.functions_of(sources.sources_of(world))
    if spec.function not in known:
        findings.warning(
            "spec.function",
            f"no key NAME.py of ConfigMap {world.root_namespace}/{CONFIG_MAP} has a function {spec.function} with "
            f"@check{near(spec.function, known)}: it is answered as failureMode says",
        )
    if not 0 < seconds(spec.timeout) <= MAX_CHECK_TIME:
        findings.error("spec.timeout", f"a function may take up to {MAX_CHECK_TIME * 1000:g}ms, not {spec.timeout}")
    if spec.remember is None:
        if spec.failure_mode == "LastDecision":
            findings.error(
                "spec.failureMode", "LastDecision needs spec.remember.by: what last answers are told apart by"
            )
        return
    if seconds(spec.remember.valid_for) > LONGEST:
        findings.error("spec.remember.for", f"nothing is remembered for more than 24h: {spec.remember.valid_for}")
    check_attributes(findings, "spec.remember.by", spec.remember.by)


def check_attributes(findings: Findings, path: str, names_of: Sequence[str]) -> None:
    """Report attributes that do not exist, and those that are named twice."""
    seen: set[policy_attributes.Named | str] = set()
    for index, name in enumerate(names_of):
        try:
            named = policy_attributes.parse(name)
        except ValueError as error:
            findings.error(f"{path}[{index}]", str(error))
            continue
        what = name if named.template is not None else named
        if what in seen:
            findings.error(f"{path}[{index}]", f"{name} is named above already")
        seen.add(what)


def _written(resource: AnyLimit) -> Mapping[str, object]:
    spec = resource.raw.get("spec")
    return spec if isinstance(spec, dict) else {}
