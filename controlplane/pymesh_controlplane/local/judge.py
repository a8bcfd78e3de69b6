"""What manifests are worth, before anything is done with them: `pymesh apply`, `validate` and `delete` ask here.

Pure: no file is read and no mesh is touched, so that the verdict offline and the one of a running mesh are the same
words, found by the same code.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pymesh import names
from pymesh.errors import ConfigError, MeshError
from pymesh.resources import kubernetes
from pymesh.resources.istio.service_entry import ServiceEntry
from pymesh.resources.parse import parse
from pymesh.resources.resource import Key, Resource, holds
from pymesh_controlplane.galley import check as galley
from pymesh_controlplane.galley import impact, mesh_configs
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.injector.inject import inject_document
from pymesh_controlplane.local import podcheck, podspec, services
from pymesh_controlplane.local.texts import Text, as_text
from pymesh_controlplane.local.vips import Vips, addressed
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.model import Problem, Severity
from pymesh_controlplane.sources.files import MAX_FILE_BYTES, MAX_FILES

# Said of a verdict on part of what was given: a Service with a typing error is missed by those that route to it.
INCOMPLETE: Final = "what cannot be read is missing in this verdict: what names it may be right"
# Said of what is in force and right, and would no longer be right next to what is to be applied.
MADE_WRONG: Final = (
    "right until now and wrong with what is applied: change it first, or with it in one command; "
    "apply --force applies all the same"
)
FORCED: Final = "right until now and wrong with what is applied"


@dataclass(frozen=True, slots=True)
class Applied:
    """A resource in force. `workload` is its typed form if it makes pods."""

    resource: Resource[object]
    directory: Path
    workload: podspec.Deployment | podspec.Pod | None = None

    @property
    def raw(self) -> dict[str, Any]:
        """The document, with the namespace that it is in."""
        document = dict(self.resource.raw)
        metadata = dict(document.get("metadata", {}))  # type: ignore[call-overload]  # parse has seen that it is one
        if self.resource.key.namespace:
            metadata["namespace"] = self.resource.key.namespace
        return {**document, "metadata": metadata}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found in manifests: the resources that can be read, and everything that is wrong with all of them."""

    items: tuple[Applied, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Why nothing of this comes into force; empty if all of it does."""
        return tuple(problem for problem in self.problems if problem.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What a person should know all the same."""
        return tuple(problem for problem in self.problems if problem.severity is Severity.WARNING)


class InUseError(MeshError):
    """What was to be deleted is named by what would stay. Nothing was deleted; the text has the names."""

    def __init__(self, keys: Collection[Key], wrong: Collection[Problem]) -> None:
        what = str(next(iter(keys))) if len(keys) == 1 else f"these {len(keys)}"
        lines = [f"  {problem}" for problem in wrong]
        super().__init__(
            f"nothing was deleted; without {what} this would be wrong:\n"
            + "\n".join(lines)
            + "\nchange or delete it first, or with it in one command (-f); --force deletes all the same"
        )


def judge(
    texts: Iterable[Text],
    namespace: str,
    in_force: Mapping[Key, Applied],
    injection: InjectionConfig,
    now: datetime | None = None,
    *,
    force: bool = False,
) -> Verdict:
    """What is to be said of the resources in `texts`, in the world that they make with what is `in_force`.

    And of what is in force, if it is right and they would make it wrong: a DestinationRule that loses a subset.

    Args:
        texts: YAML or JSON.
        namespace: of resources that name none.
        in_force: what was applied before; a resource in `texts` takes the place of one of its name.
        injection: how sidecars are added, for a pod that cannot get one is refused.
        now: for certificates that expire; without it, nothing is said of that.
        force: what they would make wrong is a warning, not an error.
    """
    found: dict[Key, Applied] = {}
    errors: list[ConfigError] = []
    for text in texts:
        parsed = parse(text.text, text.name, namespace)
        errors += parsed.errors
        for resource in parsed.resources:
            if resource.key in found:
                first = found[resource.key].resource.positions.at("")
                errors.append(resource.error(f"there twice, first at {first}"))
                continue
            applied = _checked(resource, Path(text.directory))
            if isinstance(applied, list):
                errors += applied
            else:
                found[resource.key] = applied
    unread = len(errors)
    errors += _too_large(found, in_force)
    labels = labels_of([*in_force.values(), *found.values()])
    errors += (error for applied in found.values() for error in _injection_errors(applied, labels, injection))
    problems = [*map(Problem.of, errors), *_galley(found, in_force, now), *_unresolvable(found.values())]
    for key, applied in found.items():
        before = in_force[key].resource if key in in_force else None
        problems += mesh_configs.lost(applied.resource, before, names.SYSTEM_NAMESPACE)
    severity, why = (Severity.WARNING, FORCED) if force else (Severity.ERROR, MADE_WRONG)
    broken = _wrong_with(found, in_force)
    problems += (replace(each, severity=severity, sentence=f"{each.sentence} ({why})") for each in broken)
    if unread and any(problem.severity is Severity.ERROR for problem in problems[len(errors) :]):
        problems.append(Problem(Severity.WARNING, INCOMPLETE))
    return Verdict(tuple(found.values()), tuple(problems))


def wrong_without(keys: Collection[Key], in_force: Mapping[Key, Applied]) -> list[Problem]:
    """What becomes wrong with the resources that stay in force when `keys` no longer are: whoever names one of them."""
    return impact.wrong_without(keys, world.build(applied.resource for applied in in_force.values()))


def _wrong_with(found: Mapping[Key, Applied], in_force: Mapping[Key, Applied]) -> list[Problem]:
    """What becomes wrong with the resources in force that `found` does not replace."""
    after = _as_published({**in_force, **found})
    left = {key: after[key] for key in in_force if key not in found}
    return impact.made_wrong(left, world.build(_as_published(in_force).values()), world.build(after.values()))


def _galley(found: Mapping[Key, Applied], in_force: Mapping[Key, Applied], now: datetime | None) -> list[Problem]:
    resources = _as_published({**in_force, **found})
    return galley.check([resources[key] for key in found], world.build(resources.values()), now=now)


def _as_published(items: Mapping[Key, Applied]) -> dict[Key, Resource[object]]:
    """The resources as pilot is going to see them."""
    vips = Vips()
    return {
        key: addressed(applied.resource, vips) if holds(applied.resource, ServiceEntry) else applied.resource
        for key, applied in items.items()
    }


def _unresolvable(items: Iterable[Applied]) -> Iterator[Problem]:
    """Hosts that sidecars would have to look up, where nobody knows them: a local mesh is a world of its own."""
    for applied in items:
        resource = applied.resource
        if holds(resource, ServiceEntry):
            spec = resource.value.spec
            if spec.resolution.startswith("DNS") and not spec.endpoints:
                sentence = "a local mesh has no DNS but its own, so no sidecar finds these hosts: give spec.endpoints"
                yield Problem.of(resource.error(sentence, "spec.resolution"), Severity.WARNING)


def _too_large(found: Mapping[Key, Applied], in_force: Mapping[Key, Applied]) -> Iterator[ConfigError]:
    """What is too large or too much for pilot, which reads a file for each resource."""
    for applied in found.values():
        if len(as_text(applied.raw)) > MAX_FILE_BYTES:
            yield applied.resource.error(f"has more than {MAX_FILE_BYTES // 2**20} MiB: split it")
    if len(in_force.keys() | found.keys()) > MAX_FILES:
        yield ConfigError(f"there would be more than {MAX_FILES} resources in force: delete some first")


def _checked(resource: Resource[object], directory: Path) -> Applied | list[ConfigError]:
    """The resource as it would run here, or why it cannot."""
    kind: type[podspec.Deployment | podspec.Pod]
    if isinstance(resource.value, kubernetes.Service):
        try:
            services.check(resource.value)
        except ConfigError as error:
            return [resource.error(error.problem, error.path)]
    if resource.key.kind not in {"Deployment", "Pod"}:
        return Applied(resource, directory)
    kind = podspec.Deployment if resource.key.kind == "Deployment" else podspec.Pod
    workload = podcheck.read(kind, resource.raw)
    if isinstance(workload, list):
        return [resource.error(error.problem, error.path) for error in workload]
    return Applied(resource, directory, workload)


def _injection_errors(
    applied: Applied, labels: Mapping[str, Mapping[str, str]], injection: InjectionConfig
) -> list[ConfigError]:
    workload = applied.workload
    if workload is None:
        return []
    document = applied.raw
    try:
        if inject_document(document, config=injection, namespaces=labels) is document:
            _refuse_sidecars_user(workload, applied.resource.key.namespace)
    except ConfigError as error:
        return [applied.resource.error(error.problem, error.path)]
    return []


def _refuse_sidecars_user(workload: podspec.Deployment | podspec.Pod, namespace: str) -> None:
    if isinstance(workload, podspec.Pod):
        podcheck.refuse_sidecars_user(workload.spec, namespace)
        return
    try:
        podcheck.refuse_sidecars_user(workload.spec.template.spec, namespace)
    except ConfigError as error:
        raise error.at("spec.template") from None


def labels_of(items: Iterable[Applied]) -> dict[str, dict[str, str]]:
    """The labels of the Namespaces among `items`, by name; the last one of a name counts."""
    return {
        applied.resource.key.name: applied.raw["metadata"].get("labels") or {}
        for applied in items
        if applied.resource.key.kind == "Namespace"
    }
