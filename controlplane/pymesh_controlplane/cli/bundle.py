"""The manifests of a mesh in a cluster, those of `deploy/`: which there are, with which images, in which order.

A part is a folder below `deploy/kubernetes` with a kustomization that lists files, so that kustomize and this module
read the same. In the wheel the folder is part of the package.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

import pymesh_controlplane
from pymesh.errors import MeshError

# What the control plane's one Deployment runs: a mesh has all of them.
BASE: Final = ("pilot", "citadel", "galley", "injector")
# The folder of each part that a mesh may do without, by the name that `pymesh up --without` has for it.
OPTIONAL: Final = {
    "policy": "policy",
    "telemetry": "telemetry",
    "ingress": "ingressgateway",
    "egress": "egressgateway",
}
PARTS: Final = (*BASE, *OPTIONAL)
IMAGES: Final = frozenset({"pymesh-proxy", "pymesh-controlplane"})

# Of the label by which everything that is installed is found again.
PART_OF: Final = ("app.kubernetes.io/part-of", "pymesh")

# A reference is REGISTRY/NAME:TAG or REGISTRY/NAME@DIGEST (distribution/reference, simplified to what is no option).
_REGISTRY: Final = re.compile(r"[a-z0-9][A-Za-z0-9.:_/-]{0,254}", re.ASCII)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)

Document = dict[str, Any]


# The order in which kinds are applied: names before what refers to them, and last what the API server then asks.
ORDER: Final = (
    "Namespace",
    "CustomResourceDefinition",
    "ServiceAccount",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "Service",
    "Deployment",
    "PodDisruptionBudget",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
)


def parts(only: str, without: str) -> list[str]:
    """The parts to install: those of `only`, or all but `without`, each a list with commas; the base comes with all.

    Raises:
        MeshError: there is no such part, or the mesh cannot do without it.
    """
    if only and without:
        raise MeshError("--only and --without exclude each other: either says which parts the mesh gets")
    chosen, left_out = _named("--only", only), _named("--without", without)
    if needed := left_out.intersection(BASE):
        raise MeshError(
            f"--without {min(needed)}: {', '.join(BASE)} are one Deployment, which a mesh cannot do without; "
            f"it can without {', '.join(OPTIONAL)}"
        )
    rest = chosen or set(PARTS) - left_out
    return [name for name in PARTS if name in rest or name in BASE]


def _named(option: str, text: str) -> set[str]:
    found = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(found.difference(PARTS)):
        raise MeshError(f"{option} {unknown[0]}: there is no such part; there are {', '.join(PARTS)}")
    return found


def documents(wanted: Iterable[str], registry: str = "", tag: str = "") -> list[Document]:
    """The objects of the parts `wanted`, in the order in which they are applied.

    Args:
        wanted: as `parts` has it.
        registry: where the images are; empty: they are named as they stand in the manifests.
        tag: which of them; empty: as in the manifests.

    Raises:
        MeshError: registry or tag cannot be part of an image's name.
    """
    for option, text, grammar in (("--image-registry", registry, _REGISTRY), ("--tag", tag, _TAG)):
        if text and not grammar.fullmatch(text):
            raise MeshError(f"{option} {text!r} cannot be part of the name of an image")
    names = set(wanted)
    folders = ["base", *(folder for part, folder in OPTIONAL.items() if part in names)]
    found = [document for name in folders for document in _of_folder(_home() / name)]
    found.sort(key=lambda document: ORDER.index(document["kind"]))
    for document in found:
        for container in _containers(document):
            _rename(container, registry.rstrip("/"), tag)
    return found


def crds() -> list[Document]:
    """Istio's CRDs, those that the control plane makes where they are missing."""
    folder = Path(pymesh_controlplane.__file__).parent / "crds"
    return [document for file in sorted(folder.glob("*.yaml")) for document in _of_file(file)]


def title(document: Document) -> str:
    """What a person calls the object: `Deployment pymesh-system/policy`."""
    metadata = document["metadata"]
    return f"{document['kind']} {'/'.join(filter(None, (metadata.get('namespace'), metadata['name'])))}"


def _home() -> Path:
    """The folder of the parts: of the package, or of the checkout that the package is run from."""
    package = Path(pymesh_controlplane.__file__).parent
    packed = package / "manifests"
    return packed if packed.is_dir() else package.parents[1] / "deploy" / "kubernetes"


def _of_folder(folder: Path) -> Iterator[Document]:
    [kustomization] = _of_file(folder / "kustomization.yaml")
    for name in kustomization["resources"]:
        yield from _of_file(folder / name)


def _of_file(file: Path) -> Sequence[Document]:
    return list(yaml.load_all(file.read_bytes(), Loader=yaml.CSafeLoader))


def _containers(document: Document) -> Iterator[Document]:
    if document["kind"] == "Deployment":
        yield from document["spec"]["template"]["spec"]["containers"]


def _rename(container: Document, registry: str, tag: str) -> None:
    """Give a container its images: the one that it runs, and those that it tells others to run."""
    for holder, key in ((container, "image"), *((variable, "value") for variable in container.get("env", ()))):
        name, colon, version = str(holder.get(key, "")).partition(":")
        if name in IMAGES and colon:
            holder[key] = f"{registry}/{name}:{tag or version}" if registry else f"{name}:{tag or version}"
