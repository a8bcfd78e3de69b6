"""Which DestinationRule and which PeerAuthentication holds for whom. Pure.

Source: Istio's rules of precedence, istio.io/docs/ops/best-practices/traffic-management and
istio.io/docs/reference/config/security/peer_authentication.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pymesh.resources.istio.destination_rule import (
    ClientTLSSettings,
    ConnectionPoolSettings,
    ConsistentHashLB,
    DestinationRule,
    LoadBalancerSettings,
    OutlierDetection,
    PortTrafficPolicy,
    RetryBudget,
    Subset,
    TrafficPolicy,
)
from pymesh.resources.istio.peer_authentication import MutualTLS, PeerAuthentication
from pymesh.resources.resource import Resource
from pymesh_controlplane.pilot import hosts
from pymesh_controlplane.pilot.model import Service, World

# --- DestinationRule -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for connections to one port of one subset of a service."""

    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    tls: ClientTLSSettings | None = None
    outlier_detection: OutlierDetection | None = None
    retry_budget: RetryBudget | None = None

    @property
    def consistent_hash(self) -> ConsistentHashLB | None:
        """What leads the same callers to the same endpoint."""
        return self.load_balancer.consistent_hash if self.load_balancer is not None else None


def rule_for(service: Service, namespace: str, world: World) -> Resource[DestinationRule] | None:
    """The rule that callers in `namespace` follow: of their own namespace, else the service's, else the mesh's.

    Within a namespace the rule with the most specific host wins, then the first by name.
    """
    for place in dict.fromkeys((namespace, service.namespace, world.root_namespace)):
        rules = world.rules.get(place, {})
        found = hosts.most_specific(service.host, rules)
        if found is not None:
            return rules[found]
    return None


def subset_of(rule: Resource[DestinationRule] | None, name: str) -> Subset | None:
    """The subset with this name."""
    return next((subset for subset in rule.value.spec.subsets if subset.name == name), None) if rule else None


def parts_of(rule: Resource[DestinationRule] | None) -> Iterator[Subset | None]:
    """What connections go to by `rule`: the whole service (None), and each of its subsets."""
    yield None
    if rule is not None:
        yield from rule.value.spec.subsets


def policy_for(rule: Resource[DestinationRule] | None, port: int, subset: Subset | None) -> Policy:
    """What `rule` says about `port` of the whole service, or of `subset`, which overrides block by block.

    Settings of a port replace those of the destination as a whole; nothing is inherited into them, as in Istio.
    """
    general = _at_port(rule.value.spec.traffic_policy if rule else None, port)
    special = _at_port(subset.traffic_policy if subset else None, port)
    return Policy(
        load_balancer=special.load_balancer or general.load_balancer,
        connection_pool=special.connection_pool or general.connection_pool,
        tls=special.tls or general.tls,
        outlier_detection=special.outlier_detection or general.outlier_detection,
        retry_budget=special.retry_budget or general.retry_budget,
    )


def _at_port(policy: TrafficPolicy | None, port: int) -> Policy:
    if policy is None:
        return Policy()
    for settings in policy.port_level_settings:
        if settings.port.number == port:
            return _of(settings)
    return _of(policy)


def _of(settings: TrafficPolicy | PortTrafficPolicy) -> Policy:
    budget = settings.retry_budget if isinstance(settings, TrafficPolicy) else None  # ports have none of their own
    return Policy(settings.load_balancer, settings.connection_pool, settings.tls, settings.outlier_detection, budget)


def policies_of(rule: DestinationRule) -> Iterator[Policy]:
    """Every policy that `rule` writes down."""
    for policy in (rule.spec.traffic_policy, *(subset.traffic_policy for subset in rule.spec.subsets)):
        if policy is not None:
            yield _of(policy)
            yield from map(_of, policy.port_level_settings)


# --- PeerAuthentication --------------------------------------------------------------------------------------------


class Mtls(enum.Enum):
    """What a workload's sidecar accepts on a port."""

    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


@dataclass(frozen=True, slots=True)
class PeerModes:
    """What a workload accepts, and on which of its own ports something else.

    Attributes:
        trust_domains: those that a caller's certificate may be of; empty: any that leads to the mesh's roots.
    """

    default: Mtls
    by_port: Mapping[int, Mtls]
    trust_domains: tuple[str, ...] = ()

    def at(self, port: int) -> Mtls:
        """The mode of `port`."""
        return self.by_port.get(port, self.default)


def peer_modes(
    namespace: str, labels: Mapping[str, str], policies: Sequence[Resource[PeerAuthentication]], root_namespace: str
) -> PeerModes:
    """The modes of a workload: its own policy's, else its namespace's, else the mesh's, else PERMISSIVE.

    Where several policies stand on the same level the first by name wins (galley warns of it).
    """
    own = [
        policy
        for policy in policies
        if policy.key.namespace == namespace
        and (selected := selected_labels(policy.value))
        and selected.items() <= labels.items()
    ]
    whole = in_one_place(policies)
    default = Mtls.PERMISSIVE
    for level in (whole.get(root_namespace), whole.get(namespace), own):
        default = (_mode(level[0].value.spec.mtls) if level else None) or default
    by_port = own[0].value.spec.port_level_mtls if own else {}
    return PeerModes(default, {port: _mode(mtls) or default for port, mtls in sorted(by_port.items())})


def selected_labels(policy: PeerAuthentication) -> Mapping[str, str]:
    """The labels of the workloads that `policy` is for; empty if it is for a whole namespace."""
    return policy.spec.selector.match_labels if policy.spec.selector is not None else {}


def _mode(mtls: MutualTLS | None) -> Mtls | None:
    return None if mtls is None or mtls.mode == "UNSET" else Mtls(mtls.mode)


def in_one_place(policies: Iterable[Resource[PeerAuthentication]]) -> dict[str, list[Resource[PeerAuthentication]]]:
    """Policies that hold for whole namespaces, by namespace."""
    found: dict[str, list[Resource[PeerAuthentication]]] = {}
    for policy in policies:
        if not selected_labels(policy.value):
            found.setdefault(policy.key.namespace, []).append(policy)
    return found
