"""The kinds that are read from the Kubernetes API, and what is kept of their objects."""

from typing import Final, NamedTuple

from lightkube.core.resource import Resource as ApiResource
from lightkube.core.resource import api_info
from lightkube.generic_resource import create_namespaced_resource
from lightkube.resources import core_v1, discovery_v1

from pymesh.resources import policy
from pymesh.resources.mesh_config import CONFIG_MAP
from pymesh_controlplane.kube import trim
from pymesh_controlplane.kube.replica import Trim

NETWORKING: Final = "networking.istio.io"
SECURITY: Final = "security.istio.io"

_V1_AND_BEFORE: Final = ("v1", "v1beta1", "v1alpha3")


class Kind(NamedTuple):
    """A kind.

    Attributes:
        resources: it, in the versions in which it may be served, the one that is wanted most first.
        trim: what is kept of an object.
        optional: whether a cluster may be without it.
        system: whether only what is in the system namespace counts.
        fields: only objects that this field selector selects count.
    """

    resources: tuple[type[ApiResource], ...]
    trim: Trim
    optional: bool = False
    system: bool = False
    fields: str = ""


def _of_mesh(group: str, name: str, plural: str, versions: tuple[str, ...], keep: Trim = trim.written) -> Kind:
    return Kind(
        tuple(create_namespaced_resource(group, version, name, plural) for version in versions), keep, optional=True
    )


KUBERNETES: Final = (
    Kind((core_v1.Service,), trim.service),
    Kind((discovery_v1.EndpointSlice,), trim.endpoint_slice),
    Kind((core_v1.Pod,), trim.pod),
    Kind((core_v1.Node,), trim.node),
    Kind((core_v1.Namespace,), trim.named),
    Kind((core_v1.ConfigMap,), trim.config_map, system=True, fields=f"metadata.name={CONFIG_MAP}"),
)
MESH: Final = (
    _of_mesh(NETWORKING, "VirtualService", "virtualservices", _V1_AND_BEFORE),
    _of_mesh(NETWORKING, "DestinationRule", "destinationrules", _V1_AND_BEFORE),
    _of_mesh(NETWORKING, "ServiceEntry", "serviceentries", _V1_AND_BEFORE, trim.with_addresses),
    _of_mesh(NETWORKING, "Gateway", "gateways", _V1_AND_BEFORE),
    _of_mesh(SECURITY, "PeerAuthentication", "peerauthentications", ("v1", "v1beta1")),
    _of_mesh(SECURITY, "AuthorizationPolicy", "authorizationpolicies", ("v1", "v1beta1")),
    _of_mesh(SECURITY, "RequestAuthentication", "requestauthentications", ("v1", "v1beta1")),
    _of_mesh(policy.GROUP, "RateLimit", "ratelimits", ("v1alpha1",)),
    _of_mesh(policy.GROUP, "ConcurrencyLimit", "concurrencylimits", ("v1alpha1",)),
    _of_mesh(policy.GROUP, "Check", "checks", ("v1alpha1",)),
)
# Kinds of those groups that the mesh does not apply. They are looked at so that it says so: somebody may rely on them.
NOT_APPLIED: Final = (
    _of_mesh(NETWORKING, "Sidecar", "sidecars", _V1_AND_BEFORE, trim.named),
    _of_mesh(NETWORKING, "EnvoyFilter", "envoyfilters", ("v1alpha3",), trim.named),
    _of_mesh(NETWORKING, "WorkloadEntry", "workloadentries", _V1_AND_BEFORE, trim.named),
    _of_mesh(NETWORKING, "WorkloadGroup", "workloadgroups", _V1_AND_BEFORE, trim.named),
    _of_mesh(NETWORKING, "ProxyConfig", "proxyconfigs", ("v1beta1",), trim.named),
)
# Of these galley says whether they are accepted, in their status.
JUDGED: Final = frozenset(api_info(kind.resources[0]).resource.kind for kind in MESH)
ALL: Final = (*KUBERNETES, *MESH, *NOT_APPLIED)
