"""Which version of every resource is in force. Pure.

A resource comes into force if it can be read and if galley finds no error in it, in the world that it makes together
with all others. Otherwise the version before it stays in force (or none, if there was none), and everything else goes
its way. What is in force is never taken back because of others: if the service behind a route is deleted, the route
stays, answers what it can, and a problem says so.

Where nothing is kept over a restart, that would make what is in force a matter of who started when. There (see
`Ledger.incomplete`) what names something that is not there comes into force, too, unless a version before it is.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from pymesh import names
from pymesh.errors import ConfigError
from pymesh.resources.parse import Parsed
from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.memory import Memory
from pymesh_controlplane.pilot.model import Problem, Severity, World

KEPT: Final = "the version before it stays in force"
KEPT_FILE: Final = "what it said before stays in force"
NOTHING: Final = "it is not in force"
NOTHING_FILE: Final = "nothing of it is in force"
STANDS: Final = "it was right before and stays in force"
INCOMPLETE: Final = "it is in force as far as it goes"

Contents = Mapping[str, "Parsed | ConfigError"]


@dataclass(slots=True)
class Ledger:
    """Remembers what is in force.

    Attributes:
        overrides: folders, as prefixes of paths, whose resources win over those of the same name elsewhere: what a
            runtime observed, as against what was applied.
        incomplete: whether a resource that is right by itself, and of which no version is in force, comes into force
            although something that it names is not there: what leads there answers an error.
    """

    overrides: tuple[str, ...] = ()
    trust_domain: str = names.TRUST_DOMAIN
    root_namespace: str = names.SYSTEM_NAMESPACE
    incomplete: bool = False
    _in_force: dict[Key, Resource[object]] = field(default_factory=dict)
    _checked: Memory = field(default_factory=Memory)

    def remember(self, resources: Mapping[Key, Resource[object]]) -> None:
        """Take `resources` for what is in force: what an earlier process has left to the first `update`."""
        self._in_force = dict(resources)

    def written(self) -> list[Resource[object]]:
        """What is in force and was written by people: what a runtime observed it observes again, all the time."""
        return [item for item in self._in_force.values() if not item.file.startswith(self.overrides)]

    def update(self, contents: Contents, now: datetime | None = None) -> World:
        """The world after `contents` (all files there are, by path) was read, at the time `now`."""
        problems: list[Problem] = []
        candidates = self._candidates(contents, problems)
        result = self._settle(candidates, problems, now)
        self._in_force = dict(result.resources)
        return result

    # --- Reading ---

    def _candidates(self, contents: Contents, problems: list[Problem]) -> dict[Key, Resource[object]]:
        """The newest readable version of everything."""
        found: dict[Key, list[Resource[object]]] = {}
        held: dict[Key, Resource[object]] = {}
        by_file = _by_file(self._in_force.values())
        for path, content in contents.items():
            if isinstance(content, ConfigError):
                earlier = _below(path, by_file)
                held |= earlier
                problems.append(Problem.of(content, consequence=KEPT_FILE if earlier else NOTHING_FILE))
                continue
            for resource in content.resources:
                found.setdefault(resource.key, []).append(resource)
            earlier = _below(path, by_file) if content.anonymous else {}
            held |= earlier
            held |= self._judge_refused(content, KEPT_FILE if earlier else NOTHING, problems)
        candidates = {key: self._pick(versions, problems) for key, versions in found.items()}
        return {**held, **candidates}

    def _judge_refused(self, content: Parsed, anonymous: str, problems: list[Problem]) -> dict[Key, Resource[object]]:
        """What stays in force of what is refused; `anonymous` is the consequence where nobody can say what that is."""
        kept: dict[Key, Resource[object]] = {}
        for refused in content.refused:
            before = self._in_force.get(refused.key) if refused.key is not None else None
            if before is not None:
                kept[before.key] = before
            consequence = KEPT if before is not None else NOTHING
            if refused.key is None:
                consequence = anonymous
            problems += [Problem.of(error, consequence=consequence) for error in refused.errors]
        return kept

    def _pick(self, versions: list[Resource[object]], problems: list[Problem]) -> Resource[object]:
        """The one of several resources of one name that counts: the one in force, else the first."""
        top = [resource for resource in versions if resource.file.startswith(self.overrides)] if self.overrides else []
        rivals = top or versions
        before = self._in_force.get(rivals[0].key)
        chosen = next((item for item in rivals if before is not None and item.file == before.file), rivals[0])
        for item in rivals:
            if item is not chosen:
                sentence = f"{item.key} is written twice, here and at {chosen.positions.at('')}: remove one of them"
                problems.append(Problem.of(item.error(sentence), consequence=f"the one in {chosen.file} counts"))
        return chosen

    # --- Judging ---

    def _settle(self, candidates: dict[Key, Resource[object]], problems: list[Problem], now: datetime | None) -> World:
        """Take back what is new and wrong until nothing new is; ends because every round takes back something."""
        while True:
            result = world.build(candidates.values(), (), self.trust_domain, self.root_namespace)
            found = list(_by_resource(check(result.resources.values(), result, self._checked, now=now), result))
            wrong = {item.key for item, issues in found if self._is_new(item) and self._is_kept_out(item, issues)}
            if not wrong:
                break
            for item, issues in found:
                if item.key in wrong:
                    before = self._in_force.get(item.key)
                    problems += _with_consequence(issues, KEPT if before is not None else NOTHING)
                    if before is not None:
                        candidates[item.key] = before
                    else:
                        del candidates[item.key]
        for _, issues in found:
            by_others = self.incomplete and not _has_errors(issues, dangling=False)
            problems += _with_consequence(issues, INCOMPLETE if by_others else STANDS)
        return replace(result, problems=tuple(sorted(set(problems), key=_place)))

    def _is_new(self, item: Resource[object]) -> bool:
        before = self._in_force.get(item.key)
        return before is None or not item.says_the_same_as(before)

    def _is_kept_out(self, item: Resource[object], issues: list[Problem]) -> bool:
        """Whether `issues` keep a new resource, or a new version of one, from coming into force."""
        return _has_errors(issues, dangling=not self.incomplete or item.key in self._in_force)


def _by_file(resources: Iterable[Resource[object]]) -> dict[str, dict[Key, Resource[object]]]:
    found: dict[str, dict[Key, Resource[object]]] = {}
    for item in resources:
        found.setdefault(item.file, {})[item.key] = item
    return found


def _below(path: str, by_file: Mapping[str, dict[Key, Resource[object]]]) -> dict[Key, Resource[object]]:
    """The resources of the file `path`, or of all files in the folder `path`."""
    if path in by_file:
        return by_file[path]
    within = [items for file, items in by_file.items() if file.startswith(f"{path}/")]
    return {key: item for items in within for key, item in items.items()}


def _by_resource(problems: Iterable[Problem], result: World) -> Iterator[tuple[Resource[object], list[Problem]]]:
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.resource, []).append(problem)
    for item in result.resources.values():
        if issues := found.get(str(item.key)):
            yield item, issues


def _has_errors(problems: Iterable[Problem], *, dangling: bool) -> bool:
    """Whether there are errors; those about what is not there count only if `dangling`."""
    return any(problem.severity is Severity.ERROR and (dangling or not problem.dangling) for problem in problems)


def _with_consequence(problems: Iterable[Problem], consequence: str) -> list[Problem]:
    return [replace(p, consequence=consequence) if p.severity is Severity.ERROR else p for p in problems]


def _place(problem: Problem) -> tuple[str, int, int, str, str]:
    at = problem.position
    return (at.file, at.line, at.column, problem.path, problem.sentence) if at else ("", 0, 0, problem.path, "")
