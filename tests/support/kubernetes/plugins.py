"""Admission plugins that a real API server has built in, and that change or refuse pods: ServiceAccount, Priority,
DefaultTolerationSeconds and PodSecurity."""

import random
from collections.abc import Iterator
from typing import Any

from tests.support.kubernetes import pod_security
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import Object, forbidden
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.metadata import suffix

TOKEN_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_VOLUME = "kube-api-access-"
_TOKEN_LASTS = 3607
_MODE = 0o644
_TOLERATED = 300
_NOT_READY = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_PODS = ("", "pods")
# Where each kind has its pod template; PodSecurity warns of them and refuses only pods.
_TEMPLATES = {("apps", "deployments"), ("apps", "daemonsets"), ("apps", "statefulsets"), ("apps", "replicasets"),
              ("batch", "jobs")}  # fmt: skip
_ENFORCE = "pod-security.kubernetes.io/enforce"
_WARN = "pod-security.kubernetes.io/warn"


def admit(cluster: Cluster, kind: Kind, made: Object) -> None:
    """What is done to a new pod, before webhooks and again after them, in place.

    Raises:
        ApiError: 403, its service account does not exist.
    """
    if kind.storage != _PODS:
        return
    spec, meta = made["spec"], made["metadata"]
    if "kubernetes.io/config.mirror" in (meta.get("annotations") or {}):
        return
    account = spec.setdefault("serviceAccountName", "default")
    spec["serviceAccount"] = account
    found = cluster.store.get(("", "serviceaccounts"), meta["namespace"], account)
    if found is None:
        said = f'error looking up service account {meta["namespace"]}/{account}: serviceaccount "{account}" not found'
        raise forbidden(f'pods "{meta.get("name", "")}" is forbidden: {said}', plural="pods", name=meta.get("name", ""))
    wanted = spec.get("automountServiceAccountToken", found.get("automountServiceAccountToken", True))
    if wanted:
        _mount_token(spec, cluster.dice)
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("enableServiceLinks", True)
    tolerations = spec.setdefault("tolerations", [])
    for key in _NOT_READY:
        if not any(
            each.get("key") in (key, None) and each.get("effect") in ("NoExecute", None) for each in tolerations
        ):
            tolerations.append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _TOLERATED}
            )


def _mount_token(spec: Object, dice: random.Random) -> None:
    """The token for the API server, into every container that has nothing at its place."""
    lacking = [
        container
        for key in ("initContainers", "containers")
        for container in spec.get(key) or ()
        if all(mount.get("mountPath") != TOKEN_MOUNT for mount in container.get("volumeMounts") or ())
    ]
    if not lacking:
        return
    volumes = spec.setdefault("volumes", [])
    name = next((each["name"] for each in volumes if each["name"].startswith(_TOKEN_VOLUME)), "")
    if not name:
        name = _TOKEN_VOLUME + suffix(dice)
        volumes.append({"name": name, "projected": _token_sources()})
    for container in lacking:
        container.setdefault("volumeMounts", []).append({"name": name, "readOnly": True, "mountPath": TOKEN_MOUNT})


def _token_sources() -> Object:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return {
        "defaultMode": _MODE,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": _TOKEN_LASTS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
    }


def check(cluster: Cluster, kind: Kind, made: Object, warnings: list[str]) -> None:
    """PodSecurity: a pod that its namespace does not let in is refused, a template that would be is warned of.

    Raises:
        ApiError: 403.
    """
    spec: Any = made.get("spec")
    if kind.storage != _PODS and kind.storage not in _TEMPLATES:
        return
    place = cluster.store.get(("", "namespaces"), "", made["metadata"].get("namespace", "")) or {"metadata": {}}
    labels = place["metadata"].get("labels") or {}
    name = made["metadata"].get("name", "")
    if kind.storage in _TEMPLATES:
        level = labels.get(_WARN) or labels.get(_ENFORCE, "privileged")
        if _WARN in labels and (said := _said(spec["template"]["spec"], level)):
            warnings.append(f'would violate PodSecurity "{level}:latest": {said}')
        return
    level = labels.get(_ENFORCE, "privileged")
    if said := _said(spec, level):
        raise forbidden(
            f'pods "{name}" is forbidden: violates PodSecurity "{level}:latest": {said}', plural="pods", name=name
        )


def _said(spec: Object, level: str) -> str:
    found: Iterator[str] = pod_security.violations(spec, level)
    return ", ".join(found)
