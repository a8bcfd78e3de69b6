"""What a new cluster has from the beginning: namespaces, and the Service of the API server itself."""

from tests.support.kubernetes import metadata
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import Object

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")


def populate(cluster: Cluster, root: str) -> None:
    """Put in what is always there."""
    for name in NAMESPACES:
        made: Object = {
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        }  # fmt: skip
        kind = cluster.registry.get("", "v1", "namespaces")
        metadata.begin(made, kind, cluster.clock(), cluster.dice)
        cluster.store.put(kind.storage, made)
