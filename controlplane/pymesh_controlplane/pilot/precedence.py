"""Which of several resources counts where only one can: the one rule for all of pilot. Pure.

Of what is written for one host, that of the host's own namespace comes first, then the mesh's root namespace, then
all others: nobody takes traffic from a namespace by a resource in another. Among equals the older counts, so that a new
resource takes nothing from one that is in force, and among those of the same age the first by namespace and name. How
old a resource is says the API server (`metadata.creationTimestamp`); those of files do not say, and are of one age.

Istio has the age and the names (pkg/config `SortConfigByCreationTime`), not the namespaces.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from pymesh import names
from pymesh.resources.resource import Resource
from pymesh_controlplane.pilot.model import Service

_SERVICE_DOMAIN: Final = f".svc.{names.CLUSTER_DOMAIN}"
# Behind every RFC 3339 time: what has no age is either all there is, or about to be made next to what has one.
_NO_TIME: Final = "~"


class Rank(NamedTuple):
    """The lower counts. `distance` is 0 in the host's own namespace, 1 in the root namespace, and 2 elsewhere."""

    distance: int
    created: str
    namespace: str
    name: str


def rank(resource: Resource[object], owner: str, root_namespace: str) -> Rank:
    """The rank of `resource` for what belongs to the namespace `owner` (empty: to nobody)."""
    namespace = resource.key.namespace
    distance = 0 if namespace == owner else 1 if namespace == root_namespace else 2
    metadata = resource.raw.get("metadata")
    created = metadata.get("creationTimestamp") if isinstance(metadata, Mapping) else None
    # RFC 3339 in UTC, to the second: sorts as text.
    return Rank(distance, str(created or _NO_TIME), namespace, resource.key.name)


def owner(host: str, services: Mapping[str, Service]) -> str:
    """The namespace that `host`, a full name, belongs to: its service's, or the one in its name; else empty."""
    service = services.get(host)
    return service.namespace if service is not None else owner_by_name(host)


def owner_by_name(host: str) -> str:
    """The namespace in the name of a Service of the cluster, be it there or not; empty for any other host."""
    if not host.endswith(_SERVICE_DOMAIN):
        return ""
    _, dot, namespace = host.removesuffix(_SERVICE_DOMAIN).rpartition(".")
    return namespace if dot else ""


def reason(winner: Rank, loser: Rank) -> str:
    """Why `winner` counts and `loser` does not, as in `VirtualService shop/web, which is older`."""
    if winner.distance != loser.distance:
        return "which is of the host's own namespace" if winner.distance == 0 else "which is of the root namespace"
    return "which is older" if winner.created != loser.created else "which comes first by name"
