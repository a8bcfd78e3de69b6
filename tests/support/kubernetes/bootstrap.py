"""What a new cluster has from the beginning: namespaces, the Service of the API server, and RBAC's own roles."""

from tests.support.kubernetes import defaults, metadata
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import Object
from tests.support.kubernetes.kinds import Kind

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
_RBAC = "rbac.authorization.k8s.io"
_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "deletecollection", "patch", "update"]
_SELF = ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]
_WORKLOADS: list[Object] = [
    {"apiGroups": [""], "verbs": [*_READ, *_WRITE], "resources": [
        "configmaps", "endpoints", "events", "persistentvolumeclaims", "pods", "secrets", "serviceaccounts",
        "services"]},
    {"apiGroups": ["apps"], "verbs": [*_READ, *_WRITE], "resources": [
        "controllerrevisions", "daemonsets", "deployments", "deployments/scale", "replicasets", "statefulsets"]},
    {"apiGroups": ["batch"], "verbs": [*_READ, *_WRITE], "resources": ["cronjobs", "jobs"]},
    {"apiGroups": ["discovery.k8s.io"], "verbs": _READ, "resources": ["endpointslices"]},
    {"apiGroups": ["coordination.k8s.io"], "verbs": [*_READ, *_WRITE], "resources": ["leases"]},
]  # fmt: skip
# name: its rules.
_CLUSTER_ROLES: dict[str, list[Object]] = {
    "cluster-admin": [
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ],
    "admin": [*_WORKLOADS, {"apiGroups": [_RBAC], "resources": ["roles", "rolebindings"], "verbs": ["*"]}],
    "edit": _WORKLOADS,
    "view": [rule | {"verbs": _READ} for rule in _WORKLOADS],
    "system:basic-user": [
        {"apiGroups": ["authorization.k8s.io"], "resources": _SELF, "verbs": ["create"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]},
    ],
    "system:discovery": [{"verbs": ["get"], "nonResourceURLs": [
        "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version",
        "/version/"]}],
    "system:public-info-viewer": [{"verbs": ["get"], "nonResourceURLs": [
        "/healthz", "/livez", "/readyz", "/version", "/version/"]}],
    "system:service-account-issuer-discovery": [{"verbs": ["get"], "nonResourceURLs": [
        "/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks",
        "/openid/v1/jwks/"]}],
    "system:auth-delegator": [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
    ],
}  # fmt: skip
# role: groups.
_CLUSTER_ROLE_BINDINGS = {
    "cluster-admin": ["system:masters"],
    "system:basic-user": ["system:authenticated"],
    "system:discovery": ["system:authenticated"],
    "system:public-info-viewer": ["system:authenticated", "system:unauthenticated"],
    "system:service-account-issuer-discovery": ["system:serviceaccounts"],
}


def populate(cluster: Cluster) -> None:
    """Put in what is always there."""
    get = cluster.registry.get
    for name in NAMESPACES:
        _put(cluster, get("", "v1", "namespaces"), {"name": name}, {"status": {"phase": "Active"}})
    service = {"spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "targetPort": 6443}]}}
    labels = {"component": "apiserver", "provider": "kubernetes"}
    _put(cluster, get("", "v1", "services"), {"name": "kubernetes", "namespace": "default", "labels": labels}, service)
    labels = {"kubernetes.io/bootstrapping": "rbac-defaults"}
    for name, rules in _CLUSTER_ROLES.items():
        _put(cluster, get(_RBAC, "v1", "clusterroles"), {"name": name, "labels": labels}, {"rules": rules})
    for role, groups in _CLUSTER_ROLE_BINDINGS.items():
        content: Object = {
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": _RBAC, "kind": "Group", "name": group} for group in groups],
        }
        _put(cluster, get(_RBAC, "v1", "clusterrolebindings"), {"name": role, "labels": labels}, content)


def _put(cluster: Cluster, kind: Kind, meta: Object, content: Object) -> None:
    made: Object = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": dict(meta), **content}
    metadata.begin(made, kind, cluster.clock(), cluster.dice)
    defaults.fill(made, kind, cluster)
    cluster.store.put(kind.storage, made)
