"""World → rules: what is limited, for which services, and who may ask. Pure.

A rule is named `ConcurrencyLimit bookinfo/reviews`, everywhere: in the sidecar's filter, in leases and checks, in what
a refused caller reads.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from pymesh import names
from pymesh.resources.fields import seconds
from pymesh.resources.kubernetes import Pod
from pymesh.resources.policy import Check, ConcurrencyLimit, RateLimit, TargetRef
from pymesh.resources.resource import Key, Resource, holds
from pymesh_controlplane.injector.settings import ANNOTATION_PROXY
from pymesh_controlplane.pilot.model import Service, Workload, World

# Seconds of each `per`.
PERIODS: Final = {"Second": 1, "Minute": 60, "Hour": 3600, "Day": 86_400}

POLICY_SERVICE: Final = names.service_host("policy", names.SYSTEM_NAMESPACE)

FailureMode = Literal["Open", "Closed", "LastDecision"]
Otherwise = Literal["Open", "Closed"]
Quota = Literal["Leased", "Asked"]


@dataclass(frozen=True, slots=True)
class Rate:
    """`requests` in `period` seconds, `burst` of them at once; counted apart for each value of the attributes `by`.

    `quota`: whether sidecars lease shares of it or ask for each request; whatever suits it if that is not said.
    """

    requests: int
    period: int
    burst: int
    by: tuple[str, ...] = ()
    quota: Quota | None = None


@dataclass(frozen=True, slots=True)
class Slots:
    """`max` requests at once."""

    max: int


@dataclass(frozen=True, slots=True)
class Memory:
    """How an answer may be used again: for so many seconds, for `uses` requests in all (any number if it is None)."""

    seconds: float
    uses: int | None
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """A function in Python, which may take `timeout` seconds; `memory` of its answers, where they do not say theirs."""

    function: str
    timeout: float
    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A limit in force.

    Attributes:
        hosts: full names of the services that it is for, sorted, whether they exist or not.
        dry_run: whom it would refuse is counted and let in.
    """

    name: str
    hosts: tuple[str, ...]
    limit: Rate | Slots | Code
    failure_mode: FailureMode
    otherwise: Otherwise
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of a world.

    Attributes:
        epoch: names exactly these rules; another set has another.
        by_name: sorted.
        accounts: SPIFFE identities of the workloads behind each rule's services: who may ask about it.
        pods: those that have a sidecar of ours, as `pod.namespace`: who may hold slots of it.
        owners: of these pods, the account that each runs as.
    """

    epoch: str = ""
    by_name: Mapping[str, Rule] = field(default_factory=dict)
    accounts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    pods: Mapping[str, frozenset[str]] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)


def rules_of(world: World) -> Rules:
    """The rules that are in force in `world`."""
    rules = {rule.name: rule for rule in sorted(_rules(world), key=lambda rule: rule.name)}
    digest = hashlib.sha256(repr(list(rules.values())).encode()).hexdigest()[:16]
    accounts: dict[str, frozenset[str]] = {}
    pods: dict[str, frozenset[str]] = {}
    owners: dict[str, str] = {}
    for name, rule in rules.items():
        services = [world.services[host] for host in rule.hosts if host in world.services]
        accounts[name] = frozenset(account for service in services for account in service.accounts)
        behind = {
            f"{workload.name}.{workload.namespace}": str(workload.identity(world.trust_domain))
            for workload in world.workloads.values()
            if workload.mesh and any(is_behind(workload, service, world) for service in services)
        }
        pods[name] = frozenset(behind)
        owners |= behind
    return Rules(digest if rules else "", rules, accounts, pods, owners)


def replicas_of(world: World) -> int:
    """How many replicas of the policy service there are, as far as the world tells."""
    return len(world.endpoints.get((POLICY_SERVICE, names.PORT_MESH_GRPC), ()))


def is_behind(workload: Workload, service: Service, world: World) -> bool:
    """Whether requests to `service` may come to `workload`: it is selected, or is an endpoint without selector."""
    if service.selector:
        return service.namespace == workload.namespace and service.selector.items() <= workload.labels.items()
    return any(
        endpoint.address == workload.ip
        for port in service.ports
        for endpoint in world.endpoints.get((service.host, port.port), ())
    )


def rules_by_host(world: World) -> dict[str, tuple[Rule, ...]]:
    """The rules for each service that has some, by name."""
    found: dict[str, list[Rule]] = {}
    for rule in sorted(_rules(world), key=lambda rule: rule.name):
        for host in rule.hosts:
            found.setdefault(host, []).append(rule)
    return {host: tuple(rules) for host, rules in found.items()}


def with_other_proxies(hosts: Iterable[str], world: World) -> list[str]:
    """The pods behind the services `hosts` whose sidecars are not pymesh-proxy: those can hold no leases."""
    services = [world.services[host] for host in hosts if host in world.services]
    return [
        workload.name
        for workload in world.workloads.values()
        if _proxy_of(workload, world) not in {None, "pymesh"}
        and any(is_behind(workload, service, world) for service in services)
    ]


def _proxy_of(workload: Workload, world: World) -> str | None:
    pod = world.resources.get(Key("Pod", workload.namespace, workload.name))
    if pod is None or not holds(pod, Pod):
        return None
    return (pod.value.metadata.annotations or {}).get(ANNOTATION_PROXY)


def _rules(world: World) -> Iterator[Rule]:
    for resource in world.resources.values():
        if holds(resource, RateLimit):
            rate = resource.value.spec
            burst = rate.burst or rate.requests
            limit = Rate(rate.requests, PERIODS[rate.per], burst, tuple(rate.by), rate.quota)
            hosts = _hosts(rate.target_refs, resource)
            if limit.quota != "Asked" and not limit.by and with_other_proxies(hosts, world):
                limit = replace(limit, quota="Asked")  # what some lease and others ask about would be counted twice
            yield Rule(str(resource.key), hosts, limit, rate.failure_mode, rate.otherwise, rate.dry_run)
        elif holds(resource, ConcurrencyLimit):
            slots = resource.value.spec
            hosts = _hosts(slots.target_refs, resource)
            yield Rule(str(resource.key), hosts, Slots(slots.max), slots.failure_mode, slots.otherwise, slots.dry_run)
        elif holds(resource, Check):
            check = resource.value.spec
            kept = check.remember
            memory = None if kept is None else Memory(seconds(kept.valid_for), kept.uses, tuple(kept.by))
            code = Code(check.function, seconds(check.timeout), memory)
            hosts = _hosts(check.target_refs, resource)
            yield Rule(str(resource.key), hosts, code, check.failure_mode, check.otherwise, check.dry_run)


def _hosts(targets: Iterable[TargetRef], resource: Resource[object]) -> tuple[str, ...]:
    return tuple(sorted({names.service_host(target.name, resource.key.namespace) for target in targets}))
