"""What a change does to the resources that it leaves alone. Pure."""

from collections.abc import Collection, Mapping

from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.galley import references
from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.memory import Memory
from pymesh_controlplane.pilot.model import Problem, Severity, World

Resources = Mapping[Key, Resource[object]]


def made_wrong(left: Resources, before: World, after: World, memory: Memory | None = None) -> list[Problem]:
    """What is wrong with `left` in the world `after` and was right in the one `before`.

    A field counts, not its sentence: one that is wrong already is not made wrong because others are now known.

    Args:
        memory: of earlier worlds `after`, as in `check`.
    """
    wrong = _errors(left, after, memory)
    if not wrong:
        return []
    named = {problem.resource for problem in wrong}
    suspects = {key: before.resources[key] for key in left if str(key) in named and key in before.resources}
    known = {(problem.resource, problem.path) for problem in _errors(suspects, before)}
    return [problem for problem in wrong if (problem.resource, problem.path) not in known]


def wrong_without(keys: Collection[Key], before: World) -> list[Problem]:
    """What becomes wrong with the resources of `before` that stay when `keys` go: whoever names one of them."""
    left = {key: resource for key, resource in before.resources.items() if key not in keys}
    after = world.build(left.values(), (), before.trust_domain, before.root_namespace)
    there = [key for key in keys if key in before.resources]
    return made_wrong(left, before, after) + references.missed(there, left.values())


def _errors(resources: Resources, there: World, memory: Memory | None = None) -> list[Problem]:
    found = check(resources.values(), there, memory)
    return [problem for problem in found if problem.severity is Severity.ERROR]
