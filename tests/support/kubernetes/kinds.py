"""The kinds that are built into the API server: names, scopes, verbs and subresources (Kubernetes 1.36)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.kubernetes.errors import Object
from tests.support.kubernetes.schema import Schema, builtin

EVERY_VERB = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
CREATE_ONLY = ("create",)


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource in one version, as discovery tells of it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = EVERY_VERB
    categories: tuple[str, ...] = ()
    singular: str = ""
    schema: Schema | None = None
    columns: tuple[Object, ...] = ()
    # Of a custom resource: pruned and defaulted by its own schema, and never patched strategically.
    custom: bool = False
    # Fields below spec that may be selected by, besides metadata.name and metadata.namespace.
    selectable: tuple[str, ...] = field(default=())

    @property
    def api_version(self) -> str:
        """`group/version`, or `version` of the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def storage(self) -> tuple[str, str]:
        """Where the objects are kept, whatever version they are read in."""
        return (self.group, self.plural)

    @property
    def single(self) -> str:
        """The name in the singular, as kubectl prints it."""
        return self.singular or self.kind.lower()

    @property
    def generation_counts(self) -> bool:
        """Whether a change of the spec raises metadata.generation."""
        return self.custom or (self.group, self.plural) in _WITH_GENERATION


_WITH_GENERATION = {
    ("apps", "deployments"), ("apps", "replicasets"), ("apps", "statefulsets"), ("apps", "daemonsets"),
    ("batch", "jobs"), ("batch", "cronjobs"), ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "networkpolicies"), ("policy", "poddisruptionbudgets"), ("", "replicationcontrollers"),
    ("", "pods"), ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("apiextensions.k8s.io", "customresourcedefinitions"), ("discovery.k8s.io", "endpointslices"),
}  # fmt: skip

_CLUSTER = {"namespaced": False}
_STATUS = {"subresources": ("status",)}
_SCALED = {"subresources": ("scale", "status"), "categories": ("all",)}

# (group, version, plural, kind, what else)
_TABLE: tuple[tuple[str, str, str, str, Mapping[str, object]], ...] = (
    ("", "v1", "configmaps", "ConfigMap", {"short": ("cm",)}),
    ("", "v1", "endpoints", "Endpoints", {"short": ("ep",)}),
    ("", "v1", "events", "Event", {"short": ("ev",), "selectable": ("involvedObject.name", "reason", "type")}),
    ("", "v1", "limitranges", "LimitRange", {"short": ("limits",)}),
    ("", "v1", "namespaces", "Namespace", _CLUSTER | _STATUS | {"short": ("ns",), "selectable": ("status.phase",)}),
    ("", "v1", "nodes", "Node", _CLUSTER | _STATUS | {"short": ("no",), "selectable": ("spec.unschedulable",)}),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", _STATUS | {"short": ("pvc",)}),
    ("", "v1", "persistentvolumes", "PersistentVolume", _CLUSTER | _STATUS | {"short": ("pv",)}),
    ("", "v1", "pods", "Pod", {
        "short": ("po",), "categories": ("all",), "subresources": ("log", "portforward", "status"),
        "selectable": ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
                       "spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName"),
    }),
    ("", "v1", "resourcequotas", "ResourceQuota", _STATUS | {"short": ("quota",)}),
    ("", "v1", "secrets", "Secret", {"selectable": ("type",)}),
    ("", "v1", "serviceaccounts", "ServiceAccount", {"short": ("sa",), "subresources": ("token",)}),
    ("", "v1", "services", "Service", _STATUS | {
        "short": ("svc",), "categories": ("all",), "selectable": ("spec.clusterIP", "spec.type"),
    }),
    ("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", _CLUSTER),
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration",
     _CLUSTER),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition",
     _CLUSTER | _STATUS | {"short": ("crd", "crds"), "categories": ("api-extensions",)}),
    ("apps", "v1", "controllerrevisions", "ControllerRevision", {}),
    ("apps", "v1", "daemonsets", "DaemonSet", _STATUS | {"short": ("ds",), "categories": ("all",)}),
    ("apps", "v1", "deployments", "Deployment", _SCALED | {"short": ("deploy",)}),
    ("apps", "v1", "replicasets", "ReplicaSet", _SCALED | {"short": ("rs",)}),
    ("apps", "v1", "statefulsets", "StatefulSet", _SCALED | {"short": ("sts",)}),
    ("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", _CLUSTER | {"verbs": CREATE_ONLY}),
    ("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", _CLUSTER | {"verbs": CREATE_ONLY}),
    ("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", {"verbs": CREATE_ONLY}),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview",
     _CLUSTER | {"verbs": CREATE_ONLY}),
    ("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview",
     _CLUSTER | {"verbs": CREATE_ONLY}),
    ("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", _CLUSTER | {"verbs": CREATE_ONLY}),
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler",
     _STATUS | {"short": ("hpa",), "categories": ("all",)}),
    ("batch", "v1", "cronjobs", "CronJob", _STATUS | {"short": ("cj",), "categories": ("all",)}),
    ("batch", "v1", "jobs", "Job", _STATUS | {"categories": ("all",), "selectable": ("status.successful",)}),
    ("coordination.k8s.io", "v1", "leases", "Lease", {}),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", {}),
    ("networking.k8s.io", "v1", "ingressclasses", "IngressClass", _CLUSTER),
    ("networking.k8s.io", "v1", "ingresses", "Ingress", _STATUS | {"short": ("ing",)}),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", {"short": ("netpol",)}),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", _STATUS | {"short": ("pdb",)}),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", _CLUSTER),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", _CLUSTER),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", {}),
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", {}),
    ("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", _CLUSTER | {"short": ("pc",)}),
    ("storage.k8s.io", "v1", "storageclasses", "StorageClass", _CLUSTER | {"short": ("sc",)}),
)  # fmt: skip


def builtin_kinds() -> dict[tuple[str, str, str], Kind]:
    """Every built-in kind by (group, version, plural)."""
    return {
        (group, version, plural): Kind(
            group, version, plural, kind, schema=builtin(group, version, kind), **rest  # type: ignore[arg-type]  # the table's
        )
        for group, version, plural, kind, rest in _TABLE
    }  # fmt: skip


# What a subresource takes and gives, where that is not the object itself: (group, version, kind).
SUBRESOURCE_KINDS: dict[tuple[str, str], tuple[str, str, str]] = {
    ("serviceaccounts", "token"): ("authentication.k8s.io", "v1", "TokenRequest"),
    ("deployments", "scale"): ("autoscaling", "v1", "Scale"),
    ("replicasets", "scale"): ("autoscaling", "v1", "Scale"),
    ("statefulsets", "scale"): ("autoscaling", "v1", "Scale"),
    ("pods", "portforward"): ("", "v1", "PodPortForwardOptions"),
}

SUBRESOURCE_VERBS: dict[str, tuple[str, ...]] = {
    "token": ("create",),
    "portforward": ("create", "get"),
    "log": ("get",),
    "status": ("get", "patch", "update"),
    "scale": ("get", "patch", "update"),
}
