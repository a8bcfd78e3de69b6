"""galley as a validating webhook: the verdict on one object that somebody wants to store. Pure.

An object is refused for what is wrong with it alone. What it names and is not there (a Service, a subset) may come with
the next object of the same `kubectl apply`, and a cluster promises no order: that is a warning, and the object, once
stored, is in force as far as it goes, or, where a version before it is in force, not until what it names comes. Nothing
is refused for what was stored and wrong already, so that it can be mended step by step, and nobody is kept from
deleting.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from pymesh.resources import mesh_config
from pymesh.resources.parse import Refused, read
from pymesh.resources.resource import Key, Positions, Resource
from pymesh_controlplane.galley import impact, mesh_configs
from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot import world as worlds
from pymesh_controlplane.pilot.memory import Memory
from pymesh_controlplane.pilot.model import Problem, Severity, World
from pymesh_controlplane.webhooks.admission import ALLOWED, Answer, Cause, Object, Request, ReviewError

# Where an object that came by the API stands: in no file.
_NOWHERE: Final = Positions("", {})
# Of an object, what others than its author write.
_NOT_THE_AUTHORS: Final = frozenset({"metadata", "status"})

WRONG_BEFORE: Final = "as it was before"
INCOMPLETE: Final = "stored; until that is there, in force as far as it goes"
STILL_THE_OLD: Final = "stored; until that is there or the control plane starts anew, the version before stays in force"
MADE_WRONG: Final = "right until now and wrong with this"
USED: Final = "deleted all the same, and wrong without it"


class Judge:
    """Answers the questions of one API server, one at a time: it remembers what it has found in the worlds before."""

    def __init__(self) -> None:
        self._memory = Memory()

    def answer(self, request: Request, world: World, now: datetime) -> Answer:
        """What is to be said of `request` in `world`, which is in force.

        Raises:
            ReviewError: the request has not what its operation comes with.
        """
        if request.sub_resource or request.operation == "CONNECT" or not _is_read(request, world):
            return ALLOWED
        if request.operation == "DELETE":
            return _of_deletion(request, world)
        if request.object is None:
            raise ReviewError(f"a review of {request.operation} has an object")
        if request.operation == "UPDATE" and not _says_something_new(request.object, request.old_object):
            return ALLOWED
        found = self._found(request, request.object, world, now)
        found += _lost(request, request.object, world)
        known = self._known(request, found, world, now)
        there = Key(request.kind.kind, request.namespace, request.called) in world.resources
        return _answer([_toned_down(problem, known, STILL_THE_OLD if there else INCOMPLETE) for problem in found])

    def _found(self, request: Request, value: Object, world: World, now: datetime) -> list[Problem]:
        """Everything that is wrong with `value`, and with others because of it."""
        resource = read(_named(value, request), _NOWHERE, request.namespace)
        if isinstance(resource, Refused):
            return [Problem.of(error) for error in resource.errors]
        after = _with(resource, world)
        problems = check([resource], after, now=now)
        left = {key: other for key, other in world.resources.items() if key != resource.key}
        broken = impact.made_wrong(left, world, after, self._memory)
        return problems + [_warning(problem, MADE_WRONG) for problem in broken]

    def _known(self, request: Request, found: list[Problem], world: World, now: datetime) -> set[tuple[str, str]]:
        """What was wrong with the object already, by field and sentence, if it matters for `found`."""
        if request.old_object is None or not any(problem.severity is Severity.ERROR for problem in found):
            return set()
        before = self._found(request, request.old_object, world, now)
        return {(problem.path, problem.sentence) for problem in before if problem.severity is Severity.ERROR}


def _lost(request: Request, value: Object, world: World) -> list[Problem]:
    """What the mesh's ConfigMap no longer has of what it had."""
    if request.old_object is None or request.kind.kind != "ConfigMap":
        return []
    new, old = (read(_named(item, request), _NOWHERE, request.namespace) for item in (value, request.old_object))
    if isinstance(new, Refused) or isinstance(old, Refused):
        return []
    return mesh_configs.lost(new, old, world.root_namespace)


def _is_read(request: Request, world: World) -> bool:
    """Whether the mesh reads this object: of ConfigMaps it is one."""
    if (request.kind.group, request.kind.kind) != ("", "ConfigMap"):
        return True
    return (request.namespace, request.name) == (world.root_namespace, mesh_config.CONFIG_MAP)


def _says_something_new(value: Object, old: Object | None) -> bool:
    """Whether the author has a say in an update: not where labels, finalizers or the status change, or it is ending."""
    if old is None:
        return True
    metadata = value.get("metadata")
    if isinstance(metadata, dict) and metadata.get("deletionTimestamp"):
        return False
    return _content(value) != _content(old)


def _content(value: Object) -> Mapping[str, object]:
    return {name: part for name, part in value.items() if name not in _NOT_THE_AUTHORS}


def _of_deletion(request: Request, world: World) -> Answer:
    key = Key(request.kind.kind, request.namespace, request.called)
    if key not in world.resources:
        return ALLOWED
    return _answer([_warning(problem, USED) for problem in impact.wrong_without([key], world)])


def _named(value: Object, request: Request) -> Object:
    """The object with its name: one that is to be generated is not there yet."""
    metadata = value.get("metadata")
    if isinstance(metadata, dict) and "name" not in metadata and isinstance(metadata.get("generateName"), str):
        return {**value, "metadata": {**metadata, "name": request.name or f"{metadata['generateName']}generated"}}
    return value


def _with(resource: Resource[object], world: World) -> World:
    """The world that `resource` makes with all others."""
    resources = {**world.resources, resource.key: resource}
    return worlds.build(resources.values(), (), world.trust_domain, world.root_namespace)


def _toned_down(problem: Problem, known: set[tuple[str, str]], until_then: str) -> Problem:
    """The problem, as a warning if it is no reason to refuse the object."""
    if problem.severity is not Severity.ERROR:
        return problem
    if (problem.path, problem.sentence) in known:
        return _warning(problem, WRONG_BEFORE)
    if problem.dangling:
        return replace(_warning(problem, until_then), dangling=True)
    return problem


def _warning(problem: Problem, why: str) -> Problem:
    return replace(problem, severity=Severity.WARNING, consequence=why, dangling=False)


def _answer(problems: Iterable[Problem]) -> Answer:
    told = list(problems)
    causes = tuple(Cause(problem.path, problem.sentence) for problem in told if problem.severity is Severity.ERROR)
    warnings = tuple(_text(problem) for problem in told if problem.severity is Severity.WARNING)
    dangling = any(problem.dangling for problem in told)
    return Answer(causes, warnings=warnings, dangling=dangling and not causes)


def _text(problem: Problem) -> str:
    """As everywhere, `VirtualService default/reviews: spec.http[0]: sentence`, without the word that says how bad."""
    text = ": ".join(part for part in (problem.resource, problem.path, problem.sentence) if part)
    return f"{text} ({problem.consequence})" if problem.consequence else text
