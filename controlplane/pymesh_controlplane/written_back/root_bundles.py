"""The mesh's root certificates, in every namespace: a pod mounts them, and its sidecar holds citadel against them.

The ConfigMap has the key that Istio's has and a name of its own: an istiod in the same cluster would write its own root
into one of that name for ever, and the sidecars of either would trust the wrong one. Those that are made here belong to
the system namespace: when that goes, the cluster's garbage collector takes them along.

RBAC: namespaces list, watch; configmaps create, and list, watch and patch of this name.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from lightkube import AsyncClient
from lightkube.models.meta_v1 import ObjectMeta, OwnerReference
from lightkube.resources.core_v1 import ConfigMap, Namespace
from lightkube.types import PatchType

from pymesh import names
from pymesh_controlplane.kube import trim
from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.kube.replica import Name, Object
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.written_back.keeper import Keeper, Write

LABELS: Final = {"app.kubernetes.io/part-of": "pymesh"}

Objects = Mapping[Name, Object]


def lacking(namespaces: Objects, config_maps: Objects, bundle: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """The namespaces whose ConfigMap is not as it should be; and what it lacks, None if it is not there.

    A namespace that is being deleted takes nothing new. What else somebody put into the ConfigMap stays.
    """
    for name, namespace in sorted(namespaces.items()):
        if namespace["metadata"].get("deletionTimestamp"):
            continue
        found = config_maps.get(Name(name.name, names.ROOT_CONFIG_MAP))
        if found is None:
            yield name.name, None
            continue
        labels, data = found["metadata"].get("labels") or {}, found.get("data") or {}
        if data.get(names.ROOT_FILE) != bundle or not LABELS.items() <= labels.items():
            yield name.name, {"metadata": {"labels": LABELS}, "data": {names.ROOT_FILE: bundle}}


def owner(namespaces: Objects) -> list[OwnerReference]:
    """To whom what is made belongs: the system namespace, if there is one."""
    found = namespaces.get(Name("", names.SYSTEM_NAMESPACE))
    if found is None:
        return []
    metadata = found["metadata"]
    return [OwnerReference(apiVersion="v1", kind="Namespace", name=metadata["name"], uid=metadata["uid"])]


def keeper(client: AsyncClient, bundle: Callable[[], str], metrics: Metrics) -> Keeper:
    """Keeps what `bundle` answers (PEM) in every namespace."""

    def watch(changed: Callable[[], None]) -> Sequence[Reflector]:
        return (
            Reflector(client, Namespace, trim=trim.named, notify=changed, metrics=metrics),
            Reflector(
                client,
                ConfigMap,
                fields=f"metadata.name={names.ROOT_CONFIG_MAP}",
                trim=trim.authored(trim.config_map),
                notify=changed,
                metrics=metrics,
            ),
        )

    def write(namespace: str, patch: dict[str, Any] | None, namespaces: Objects, found: Object | None) -> Write:
        name = f"ConfigMap {namespace}/{names.ROOT_CONFIG_MAP}"
        # In a namespace that was made anew it is missing without anybody's having deleted it.
        uid = str(namespaces[Name("", namespace)]["metadata"].get("uid"))
        if patch is not None:
            return Write(
                name,
                lambda: client.patch(
                    ConfigMap, names.ROOT_CONFIG_MAP, patch, namespace=namespace, patch_type=PatchType.MERGE
                ),
                uid,
                found,
            )
        metadata = ObjectMeta(
            name=names.ROOT_CONFIG_MAP, namespace=namespace, labels=dict(LABELS), ownerReferences=owner(namespaces)
        )
        return Write(name, lambda: client.create(ConfigMap(metadata=metadata, data={names.ROOT_FILE: bundle()})), uid)

    def due(reflectors: Sequence[Reflector]) -> Iterator[Write]:
        namespaces, config_maps = (reflector.objects for reflector in reflectors)
        return (
            write(namespace, patch, namespaces, config_maps.get(Name(namespace, names.ROOT_CONFIG_MAP)))
            for namespace, patch in lacking(namespaces, config_maps, bundle())
        )

    return Keeper("root bundles", watch, due, metrics)
