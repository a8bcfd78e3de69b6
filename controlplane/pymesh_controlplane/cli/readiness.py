"""What an installation still waits for, told from the objects that the API server has."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pymesh import names
from pymesh_controlplane.cli import bundle

Document = Mapping[str, Any]

# Reasons of a container's waiting that say no more than that it has not begun.
_COMMON: Final = frozenset({"", "ContainerCreating", "PodInitializing"})
_LEADER: Final = "the control plane's leader"


def deployment_waits(deployment: Document, pods: Sequence[Document]) -> str:
    """Why a Deployment is not ready; "" if as many pods as it wants are, and none of an older version is left.

    Args:
        deployment: as the API server has it.
        pods: those of its namespace.
    """
    spec, status = deployment["spec"], deployment.get("status") or {}
    name, wanted = deployment["metadata"]["name"], spec.get("replicas", 1)
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return f"{name}: not seen by the cluster's controller yet"
    ready = min(status.get("updatedReplicas", 0), status.get("availableReplicas", 0))
    old = status.get("replicas", 0) - wanted
    if ready >= wanted and old <= 0:
        return ""
    if ready >= wanted:
        return f"{name}: {ready} of {wanted} ready; still to end of the version before: {old}"
    mine = [pod for pod in pods if _selects(spec["selector"]["matchLabels"], pod)]
    reasons = list(dict.fromkeys(reason for pod in mine if (reason := _pod_waits(pod))))
    reasons += [] if mine else list(_refused(status))
    return f"{name}: {ready} of {wanted} ready{''.join(f'; {reason}' for reason in reasons)}"


def is_off(deployment: Document) -> bool:
    """Whether a Deployment wants no pod at all."""
    return bool(deployment["spec"].get("replicas", 1) == 0)


def scale_up(name: str) -> str:
    """What brings back a Deployment of the mesh that is scaled to 0: as many pods as the manifests give it."""
    for document in bundle.documents(bundle.PARTS):
        if (document["kind"], document["metadata"]["name"]) == ("Deployment", name):
            replicas = document["spec"].get("replicas", 1)
            return f"kubectl -n {names.SYSTEM_NAMESPACE} scale deployment/{name} --replicas={replicas}"
    return f"kubectl -n {names.SYSTEM_NAMESPACE} scale deployment/{name} --replicas=1"


def is_ready(pod: Document) -> bool:
    """Whether a pod is ready, and stays."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def crd_waits(crd: Document) -> str:
    """Why a CRD does not serve its kind yet; "" if it does."""
    for condition in (crd.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Established" and condition.get("status") == "True":
            return ""
        if condition.get("type") == "NamesAccepted" and condition.get("status") == "False":
            return f"{crd['metadata']['name']}: {condition.get('message')}"
    return f"{crd['metadata']['name']}: not established"


def webhooks_wait(configuration: Document) -> str:
    """Why the API server cannot ask webhooks; "" if the leader has told it whom to believe."""
    if all(webhook["clientConfig"].get("caBundle") for webhook in configuration["webhooks"]):
        return ""
    return f"{configuration['metadata']['name']}: {_LEADER} has not written its caBundle yet"


def missing_crds_wait(wanted: Sequence[str], found: Sequence[str]) -> str:
    """Which of Istio's CRDs are not there yet; "" if all are."""
    missing = sorted(set(wanted).difference(found))
    return f"{_LEADER} has not made {', '.join(missing)} yet" if missing else ""


def _selects(labels: Mapping[str, str], pod: Document) -> bool:
    return labels.items() <= (pod["metadata"].get("labels") or {}).items()


def _pod_waits(pod: Document) -> str:
    """What keeps a pod from running, where it is more than that it has not begun yet."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"not scheduled: {condition.get('message')}"
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason", "") not in _COMMON:
            ended = (container.get("lastState") or {}).get("terminated") or {}
            last = f" (ended with {ended['exitCode']})" if "exitCode" in ended else ""
            return ": ".join(filter(None, (waiting["reason"] + last, waiting.get("message", ""))))
    return ""


def _refused(status: Document) -> Iterator[str]:
    """Why there are no pods at all: quota, admission."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            yield str(condition.get("message"))
