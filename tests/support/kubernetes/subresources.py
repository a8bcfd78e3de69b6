"""What is below an object and is not the object: the scale of workloads, the log of a pod."""

from collections.abc import Mapping

from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import Object, bad_request
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.reads import get
from tests.support.kubernetes.requests import Asked


def scale(found: Object) -> Object:
    """autoscaling/v1 Scale of a workload."""
    meta, spec = found["metadata"], found.get("spec") or {}
    selector = (spec.get("selector") or {}).get("matchLabels") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Object = {"replicas": found.get("status", {}).get("replicas", 0)}
    if selector:
        status["selector"] = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
    return {
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": {"replicas": spec["replicas"]} if spec.get("replicas") else {}, "status": status,
    }  # fmt: skip


def scaled(found: Object, wanted: Object) -> Object:
    """The workload with the replicas that a Scale says.

    Raises:
        ApiError: 400.
    """
    replicas = (wanted.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        raise bad_request(f"spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0")
    meta = dict(found["metadata"])
    if version := (wanted.get("metadata") or {}).get("resourceVersion"):
        meta["resourceVersion"] = version
    return found | {"metadata": meta, "spec": found["spec"] | {"replicas": replicas}}


def log(cluster: Cluster, kind: Kind, asked: Asked) -> str:
    """GET pods/<name>/log: what the test has put there.

    Raises:
        ApiError: 400, 404.
    """
    pod = get(cluster.store, kind, asked.target)
    names = [each["name"] for key in ("containers", "initContainers") for each in pod["spec"].get(key) or ()]
    container = _container(pod, names, asked.query)
    text = cluster.logs.get((asked.target.namespace, asked.target.name, container), "")
    lines = text.splitlines(keepends=True)
    tail = asked.query.get("tailLines", "")
    return "".join(lines[max(len(lines) - int(tail), 0) :] if tail.isdecimal() else lines)


def _container(pod: Object, names: list[str], query: Mapping[str, str]) -> str:
    name, pod_name = query.get("container", ""), pod["metadata"]["name"]
    if not name and len(pod["spec"]["containers"]) > 1:
        first = " ".join(each["name"] for each in pod["spec"]["containers"])
        raise bad_request(f"a container name must be specified for pod {pod_name}, choose one of: [{first}]")
    if name and name not in names:
        raise bad_request(f"container {name} is not valid for pod {pod_name}")
    return name or names[0]
