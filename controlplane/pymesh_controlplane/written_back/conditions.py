"""What galley says of each resource of the mesh, in its status: `Accepted`, as Gateway API has it.

    kubectl get virtualservice reviews -o jsonpath='{.status.conditions}'

False is said of a version that is not in force, with galley's sentences; True of one that is, with galley's sentences
if it is so only as far as it goes, and with its warnings, such as of a host that another resource has.
`observedGeneration` says which version that is about. What others have in the status stays.

RBAC: the mesh kinds list, watch; their status subresource patch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from lightkube import AsyncClient
from lightkube.core.resource import api_info
from lightkube.generic_resource import create_namespaced_resource
from lightkube.types import PatchType

from pymesh.resources.resource import Key
from pymesh_controlplane.kube import trim
from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.kube.replica import Object
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.pilot.model import Problem, Severity
from pymesh_controlplane.sources import kinds
from pymesh_controlplane.sources.kubernetes import Judgement
from pymesh_controlplane.sources.ledger import INCOMPLETE, STANDS
from pymesh_controlplane.written_back.keeper import Keeper, Write

ACCEPTED: Final = "Accepted"
# Characters; the API convention's limit is 32,768, and `kubectl describe` shows all of it.
MAX_MESSAGE: Final = 4096

_KEPT: Final = ("name", "namespace", "generation", "resourceVersion")


def conditions(found: Object, problems: Sequence[Problem], now: datetime) -> list[dict[str, Any]] | None:
    """The status.conditions that `found` should have, given what is wrong with it; None if it has them.

    Args:
        found: the resource: kind, metadata and status.
        problems: of this version of it.
        now: for the time of a change from True to False, or back.
    """
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    # Where this version is not in force, what has become wrong with the one that is would only confuse.
    refused = [problem for problem in errors if problem.consequence not in {STANDS, INCOMPLETE}]
    accepted = not refused
    warnings = [problem for problem in problems if problem.severity is Severity.WARNING]
    status = found.get("status")
    there = status.get("conditions") if isinstance(status, dict) else None
    before = [item for item in there if isinstance(item, dict)] if isinstance(there, list) else []
    own = next((item for item in before if item.get("type") == ACCEPTED), {})
    said = {
        "type": ACCEPTED,
        "status": "True" if accepted else "False",
        "reason": "Accepted" if accepted else "Invalid",
        "message": "\n".join(map(_sentence, refused or [*errors, *warnings]))[:MAX_MESSAGE],
        "observedGeneration": found["metadata"].get("generation", 0),
    }
    if said.items() <= own.items():
        return None
    same = own.get("status") == said["status"] and own.get("lastTransitionTime")
    said["lastTransitionTime"] = own["lastTransitionTime"] if same else f"{now:%Y-%m-%dT%H:%M:%SZ}"
    return [*(item for item in before if item.get("type") != ACCEPTED), said]


def _sentence(problem: Problem) -> str:
    place = f"{problem.path}: " if problem.path else ""
    return f"{place}{problem.sentence}" + (f" ({problem.consequence})" if problem.consequence else "")


def outline(value: dict[str, Any]) -> Object:
    """What is kept of a resource: who it is, which version, and its status."""
    metadata = {name: value["metadata"][name] for name in _KEPT if name in value["metadata"]}
    return {
        "kind": value["kind"],
        "apiVersion": value["apiVersion"],
        "metadata": metadata,
        "status": value.get("status"),
    }


class Conditions:
    """Says of each resource what came out of the last judgement."""

    def __init__(self, client: AsyncClient, metrics: Metrics, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._metrics = metrics
        self._clock = clock
        self._generations: Mapping[str, int] = {}
        self._problems: dict[str, list[Problem]] = {}
        self.keeper = Keeper("conditions", self._watch, self._due, metrics)

    def judged(self, judgement: Judgement) -> None:
        """Take what the source says."""
        self._generations = judgement.generations
        self._problems = {}
        for problem in judgement.problems:
            self._problems.setdefault(problem.resource, []).append(problem)
        self.keeper.changed()

    def _watch(self, changed: Callable[[], None]) -> Sequence[Reflector]:
        return tuple(
            Reflector(
                self._client,
                kind.resources,
                trim=trim.authored(outline),
                optional=True,
                notify=changed,
                metrics=self._metrics,
            )
            for kind in kinds.MESH
        )

    def _due(self, reflectors: Sequence[Reflector]) -> Iterator[Write]:
        for kind, reflector in zip(kinds.MESH, reflectors, strict=True):
            for name, found in sorted(reflector.objects.items()):
                resource = str(Key(found["kind"], name.namespace, name.name))
                if self._generations.get(resource) != found["metadata"].get("generation"):
                    continue  # this version has not been judged, or not been seen, yet
                wanted = conditions(found, self._problems.get(resource, ()), self._clock())
                if wanted is not None:
                    yield self._write(kind, found, resource, wanted)

    def _write(self, kind: kinds.Kind, found: Object, resource: str, wanted: list[dict[str, Any]]) -> Write:
        group, _, version = found["apiVersion"].partition("/")
        served = create_namespaced_resource(group, version, found["kind"], api_info(kind.resources[0]).plural)
        metadata = found["metadata"]
        patch = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": {"conditions": wanted}}
        return Write(
            f"status of {resource}",
            lambda: self._client.patch(
                served.Status, metadata["name"], patch, namespace=metadata["namespace"], patch_type=PatchType.MERGE
            ),
            wanted=str([value for key, value in wanted[-1].items() if key != "lastTransitionTime"]),
            found=found,
        )
