"""Where the API server has the objects of a kind."""

from typing import Final, NamedTuple
from urllib.parse import quote

from pymesh_controlplane.kube.api import Api

_ISTIO_VERSIONS: Final = ("v1", "v1beta1", "v1alpha3")


class Kind(NamedTuple):
    """A kind, and the versions of it that can be worked with, the best first."""

    group: str
    versions: tuple[str, ...]
    plural: str
    namespaced: bool = True


KINDS: Final = {
    "Service": Kind("", ("v1",), "services"),
    "Pod": Kind("", ("v1",), "pods"),
    "Namespace": Kind("", ("v1",), "namespaces", namespaced=False),
    "ConfigMap": Kind("", ("v1",), "configmaps"),
    "Secret": Kind("", ("v1",), "secrets"),
    "EndpointSlice": Kind("discovery.k8s.io", ("v1",), "endpointslices"),
    "Deployment": Kind("apps", ("v1",), "deployments"),
    "VirtualService": Kind("networking.istio.io", _ISTIO_VERSIONS, "virtualservices"),
    "DestinationRule": Kind("networking.istio.io", _ISTIO_VERSIONS, "destinationrules"),
    "ServiceEntry": Kind("networking.istio.io", _ISTIO_VERSIONS, "serviceentries"),
    "Gateway": Kind("networking.istio.io", _ISTIO_VERSIONS, "gateways"),
    "PeerAuthentication": Kind("security.istio.io", ("v1", "v1beta1"), "peerauthentications"),
    "AuthorizationPolicy": Kind("security.istio.io", ("v1", "v1beta1"), "authorizationpolicies"),
    "RequestAuthentication": Kind("security.istio.io", ("v1", "v1beta1"), "requestauthentications"),
    "RateLimit": Kind("policy.pymesh.io", ("v1alpha1",), "ratelimits"),
    "ConcurrencyLimit": Kind("policy.pymesh.io", ("v1alpha1",), "concurrencylimits"),
    "Check": Kind("policy.pymesh.io", ("v1alpha1",), "checks"),
    "CustomResourceDefinition": Kind("apiextensions.k8s.io", ("v1",), "customresourcedefinitions", namespaced=False),
    "ServiceAccount": Kind("", ("v1",), "serviceaccounts"),
    "Role": Kind("rbac.authorization.k8s.io", ("v1",), "roles"),
    "ClusterRole": Kind("rbac.authorization.k8s.io", ("v1",), "clusterroles", namespaced=False),
    "RoleBinding": Kind("rbac.authorization.k8s.io", ("v1",), "rolebindings"),
    "ClusterRoleBinding": Kind("rbac.authorization.k8s.io", ("v1",), "clusterrolebindings", namespaced=False),
    "Lease": Kind("coordination.k8s.io", ("v1",), "leases"),
    "PodDisruptionBudget": Kind("policy", ("v1",), "poddisruptionbudgets"),
    "MutatingWebhookConfiguration": Kind(
        "admissionregistration.k8s.io", ("v1",), "mutatingwebhookconfigurations", namespaced=False
    ),
    "ValidatingWebhookConfiguration": Kind(
        "admissionregistration.k8s.io", ("v1",), "validatingwebhookconfigurations", namespaced=False
    ),
}
# The kinds that people steer the mesh with; whether the cluster has them depends on what is installed there.
MESH_KINDS: Final = frozenset(
    {
        "VirtualService",
        "DestinationRule",
        "ServiceEntry",
        "Gateway",
        "PeerAuthentication",
        "AuthorizationPolicy",
        "RequestAuthentication",
        "RateLimit",
        "ConcurrencyLimit",
        "Check",
    }
)


class Paths:
    """Paths of objects at one API server, which is asked once which versions it has."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._served: dict[str, frozenset[str]] = {}

    def version(self, kind: str) -> str:
        """The version of `kind` to work with; empty if the cluster does not have the kind.

        Raises:
            ApiError: it cannot be said.
        """
        group, versions, *_ = KINDS[kind]
        if kind not in MESH_KINDS:
            return versions[0]
        if kind not in self._served:
            self._served[kind] = frozenset(version for version in versions if self._serves(group, version, kind))
        return next((version for version in versions if version in self._served[kind]), "")

    def _serves(self, group: str, version: str, kind: str) -> bool:
        found = self._api.find(f"/apis/{group}/{version}")
        return found is not None and any(item.get("kind") == kind for item in found.get("resources") or [])

    def of(self, kind: str, namespace: str = "", name: str = "") -> str:
        """The path of an object, or of all of a kind, in one namespace or in all; empty if there is no such kind.

        Raises:
            ApiError: it cannot be said.
        """
        version = self.version(kind)
        if not version:
            return ""
        group, _, plural, namespaced = KINDS[kind]
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        within = f"/namespaces/{quote(namespace, safe='')}" if namespaced and namespace else ""
        one = f"/{quote(name, safe='')}" if name else ""
        return f"{root}{within}/{plural}{one}"
