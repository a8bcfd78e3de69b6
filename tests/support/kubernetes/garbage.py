"""The end of objects: finalizers, graceful deletion, owners and their dependents, namespaces and their contents."""

import asyncio
from collections.abc import Mapping
from typing import Any

from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import ApiError, Object, not_found
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.metadata import timestamp
from tests.support.kubernetes.store import Store

NAMESPACES = ("", "namespaces")
# Seconds for which a namespace that was deleted is still there, as it is in a real cluster: who deletes a set of
# objects with their namespace finds all of them.
NAMESPACE_LINGERS = 0.5
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


def check_namespace(store: Store, kind: Kind, namespace: str, name: str) -> None:
    """What the plugin NamespaceLifecycle does.

    Raises:
        ApiError: 404, the namespace does not exist; 403, it is about to go.
    """
    if not kind.namespaced:
        return
    found = store.get(NAMESPACES, "", namespace)
    if found is None:
        raise not_found("", "namespaces", namespace)
    if found["metadata"].get("deletionTimestamp"):
        message = (
            f'{kind.plural} "{name}" is forbidden: unable to create new content in namespace {namespace} '
            "because it is being terminated"
        )
        cause = {"reason": "NamespaceTerminating", "message": f"namespace {namespace} is being terminated",
                 "field": "metadata.namespace"}  # fmt: skip
        raise ApiError(403, "Forbidden", message, {"name": name, "kind": kind.plural, "causes": [cause]})


def waits(found: Object) -> bool:
    """Whether something holds an object that is to be deleted."""
    meta = found["metadata"]
    graceful = bool(meta.get("deletionGracePeriodSeconds"))
    return bool(meta.get("finalizers") or graceful or found.get("spec", {}).get("finalizers"))


def delete(cluster: Cluster, kind: Kind, found: Object, options: Mapping[str, Any]) -> Object | None:
    """Begin the end of an object; the object if it has to wait for something, None if it is gone."""
    meta = dict(found["metadata"])
    finalizers = [each for each in meta.get("finalizers") or () if each not in (FOREGROUND, ORPHAN)]
    policy = options.get("propagationPolicy") or ("Orphan" if options.get("orphanDependents") else "Background")
    finalizers += {"Foreground": [FOREGROUND], "Orphan": [ORPHAN]}.get(policy, [])
    grace = _grace(kind, found, options)
    meta["finalizers"] = finalizers
    if not finalizers:
        del meta["finalizers"]
    meta["deletionTimestamp"] = meta.get("deletionTimestamp") or timestamp(cluster.clock() + grace)
    meta["deletionGracePeriodSeconds"] = grace
    ending: Object = found | {"metadata": meta}
    if kind.storage == NAMESPACES:
        ending["status"] = {**found.get("status", {}), "phase": "Terminating"}
    if not waits(ending):
        remove(cluster, kind, meta.get("namespace", ""), meta["name"])
        return None
    if ending["metadata"] != found["metadata"]:
        cluster.store.put(kind.storage, ending)
    return _finish(cluster, kind, ending)


def _grace(kind: Kind, found: Object, options: Mapping[str, Any]) -> int:
    """Seconds: only pods that a node has are given any, and the node's kubelet ends them by a second delete with 0."""
    spec = found.get("spec") or {}
    over = (found.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    if kind.storage != ("", "pods") or not spec.get("nodeName") or over:
        return 0
    asked = options.get("gracePeriodSeconds")
    return int(spec.get("terminationGracePeriodSeconds", 30) if asked is None else asked)


def _finish(cluster: Cluster, kind: Kind, ending: Object) -> Object | None:
    """Do the garbage collector's and the namespace controller's part, as far as it can be done now."""
    meta = ending["metadata"]
    if ORPHAN in meta.get("finalizers", ()):
        _let_go(cluster, meta["uid"])
    if FOREGROUND in meta.get("finalizers", ()):
        for other, dependent in _dependents(cluster, meta["uid"]):
            delete(cluster, other, dependent, {})
        if _dependents(cluster, meta["uid"]):
            return ending
    if kind.storage == NAMESPACES:
        asyncio.get_running_loop().call_later(NAMESPACE_LINGERS, end_namespace, cluster, meta["name"])
        return ending
    left = [each for each in meta.get("finalizers", ()) if each not in (FOREGROUND, ORPHAN)]
    if left or meta.get("deletionGracePeriodSeconds"):
        return ending
    remove(cluster, kind, meta.get("namespace", ""), meta["name"])
    return None


def remove(cluster: Cluster, kind: Kind, namespace: str, name: str) -> Object:
    """Take an object out, and what depended on it alone; the object as it was told to watches."""
    gone = cluster.store.remove(kind.storage, namespace, name)
    for other, dependent in _dependents(cluster, gone["metadata"]["uid"]):
        if all(_lives(cluster, owner["uid"]) is False for owner in dependent["metadata"]["ownerReferences"]):
            delete(cluster, other, dependent, {})
    _look_again(cluster, gone)
    return gone


def _look_again(cluster: Cluster, gone: Object) -> None:
    """Whoever waited for this object to go may go as well: its namespace, an owner deleted in the foreground."""
    namespace = gone["metadata"].get("namespace", "")
    place = cluster.store.get(NAMESPACES, "", namespace) if namespace else None
    if place and place["metadata"].get("deletionTimestamp") and not any(_contents(cluster, namespace)):
        remove(cluster, cluster.registry.get("", "v1", "namespaces"), "", namespace)
    for owner in gone["metadata"].get("ownerReferences", ()):
        kind = cluster.registry.of(owner["apiVersion"], owner["kind"])
        found = kind and cluster.store.get(kind.storage, namespace if kind.namespaced else "", owner["name"])
        if kind and found and FOREGROUND in found["metadata"].get("finalizers", ()):
            _finish(cluster, kind, found)


def _dependents(cluster: Cluster, uid: str) -> list[tuple[Kind, Object]]:
    return [
        (kind, each)
        for storage, kept in cluster.store.objects.items()
        if (kind := cluster.registry.stored(storage))
        for each in list(kept.values())
        if any(owner["uid"] == uid for owner in each["metadata"].get("ownerReferences", ()))
    ]


def _lives(cluster: Cluster, uid: str) -> bool:
    return any(
        each["metadata"]["uid"] == uid for kept in cluster.store.objects.values() for each in kept.values()
    )  # fmt: skip


def _let_go(cluster: Cluster, uid: str) -> None:
    for kind, dependent in _dependents(cluster, uid):
        owners = [owner for owner in dependent["metadata"]["ownerReferences"] if owner["uid"] != uid]
        meta = {**dependent["metadata"], "ownerReferences": owners}
        if not owners:
            del meta["ownerReferences"]
        cluster.store.put(kind.storage, dependent | {"metadata": meta})


def _contents(cluster: Cluster, namespace: str) -> list[tuple[Kind, Object]]:
    return [
        (kind, each)
        for storage in list(cluster.store.objects)
        if (kind := cluster.registry.stored(storage)) and kind.namespaced
        for each in cluster.store.all(storage, namespace)
    ]


def end_namespace(cluster: Cluster, name: str) -> None:
    """The namespace controller's part: delete what is in a namespace that is being terminated, then the namespace."""
    place = cluster.store.get(NAMESPACES, "", name)
    if place is None or not place["metadata"].get("deletionTimestamp"):
        return
    for kind, each in _contents(cluster, name):
        if cluster.store.get(kind.storage, name, each["metadata"]["name"]) is each:
            delete(cluster, kind, each, {"gracePeriodSeconds": 0})
    if cluster.store.get(NAMESPACES, "", name) and not _contents(cluster, name):
        remove(cluster, cluster.registry.get("", "v1", "namespaces"), "", name)
