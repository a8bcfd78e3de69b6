"""Istio's kinds, where nobody has installed them: their definitions are made, and then left alone for good.

Where Istio, or another mesh, has brought its own they are as good as ours, so they are never changed or deleted.
RBAC: customresourcedefinitions list, watch, create.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import resources
from typing import Any, Final

import yaml
from lightkube import AsyncClient
from lightkube.generic_resource import create_global_resource
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition

import pymesh_controlplane
from pymesh_controlplane.kube import trim
from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.kube.replica import Name, Object
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.written_back.keeper import Keeper, Write

# As plain values, so that what is sent is what is in the file.
DEFINITION: Final = create_global_resource(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"
)


def definitions() -> dict[str, dict[str, Any]]:
    """Istio's definitions as this package has them, by name."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(resources.files(pymesh_controlplane).joinpath("crds").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            document = yaml.safe_load(file.read_text())
            found[document["metadata"]["name"]] = document
    return found


def missing(wanted: Mapping[str, Object], there: Mapping[Name, Object]) -> list[str]:
    """The names of `wanted` that nobody has made."""
    return [name for name in wanted if Name("", name) not in there]


def keeper(client: AsyncClient, metrics: Metrics) -> Keeper:
    """Makes what is missing."""
    wanted = definitions()

    def watch(changed: Callable[[], None]) -> Sequence[Reflector]:
        return (Reflector(client, CustomResourceDefinition, trim=trim.named, notify=changed, metrics=metrics),)

    def due(reflectors: Sequence[Reflector]) -> Iterator[Write]:
        return (
            Write(f"CustomResourceDefinition {name}", partial(_create, client, wanted[name]))
            for name in missing(wanted, reflectors[0].objects)
        )

    return Keeper("CRDs", watch, due, metrics)


async def _create(client: AsyncClient, definition: dict[str, Any]) -> None:
    await client.create(DEFINITION.from_dict(definition))
