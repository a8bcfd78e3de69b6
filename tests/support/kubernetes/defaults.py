"""What a real API server fills in that nobody wrote: defaulting functions and strategies of the kinds that matter."""

import base64
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from tests.support.kubernetes import crds
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import Object
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.pod_defaults import pod_spec

# Cluster IPs are drawn from 10.96.0.0/16, as kubeadm sets it up.
_SERVICE_RANGE = "10.96"
_NODE_PORTS = range(30000, 32768)


def fill(made: Object, kind: Kind, cluster: Cluster) -> None:
    """Defaults of every write, in place."""
    if filler := _FILLERS.get(kind.storage):
        filler(made, cluster)


def begin(made: Object, kind: Kind) -> None:
    """How a new object's status begins, in place: clients do not get to say."""
    if "status" not in kind.subresources:
        return
    made.pop("status", None)
    if kind.storage in _STATUS:
        made["status"] = deepcopy(_STATUS[kind.storage])
    if kind.storage == ("", "pods"):
        made["status"] = {"phase": "Pending", "qosClass": _qos(made["spec"])}


def carry(new: Object, old: Object, kind: Kind) -> None:
    """What an update that leaves it out keeps, in place."""
    if kind.storage == ("", "services"):
        spec, before = new.get("spec", {}), old.get("spec", {})
        if spec.get("type") != "ExternalName" and before.get("type") != "ExternalName":
            for key in ("clusterIP", "clusterIPs"):
                if not spec.get(key) and before.get(key):
                    spec[key] = before[key]
    if kind.storage == ("", "namespaces"):
        new.setdefault("spec", old.get("spec", {}))


_STATUS: dict[tuple[str, str], Object] = {
    ("", "namespaces"): {"phase": "Active"},
    ("", "services"): {"loadBalancer": {}},
    ("", "nodes"): {},
    ("apps", "deployments"): {},
    ("apps", "replicasets"): {"replicas": 0},
    ("apps", "statefulsets"): {"replicas": 0, "availableReplicas": 0},
    ("apps", "daemonsets"): {
        "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
    },
    ("batch", "jobs"): {},
    ("batch", "cronjobs"): {},
    ("policy", "poddisruptionbudgets"): {
        "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
    },
}  # fmt: skip


def _namespace(made: Object, cluster: Cluster) -> None:
    meta = made["metadata"]
    meta["labels"] = {**(meta.get("labels") or {}), "kubernetes.io/metadata.name": meta.get("name", "")}
    made.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])


def _pod(made: Object, cluster: Cluster) -> None:
    pod_spec(made.setdefault("spec", {}))


def _service(made: Object, cluster: Cluster) -> None:
    spec = made.setdefault("spec", {})
    spec.setdefault("sessionAffinity", "None")
    kind = spec.setdefault("type", "ClusterIP")
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if kind != "ExternalName" and not port.get("targetPort"):
            port["targetPort"] = port.get("port")
    if kind == "ExternalName":
        return
    if kind in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
        _node_ports(spec, cluster)
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    spec.setdefault("internalTrafficPolicy", "Cluster")
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    spec.setdefault("ipFamilies", ["IPv4"])
    if not spec.get("clusterIP"):
        spec["clusterIP"] = (spec.get("clusterIPs") or [_free_address(made, cluster)])[0]
    spec.setdefault("clusterIPs", [spec["clusterIP"]])


def _services(cluster: Cluster) -> list[Object]:
    return cluster.store.all(("", "services"))


def _free_address(made: Object, cluster: Cluster) -> str:
    meta = made["metadata"]
    if old := cluster.store.get(("", "services"), meta.get("namespace", ""), meta.get("name", "")):
        return str(old["spec"].get("clusterIP") or "")
    taken = {service["spec"].get("clusterIP") for service in _services(cluster)}
    free = (f"{_SERVICE_RANGE}.{high}.{low}" for high in range(256) for low in range(1 if high else 20, 255))
    return next(address for address in free if address not in taken)


def _node_ports(spec: Object, cluster: Cluster) -> None:
    if spec.get("allocateLoadBalancerNodePorts") is False:
        return
    taken = {port.get("nodePort") for service in _services(cluster) for port in service["spec"].get("ports") or ()}
    free = (port for port in _NODE_PORTS if port not in taken)
    for port in spec.get("ports") or ():
        if not port.get("nodePort"):
            port["nodePort"] = next(free)


def _template(made: Object) -> Object:
    spec: Object = made.setdefault("spec", {})
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    pod_spec(template.setdefault("spec", {}))
    return spec


def _deployment(made: Object, cluster: Cluster) -> None:
    spec = _template(made)
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)


def _replica_set(made: Object, cluster: Cluster) -> None:
    _template(made).setdefault("replicas", 1)


def _stateful_set(made: Object, cluster: Cluster) -> None:
    spec = _template(made)
    spec.setdefault("replicas", 1)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    spec.setdefault("revisionHistoryLimit", 10)
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)
    retention = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
    retention.setdefault("whenDeleted", "Retain")
    retention.setdefault("whenScaled", "Retain")


def _daemon_set(made: Object, cluster: Cluster) -> None:
    spec = _template(made)
    spec.setdefault("revisionHistoryLimit", 10)
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)


def _job(made: Object, cluster: Cluster) -> None:
    spec = _template(made)
    uid = made["metadata"].get("uid", "")
    if uid and not spec.get("manualSelector"):
        labels = {"batch.kubernetes.io/controller-uid": uid, "controller-uid": uid,
                  "batch.kubernetes.io/job-name": made["metadata"]["name"],
                  "job-name": made["metadata"]["name"]}  # fmt: skip
        spec.setdefault("selector", {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}})
        meta = spec["template"]["metadata"]
        meta["labels"] = {**(meta.get("labels") or {}), **labels}
    _job_spec(spec)


def _job_spec(spec: Object) -> None:
    spec.setdefault("backoffLimit", 6)
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("podReplacementPolicy", "TerminatingOrFailed")


def _cron_job(made: Object, cluster: Cluster) -> None:
    spec = made.setdefault("spec", {})
    for key, value in (("concurrencyPolicy", "Allow"), ("suspend", False),
                       ("successfulJobsHistoryLimit", 3), ("failedJobsHistoryLimit", 1)):  # fmt: skip
        spec.setdefault(key, value)
    job = spec.setdefault("jobTemplate", {}).setdefault("spec", {})
    template = job.setdefault("template", {})
    template.setdefault("metadata", {})
    pod_spec(template.setdefault("spec", {}))


def _secret(made: Object, cluster: Cluster) -> None:

    made.setdefault("type", "Opaque")
    plain = made.pop("stringData", None) or {}
    if plain:
        texts = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
        made["data"] = {**(made.get("data") or {}), **texts}


def _webhooks(mutating: bool) -> Callable[[Object, Cluster], None]:
    def filler(made: Object, cluster: Cluster) -> None:
        for webhook in made.get("webhooks") or ():
            for key, value in (("failurePolicy", "Fail"), ("matchPolicy", "Equivalent"), ("namespaceSelector", {}),
                               ("objectSelector", {}), ("timeoutSeconds", 10)):  # fmt: skip
                webhook.setdefault(key, deepcopy(value))
            if mutating:
                webhook.setdefault("reinvocationPolicy", "Never")
            if service := webhook.get("clientConfig", {}).get("service"):
                service.setdefault("port", 443)
            for rule in webhook.get("rules") or ():
                rule.setdefault("scope", "*")

    return filler


def _binding(made: Object, cluster: Cluster) -> None:
    reference = made.get("roleRef") or {}
    reference.setdefault("apiGroup", "rbac.authorization.k8s.io")
    for subject in made.get("subjects") or ():
        if subject.get("kind") in ("User", "Group"):
            subject.setdefault("apiGroup", "rbac.authorization.k8s.io")


def _definition(made: Object, cluster: Cluster) -> None:
    crds.fill(made)


def _endpoint_slice(made: Object, cluster: Cluster) -> None:
    for port in made.get("ports") or ():
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def _qos(spec: Object) -> str:
    """The pod's class (kubernetes.io/docs/concepts/workloads/pods/pod-qos)."""
    sizes: list[Any] = []
    for container in (*spec.get("containers", ()), *(spec.get("initContainers") or ())):
        resources = container.get("resources") or {}
        sizes.append((resources.get("limits") or {}, resources.get("requests") or {}))
    if not any(limits or requests for limits, requests in sizes):
        return "BestEffort"
    guaranteed = all(
        {"cpu", "memory"} <= set(limits) and all(requests.get(key, limits[key]) == limits[key] for key in limits)
        for limits, requests in sizes
    )
    return "Guaranteed" if guaranteed else "Burstable"


_FILLERS: dict[tuple[str, str], Callable[[Object, Cluster], None]] = {
    ("", "namespaces"): _namespace,
    ("", "pods"): _pod,
    ("", "services"): _service,
    ("", "secrets"): _secret,
    ("apps", "deployments"): _deployment,
    ("apps", "replicasets"): _replica_set,
    ("apps", "statefulsets"): _stateful_set,
    ("apps", "daemonsets"): _daemon_set,
    ("batch", "jobs"): _job,
    ("batch", "cronjobs"): _cron_job,
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): _webhooks(mutating=True),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"): _webhooks(mutating=False),
    ("rbac.authorization.k8s.io", "rolebindings"): _binding,
    ("rbac.authorization.k8s.io", "clusterrolebindings"): _binding,
    ("discovery.k8s.io", "endpointslices"): _endpoint_slice,
    crds.STORAGE: _definition,
}
