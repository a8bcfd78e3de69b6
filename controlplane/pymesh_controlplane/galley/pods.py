"""Which pods a world has, by their labels: those that are there, and those that Deployments are yet to make. Pure.

What selects pods is judged by this alone. The pods that pilot knows an address of would not do: `apply` judges before
anything runs, and a manifest that has a status says nothing of the others.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property

from pymesh.resources.kubernetes import Deployment, Pod
from pymesh.resources.resource import holds
from pymesh_controlplane.pilot.model import World

Labels = Mapping[str, str]
# Of pods that have done their work.
_ENDED = frozenset({"Succeeded", "Failed"})


class Pods:
    """The pods of `world`, looked for once, and only if somebody asks."""

    def __init__(self, world: World) -> None:
        self._world = world

    @cached_property
    def alike(self) -> list[tuple[str, Labels]]:
        """Namespace and labels of the pods, once for those that are alike."""
        found = {(namespace, *sorted(labels.items())): (namespace, labels) for namespace, labels in self._all()}
        return list(found.values())

    def _all(self) -> Iterator[tuple[str, Labels]]:
        for resource in self._world.resources.values():
            if holds(resource, Pod):
                status = resource.value.status
                if status is None or status.phase not in _ENDED:
                    yield resource.key.namespace, resource.value.metadata.labels or {}
            elif holds(resource, Deployment):
                labels = _at(resource.raw, "spec", "template", "metadata", "labels")
                yield resource.key.namespace, {str(key): str(value) for key, value in labels.items()}


def _at(document: Mapping[str, object], *path: str) -> Mapping[str, object]:
    """The group of fields at `path`, empty if there is none."""
    for name in path:
        below = document.get(name)
        document = below if isinstance(below, Mapping) else {}
    return document
