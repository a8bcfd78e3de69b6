"""What is kept of objects: what somebody reads. Pure.

A pod of a real cluster has some 10 to 20 kB, most of it bookkeeping of the API server and of kubelet.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from pymesh import names
from pymesh_controlplane.injector.settings import ANNOTATION_PROXY
from pymesh_controlplane.kube.replica import Object

# Of an annotation's value, characters. Longer ones are documents that tools keep there (kubectl's last-applied, Helm,
# Argo); nothing of the mesh's is.
MAX_ANNOTATION: Final = 1024

_SERVICE_SPEC: Final = (
    "selector", "type", "clusterIP", "clusterIPs", "externalName", "externalIPs", "publishNotReadyAddresses",
    "sessionAffinity",
)  # fmt: skip
_SERVICE_PORT: Final = ("name", "port", "protocol", "targetPort", "appProtocol")
_METADATA: Final = (
    "name", "namespace", "uid", "generation", "labels", "annotations", "creationTimestamp", "deletionTimestamp",
)  # fmt: skip


def everything(value: dict[str, Any]) -> Object:
    """All of it but who wrote which field, which is often the larger half."""
    value["metadata"].pop("managedFields", None)
    return value


def authored(kept: Callable[[dict[str, Any]], Object]) -> Callable[[dict[str, Any]], Object]:
    """What `kept` keeps, and who wrote to it when: its managed fields, without the fields."""

    def trimmed(value: dict[str, Any]) -> Object:
        entries = [_only(entry, ("manager", "time")) for entry in value["metadata"].get("managedFields") or []]
        found = kept(value)
        return {**found, "metadata": {**found["metadata"], "managedFields": entries}}

    return trimmed


def written(value: dict[str, Any]) -> Object:
    """What a person wrote: everything but what others add to it."""
    return {"metadata": _metadata(value["metadata"])} | {
        name: item for name, item in value.items() if name not in {"metadata", "status"}
    }


def with_addresses(value: dict[str, Any]) -> Object:
    """What a person wrote, and of its status the addresses, which a runtime adds."""
    kept, status = written(value), value.get("status")
    return {**kept, "status": _only(status, ("addresses",))} if isinstance(status, dict) else kept


def named(value: dict[str, Any]) -> Object:
    """That it is there, under which labels and annotations."""
    return _outline(value)


def service(value: dict[str, Any]) -> Object:
    """What decides where connections to a service go. Fields that a newer Kubernetes adds do not get further."""
    spec = value.get("spec") or {}
    kept = _only(spec, _SERVICE_SPEC)
    if "ports" in spec:
        kept["ports"] = [_only(port, _SERVICE_PORT) for port in spec["ports"]]
    return {**_outline(value), "spec": kept}


def secret(value: dict[str, Any]) -> Object:
    """What a Secret holds."""
    return {**_outline(value), **_only(value, ("type", "data"))}


def config_map(value: dict[str, Any]) -> Object:
    """What a ConfigMap holds as text."""
    return {**_outline(value), **_only(value, ("data",))}


def pod(value: dict[str, Any]) -> Object:
    """Who a pod is, where it is, which ports its containers say, and whether it still runs."""
    spec, status = value.get("spec") or {}, value.get("status") or {}
    kept = _outline(value)
    annotations = _only(kept["metadata"].pop("annotations", {}), (ANNOTATION_PROXY,))
    if annotations:
        kept["metadata"]["annotations"] = annotations
    # Deletion is told by the endpoints; a time stamp more would be one change more of every pod that goes.
    kept["metadata"].pop("deletionTimestamp", None)
    owners = [_only(item, ("kind", "name", "controller")) for item in value["metadata"].get("ownerReferences") or []]
    if owners:
        kept["metadata"]["ownerReferences"] = owners
    kept["spec"] = _only(spec, ("serviceAccountName", "nodeName", "hostNetwork"))
    for containers in ("containers", "initContainers"):
        if spec.get(containers):
            kept["spec"][containers] = [_only(item, ("name", "ports", "restartPolicy")) for item in spec[containers]]
    kept["status"] = _only(status, ("podIP", "podIPs", "phase"))
    return kept


def node(value: dict[str, Any]) -> Object:
    """Where a node stands."""
    labels = value["metadata"].get("labels") or {}
    where = {label: labels[label] for label in names.LABELS_LOCALITY if label in labels}
    return {**_outline(value), "metadata": {"name": value["metadata"]["name"], "labels": where}}


def endpoint_slice(value: dict[str, Any]) -> Object:
    """Which addresses it has, of which pods, where, and how they are."""
    kept = {**_outline(value), **_only(value, ("addressType", "ports"))}
    kept["metadata"].pop("annotations", None)  # among them when a pod changed last: one change more for every change
    kept["metadata"].pop("generation", None)
    kept["endpoints"] = [_endpoint(item) for item in value.get("endpoints") or []]
    return kept


def _endpoint(value: Mapping[str, Any]) -> dict[str, Any]:
    kept = _only(value, ("addresses", "conditions", "hostname", "nodeName", "zone"))
    if target := value.get("targetRef"):
        kept["targetRef"] = _only(target, ("kind", "name", "namespace"))
    return kept


def _outline(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": value["apiVersion"],
        "kind": value["kind"],
        "metadata": _metadata(value["metadata"]),
    }


def _metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    kept = _only(metadata, _METADATA)
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if len(v) <= MAX_ANNOTATION}
    if annotations:
        kept["annotations"] = annotations
    else:
        kept.pop("annotations", None)
    if labels := kept.get("labels"):
        kept["labels"] = {key: sys.intern(label) for key, label in labels.items()}
    return kept


def _only(value: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    """`fields` of `value`; texts that many objects share are there once."""
    return {
        name: sys.intern(item) if isinstance(item := value[name], str) else item for name in fields if name in value
    }
