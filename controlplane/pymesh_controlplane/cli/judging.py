"""What manifests are worth next to what is in force in a cluster: galley's words, before the API server is asked."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from pymesh import names
from pymesh.errors import ConfigError
from pymesh.resources import mesh_config
from pymesh.resources.parse import parse, reread
from pymesh.resources.resource import Key, Positions, Resource
from pymesh_controlplane.galley import check as galley
from pymesh_controlplane.galley.impact import made_wrong
from pymesh_controlplane.kube.api import ApiError
from pymesh_controlplane.kube.paths import MESH_KINDS
from pymesh_controlplane.local.texts import Text
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.model import Problem, Severity

# What galley looks at next to what is to be judged.
_READ: Final = frozenset({*MESH_KINDS, "Service", "Pod", "EndpointSlice", "Namespace"})
# Said of what is in force and right, and would no longer be right.
MADE_WRONG: Final = "right until now and wrong with what is to be applied: change it first"
_FOREIGN: Final = "not a kind that the mesh reads: not judged"

Objects = Callable[..., list[dict[str, Any]]]


def judge_next_to(objects: Objects, texts: Sequence[Text], namespace: str) -> list[dict[str, Any]]:
    """Everything to be said of `texts` (`Problem.as_json`), in the world that they make with what is in force.

    Args:
        objects: `target.Mesh.objects`.
        texts: YAML or JSON. Kinds of others are passed over: a cluster has more of them than the mesh reads.
        namespace: of resources that name none.
    """
    found: dict[Key, Resource[object]] = {}
    problems: list[Problem] = []
    for text in texts:
        parsed = parse(text.text, text.name, namespace)
        for refused in parsed.refused:
            problems += (
                Problem.of(_instead(error), Severity.WARNING) if refused.foreign else Problem.of(error)
                for error in refused.errors
            )
        for resource in parsed.resources:
            if resource.key in found:
                first = found[resource.key].positions.at("")
                problems.append(Problem.of(resource.error(f"there twice, first at {first}")))
            else:
                found[resource.key] = resource
    there = _readable(objects(_READ))
    secrets, may_not = _secrets(objects) if any(key.kind == "Gateway" for key in found) else ([], None)
    before = {resource.key: resource for resource in (*there, *_readable(secrets), *_config(objects))}
    now, after = world.build(before.values()), world.build({**before, **found}.values())
    judged = galley.check(found.values(), after, now=datetime.now(UTC))
    if may_not is not None:
        judged = [problem for problem in judged if not problem.path.endswith("tls.credentialName")]
        problems.append(Problem(Severity.WARNING, f"credentialName of Gateways was not judged: {may_not}"))
    left = {key: resource for key, resource in before.items() if key not in found}
    broken = [replace(each, sentence=f"{each.sentence} ({MADE_WRONG})") for each in made_wrong(left, now, after)]
    return [dict(problem.as_json()) for problem in (*problems, *judged, *broken)]


def _instead(error: ConfigError) -> ConfigError:
    return ConfigError(_FOREIGN, path=error.path, position=error.position, resource=error.resource)


def _readable(documents: Iterable[dict[str, Any]]) -> list[Resource[object]]:
    """What of it can be read; pilot leaves out the rest as well, and `pymesh status` says so."""
    found = []
    for document in documents:
        try:
            found.append(reread(document, Positions("", {})))
        except ConfigError:
            continue
    return found


def _secrets(objects: Objects) -> tuple[list[dict[str, Any]], ApiError | None]:
    """The Secrets of gateways, and why there are none to be seen."""
    try:
        return objects({"Secret"}, names.SYSTEM_NAMESPACE), None
    except ApiError as error:
        if error.code != 403:
            raise
        return [], error


def _config(objects: Objects) -> list[Resource[object]]:
    """The mesh's configuration."""
    found: Collection[Resource[object]] = _readable(objects({"ConfigMap"}, names.SYSTEM_NAMESPACE))
    return [resource for resource in found if resource.key.name == mesh_config.CONFIG_MAP]
