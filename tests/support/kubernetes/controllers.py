"""What the controllers of a real control plane do when something changes, done at once: CRDs, new namespaces."""

from tests.support.kubernetes import crds, garbage, metadata
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import Object
from tests.support.kubernetes.store import Event

_NAMESPACES = ("", "namespaces")


class Controllers:
    """Watches the store of one cluster. `root` is the cluster's CA, PEM."""

    def __init__(self, cluster: Cluster, root: str) -> None:
        self._cluster = cluster
        self._root = root
        cluster.store.observers.append(self._changed)

    def _changed(self, event: Event) -> None:
        if event.storage == crds.STORAGE:
            self._definition(event)
        elif event.storage == _NAMESPACES and event.kind != "DELETED":
            self._namespace(event.object)

    def _definition(self, event: Event) -> None:
        definition = event.object
        if event.kind != "DELETED":
            crds.establish(self._cluster, definition)
            return
        spec = definition["spec"]
        storage = (spec["group"], spec["names"]["plural"])
        kind = self._cluster.registry.stored(storage)
        for each in self._cluster.store.all(storage) if kind else ():
            assert kind is not None
            garbage.delete(self._cluster, kind, each, {})
        self._cluster.registry.replace(*storage, ())

    def _namespace(self, namespace: Object) -> None:
        if namespace["metadata"].get("deletionTimestamp"):
            return
        name = namespace["metadata"]["name"]
        self._ensure("serviceaccounts", "ServiceAccount", name, "default", {})
        self._ensure("configmaps", "ConfigMap", name, "kube-root-ca.crt", {"data": {"ca.crt": self._root}})

    def _ensure(self, plural: str, kind: str, namespace: str, name: str, content: Object) -> None:
        """Create an object of the core group that is not there."""
        cluster = self._cluster
        if cluster.store.get(("", plural), namespace, name):
            return
        made: Object = {
            "apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, **content,
        }  # fmt: skip
        metadata.begin(made, cluster.registry.get("", "v1", plural), cluster.clock(), cluster.dice)
        cluster.store.put(("", plural), made)
