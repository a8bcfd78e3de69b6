"""A mesh's manifests into a cluster by server-side apply, and the wait until they are what runs."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pymesh import names
from pymesh.errors import MeshError
from pymesh_controlplane.cli import bundle, readiness
from pymesh_controlplane.cli.progress import Update
from pymesh_controlplane.kube.api import Api, ApiError
from pymesh_controlplane.kube.paths import Paths

# Seconds between two looks.
POLL: Final = 1.0

_CONFLICT: Final = "FieldManagerConflict"

Document = dict[str, Any]


class Outcome(NamedTuple):
    """What became of an object."""

    document: Document
    outcome: str


def apply(api: Api, paths: Paths, documents: Iterable[Document], *, force: bool) -> Iterator[Outcome]:
    """Apply each. Fields that others have written are left to them, and all of those are told at the end.

    Raises:
        ApiError: the API server is away, or says no.
        MeshError: an object is going away, or others have written fields that it has otherwise.
    """
    conflicts: list[str] = []
    for document in documents:
        metadata = document["metadata"]
        path = paths.of(document["kind"], metadata.get("namespace", ""), metadata["name"])
        before = api.find(path)
        if before is not None and "deletionTimestamp" in before["metadata"]:
            raise MeshError(f"{bundle.title(document)} is being deleted: wait until it is gone, and install then")
        try:
            after = api.apply(path, document, force=force)
        except ApiError as error:
            if not any(cause.get("reason") == _CONFLICT for cause in error.causes):
                raise
            conflicts += _in_words(document, error.causes)
            continue
        outcome = "created" if before is None else "configured" if _version(before) != _version(after) else "unchanged"
        yield Outcome(document, outcome)
    if conflicts:
        raise MeshError(
            "everything is applied but for what others have written otherwise:\n  "
            + "\n  ".join(conflicts)
            + "\n--force-conflicts takes these fields over"
        )


def _in_words(document: Document, causes: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Whose each field is: `Deployment pymesh-system/policy .spec.replicas is "kubectl-scale"'s`."""
    for cause in causes:
        owner = str(cause.get("message", "")).removeprefix("conflict with ")
        yield f"{bundle.title(document)} {cause.get('field', '')}: written by {owner}"


def _version(document: Document) -> str:
    return str(document["metadata"].get("resourceVersion", ""))


def waiting(api: Api, paths: Paths, documents: Iterable[Document]) -> list[str]:
    """What is not ready yet of `documents`, which are applied, and of what the control plane's leader makes.

    Raises:
        ApiError: the API server is away, or something is not there any more.
    """
    pods = api.items(paths.of("Pod", names.SYSTEM_NAMESPACE))
    crds = {crd["metadata"]["name"]: crd for crd in api.items(paths.of("CustomResourceDefinition"))}
    made = [crd["metadata"]["name"] for crd in bundle.crds()]
    reasons = []
    for document in documents:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind == "Deployment":
            found = api.get(paths.of(kind, document["metadata"]["namespace"], name))
            reasons.append(readiness.deployment_waits(found, pods))
        elif kind.endswith("WebhookConfiguration"):
            reasons.append(readiness.webhooks_wait(api.get(paths.of(kind, name=name))))
        elif kind == "CustomResourceDefinition" and name in crds:
            reasons.append(readiness.crd_waits(crds[name]))
    reasons += [readiness.crd_waits(crds[name]) for name in made if name in crds]
    reasons.append(readiness.missing_crds_wait(made, list(crds)))
    return [reason for reason in reasons if reason]


def wait(api: Api, paths: Paths, documents: Iterable[Document], update: Update, timeout: float) -> None:
    """Look again and again until there is nothing to wait for.

    Args:
        update: told what is waited for.
        timeout: seconds.

    Raises:
        ApiError: as in `waiting`.
        MeshError: there still was at the end.
    """
    deadline = time.monotonic() + timeout
    wanted = list(documents)
    while reasons := waiting(api, paths, wanted):
        update(reasons[0])
        if time.monotonic() >= deadline:
            raise MeshError(
                f"not ready after {timeout:g} s:\n  " + "\n  ".join(reasons) + "\nthe cluster goes on with it; "
                "pymesh install may be asked again, and waits for the rest"
            )
        time.sleep(POLL)
