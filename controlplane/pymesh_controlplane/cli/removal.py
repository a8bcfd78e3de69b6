"""A mesh out of a cluster: all that `pymesh install` or `kubectl apply -k deploy/` put there, and what it then made.

What people wrote is theirs: resources of the mesh kinds with their CRDs, Secrets and ConfigMaps beside the mesh.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from pymesh import names
from pymesh.errors import MeshError
from pymesh_controlplane.cli import bundle
from pymesh_controlplane.cli.progress import Update
from pymesh_controlplane.injector.settings import ANNOTATION_STATUS
from pymesh_controlplane.kube.api import Api, ApiError
from pymesh_controlplane.kube.paths import Paths

# Seconds between two looks at whether the namespace is gone.
POLL: Final = 0.5

# The mesh's own root.
CA: Final = "pymesh-ca"

# What is found in the system namespace without being anybody's: the mesh's own, and what Kubernetes and OpenShift put
# into every namespace.
_NOBODYS: Final = frozenset(
    {
        ("Secret", CA),
        ("ConfigMap", names.ROOT_CONFIG_MAP),
        ("ConfigMap", "kube-root-ca.crt"),
        ("ConfigMap", "openshift-service-ca.crt"),
    }
)
# Secrets that controllers of the cluster make for service accounts.
_OF_ACCOUNTS: Final = ("kubernetes.io/service-account-token", "kubernetes.io/dockercfg")
# Who writes the CRDs that the control plane makes; anybody else's name on one says that it is somebody else's now.
_OURS: Final = frozenset({"pymesh", "pymesh-controlplane"})
_GROUP: Final = "policy.pymesh.io"

Document = dict[str, Any]


class Removed(NamedTuple):
    """What became of an object: `deleted` (in a dry run `would be deleted`), or `kept` and why."""

    title: str
    outcome: str


Delete = Callable[[str, Document], Iterator[Removed]]


def remove(api: Api, paths: Paths, *, purge: bool, dry_run: bool = False) -> Iterator[Removed]:
    """Delete the mesh, and tell of each object what became of it.

    Args:
        purge: what people wrote, too.
        dry_run: only tell what would become of it; nothing is deleted.

    Raises:
        ApiError: the API server is away, or says no.
    """
    documents = bundle.documents(bundle.PARTS)
    delete = partial(_delete, api, paths, dry_run)
    # The webhooks first: nothing is to be asked of a control plane that is on its way out.
    for document in reversed(documents):
        if document["kind"] not in {"Namespace", "CustomResourceDefinition"}:
            yield from delete(document["kind"], document["metadata"])
    for root in api.items(paths.of("ConfigMap"), fieldSelector=f"metadata.name={names.ROOT_CONFIG_MAP}"):
        if root["metadata"]["namespace"] != names.SYSTEM_NAMESPACE and _is_ours(root):
            yield from delete("ConfigMap", root["metadata"])
    going = {(document["kind"], document["metadata"]["name"]) for document in documents}
    yield from _remove_namespace(api, paths, delete, [] if purge else list(_theirs(api, paths, going)))
    for crd in api.items(paths.of("CustomResourceDefinition"), labelSelector="=".join(bundle.PART_OF)):
        yield from _remove_crd(api, delete, crd, purge=purge)


def wait_until_gone(api: Api, paths: Paths, update: Update, timeout: float) -> None:
    """Wait until the system namespace is gone, if it is on its way.

    Raises:
        ApiError: the API server is away.
        MeshError: it is still there after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while (found := api.find(paths.of("Namespace", name=names.SYSTEM_NAMESPACE))) is not None:
        if "deletionTimestamp" not in found["metadata"]:
            return
        conditions = (found.get("status") or {}).get("conditions") or []
        reasons = [str(condition.get("message")) for condition in conditions if condition.get("status") == "True"]
        update("; ".join(reasons))
        if time.monotonic() >= deadline:
            why = "".join(f"\n  {reason}" for reason in reasons)
            raise MeshError(f"namespace {names.SYSTEM_NAMESPACE} is still going away after {timeout:g} s{why}")
        time.sleep(POLL)


def with_sidecar(api: Api, paths: Paths) -> int:
    """How many pods have a sidecar.

    Raises:
        ApiError: it cannot be said.
    """
    pods = api.items(paths.of("Pod"))
    return sum(ANNOTATION_STATUS in (pod["metadata"].get("annotations") or {}) for pod in pods)


def _remove_namespace(api: Api, paths: Paths, delete: Delete, theirs: Sequence[str]) -> Iterator[Removed]:
    if api.find(paths.of("Namespace", name=names.SYSTEM_NAMESPACE)) is None:
        return
    if not theirs:
        # By name, though the namespace would take it along: it is the root of every sidecar that is left.
        yield from delete("Secret", {"name": CA, "namespace": names.SYSTEM_NAMESPACE})
        yield from delete("Namespace", {"name": names.SYSTEM_NAMESPACE})
        return
    for kind, name in sorted(_NOBODYS):
        if kind == "Secret" or name == names.ROOT_CONFIG_MAP:
            yield from delete(kind, {"name": name, "namespace": names.SYSTEM_NAMESPACE})
    yield from delete("Lease", {"name": names.CONTROL_PLANE, "namespace": names.SYSTEM_NAMESPACE})
    yield Removed(f"Namespace {names.SYSTEM_NAMESPACE}", f"kept, with what is yours in it: {', '.join(theirs)}")


def _theirs(api: Api, paths: Paths, going: Collection[tuple[str, str]]) -> Iterator[str]:
    """What people put into the system namespace, beside what is `going` by kind and name."""
    for kind in ("ConfigMap", "Secret", "Deployment"):
        for found in api.items(paths.of(kind, names.SYSTEM_NAMESPACE)):
            name, of = found["metadata"]["name"], str(found.get("type", ""))
            ending = "deletionTimestamp" in found["metadata"]
            nobodys = (kind, name) in _NOBODYS or (kind, name) in going
            if not ending and not nobodys and not of.startswith(_OF_ACCOUNTS):
                yield f"{kind} {name}"


def _remove_crd(api: Api, delete: Delete, crd: Document, *, purge: bool) -> Iterator[Removed]:
    """Delete a CRD, unless it has become somebody else's, or has objects that people wrote."""
    metadata, spec = crd["metadata"], crd["spec"]
    title = f"CustomResourceDefinition {metadata['name']}"
    if spec["group"] != _GROUP and not _is_ours(crd):
        yield Removed(title, "kept: others have changed it")
        return
    version = next(version["name"] for version in spec["versions"] if version["storage"])
    objects = api.items(f"/apis/{spec['group']}/{version}/{spec['names']['plural']}")
    if objects and not purge:
        yield Removed(title, f"kept, with what is yours: {len(objects)} of them")
        return
    yield from delete("CustomResourceDefinition", metadata)


def _is_ours(found: Document) -> bool:
    """Whether nobody but the mesh has written it."""
    fields = found["metadata"].get("managedFields") or []
    return {entry.get("manager") for entry in fields if not entry.get("subresource")} <= _OURS


def _delete(api: Api, paths: Paths, dry_run: bool, kind: str, metadata: Document) -> Iterator[Removed]:
    """Delete an object, if it is there and not on its way already."""
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    path = paths.of(kind, namespace, name)
    found = api.find(path)
    if found is None or "deletionTimestamp" in found["metadata"]:
        return
    title = f"{kind} {'/'.join(filter(None, (namespace, name)))}"
    if dry_run:
        yield Removed(title, "would be deleted")
        return
    try:
        api.delete(path, uid=found["metadata"]["uid"])
    except ApiError as error:
        if error.code != 404:
            raise
        return
    yield Removed(title, "deleted")
