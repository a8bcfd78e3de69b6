"""The endpoints in use, by cluster and address: what makes them survive a new snapshot. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pymesh.peer_metadata import UNKNOWN, Peer
from pymesh_proxy.upstream.endpoint import Endpoint


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
    healthy: bool = True
    priority: int = 0


class EndpointRegistry:
    """Finds or makes the `Endpoint` behind a spec, and retires those that no cluster names any more."""

    def __init__(self) -> None:
        self._clusters: dict[str, dict[tuple[str, int], Endpoint]] = {}

    def update(self, cluster: str, specs: Iterable[EndpointSpec]) -> tuple[Endpoint, ...]:
        """The endpoints of `cluster` from now on, in the order of `specs`; an address given twice counts once.

        An address that stays keeps its object, so its counts in flight and idle connections, and takes on the new
        weight, labels and health. Addresses that are gone are retired.
        """
        before = self._clusters.get(cluster, {})
        after: dict[tuple[str, int], Endpoint] = {}
        for spec in specs:
            address = (spec.host, spec.port)
            if address in after:
                continue
            endpoint = before.get(address) or Endpoint(spec.host, spec.port)
            endpoint.weight, endpoint.hostname, endpoint.healthy = spec.weight, spec.hostname, spec.healthy
            endpoint.metadata, endpoint.labels, endpoint.peer = spec.metadata, spec.labels, spec.peer
            after[address] = endpoint
        for address in before.keys() - after.keys():
            before[address].retire()
        self._clusters[cluster] = after
        return tuple(after.values())

    def forget(self, cluster: str) -> None:
        """Retire every endpoint of `cluster`, which is no more."""
        for endpoint in self._clusters.pop(cluster, {}).values():
            endpoint.retire()

    def endpoints(self) -> Iterable[tuple[str, Endpoint]]:
        """Every (cluster, endpoint) in use, of all priorities, for the admin port and metrics."""
        for cluster, found in self._clusters.items():
            for endpoint in found.values():
                yield cluster, endpoint
