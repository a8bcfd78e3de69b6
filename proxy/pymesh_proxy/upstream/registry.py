"""The endpoints in use, by cluster and address: what makes them survive a new snapshot. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pymesh.peer_metadata import UNKNOWN, Peer
from pymesh.steps import Steps
from pymesh_proxy.upstream.endpoint import Endpoint, Health, Membership

# What the configuration says of an endpoint's health; the other flags are found out.
_FROM_CONFIGURATION: Final = int(Health.FAILED_EDS_HEALTH | Health.DEGRADED_EDS_HEALTH | Health.EDS_STATUS_DRAINING)
_ACTIVE: Final = int(Health.FAILED_ACTIVE_HC | Health.DEGRADED_ACTIVE_HC | Health.ACTIVE_HC_TIMEOUT)


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """An endpoint as the configuration has it, before it is one that carries traffic."""

    host: str
    port: int
    weight: int = 1
    hostname: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    peer: Peer = UNKNOWN
    health: int = 0  # `Health` flags that the configuration sets
    priority: int = 0
    locality: tuple[str, str, str] = ("", "", "")
    locality_weight: int = 0
    check_host: str = ""
    check_port: int = 0
    checked: bool = True


class EndpointRegistry:
    """Finds or makes the `Endpoint` behind a spec, and retires those that no cluster names any more.

    Attributes:
        leaving: those that are gone, to be retired once the configuration without them is in force.
    """

    def __init__(self) -> None:
        self._clusters: dict[str, dict[tuple[str, int], Endpoint]] = {}
        self._memberships: dict[str, Membership] = {}
        self.leaving: list[Endpoint] = []

    def update(self, cluster: str, specs: Iterable[EndpointSpec], *, checked: bool = False) -> tuple[Endpoint, ...]:
        """The endpoints of `cluster` from now on, in the order of `specs`; an address given twice counts once.

        An address that stays keeps its object, so its counts in flight and idle connections, and takes on the new
        weight, labels and health. Addresses that are gone are `leaving`. Where the cluster is `checked`, a new endpoint
        is unhealthy until its first health check, as in Envoy.
        """
        before = self._clusters.get(cluster, {})
        after: dict[tuple[str, int], Endpoint] = {}
        membership = self._memberships.setdefault(cluster, Membership())
        for spec in specs:
            address = (spec.host, spec.port)
            if address in after:
                continue
            endpoint = before.get(address)
            if endpoint is None:
                endpoint = Endpoint(spec.host, spec.port, membership=membership)
                membership.changes += 1
                if checked and spec.checked:
                    endpoint.mark(Health.FAILED_ACTIVE_HC, on=True)
            elif not (checked and spec.checked):
                endpoint.mark(_ACTIVE, on=False)
            _take_on(endpoint, spec)
            after[address] = endpoint
        for address in before.keys() - after.keys():
            self.leaving.append(before[address])
            membership.changes += 1
        membership.version += 1
        self._clusters[cluster] = after
        return tuple(after.values())

    def forget(self, cluster: str) -> None:
        """Every endpoint of `cluster`, which is no more, is `leaving`."""
        self.leaving += self._clusters.pop(cluster, {}).values()
        self._memberships.pop(cluster, None)

    def retiring(self) -> Steps[None]:
        """Retire those that are leaving."""
        while self.leaving:
            self.leaving.pop().retire()
            yield

    def endpoints(self) -> Iterable[tuple[str, Endpoint]]:
        """Every (cluster, endpoint) in use, of all priorities, for the admin port and metrics."""
        for cluster, found in self._clusters.items():
            for endpoint in found.values():
                yield cluster, endpoint


def _take_on(endpoint: Endpoint, spec: EndpointSpec) -> None:
    endpoint.weight, endpoint.hostname = spec.weight, spec.hostname
    endpoint.metadata, endpoint.labels, endpoint.peer = spec.metadata, spec.labels, spec.peer
    endpoint.priority, endpoint.locality, endpoint.locality_weight = spec.priority, spec.locality, spec.locality_weight
    endpoint.check_host, endpoint.check_port, endpoint.checked = spec.check_host, spec.check_port, spec.checked
    endpoint.mark(_FROM_CONFIGURATION & ~spec.health, on=False)
    endpoint.mark(spec.health, on=True)
