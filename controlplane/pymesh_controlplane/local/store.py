"""What the operator has applied: checked as a whole, kept by kind, namespace and name, and shown to pilot as files."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pymesh.errors import ConfigError, MeshError
from pymesh.resources import kubernetes
from pymesh.resources.parse import parse
from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.galley import check as galley
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.injector.inject import inject_document
from pymesh_controlplane.local import podcheck, podspec, services
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.model import Problem, Severity
from pymesh_controlplane.sources.files import MAX_FILE_BYTES, MAX_FILES

# Bytes of one apply. The manifests of a whole system are a few MB.
MAX_APPLY: Final = 32 * 1024 * 1024
# What the runtime shows to pilot as it observes it (a Service has its cluster IP, a Pod its address).
OBSERVED_KINDS: Final = frozenset({"Service", "Pod"})

Outcome = Literal["created", "configured", "unchanged", "deleted"]


class RefusedError(MeshError):
    """What was to be applied is wrong; nothing of it was applied. `errors` has everything that is."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in errors))


@dataclass(frozen=True, slots=True)
class Text:
    """A file that was given: its name for error messages, the directory that its containers work in, its text."""

    name: str
    directory: str
    text: str


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


class Store:
    """The resources in force. `directory` is where pilot sees them."""

    def __init__(self, directory: Path, temporary: Path, injection: InjectionConfig) -> None:
        self._directory = directory
        self._temporary = temporary
        self._injection = injection
        self.items: dict[Key, Applied] = {}

    def read(self, texts: Iterable[Text], namespace: str) -> tuple[list[Applied], list[str]]:
        """The resources in `texts`, checked, and what a person should know about them all the same.

        Raises:
            RefusedError: something in them is wrong.
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
                applied = self._checked(resource, Path(text.directory))
                if isinstance(applied, list):
                    errors += applied
                else:
                    found[resource.key] = applied
        errors += self._unreadable(found)
        labels = self.namespace_labels() | _labels_of(found.values())
        errors += (error for applied in found.values() for error in self._injection_errors(applied, labels))
        warnings: list[str] = []
        if not errors:
            for problem in self._judge(found):
                if problem.severity is Severity.ERROR:
                    errors.append(
                        ConfigError(
                            problem.sentence,
                            path=problem.path,
                            position=problem.position,
                            resource=problem.resource,
                        )
                    )
                else:
                    warnings.append(str(problem))
        if errors:
            raise RefusedError(errors)
        return list(found.values()), warnings

    def _unreadable(self, found: Mapping[Key, Applied]) -> Iterator[ConfigError]:
        """What is too large or too much for pilot, which reads a file for each resource."""
        for applied in found.values():
            if len(_text(applied.raw)) > MAX_FILE_BYTES:
                yield applied.resource.error(f"has more than {MAX_FILE_BYTES // 2**20} MiB: split it")
        if len(self.items | dict(found)) > MAX_FILES:
            yield ConfigError(f"there would be more than {MAX_FILES} resources in force: delete some first")

    def _judge(self, found: Mapping[Key, Applied]) -> list[Problem]:
        """What galley says of `found` in the world that they make with what is in force."""
        resources = {key: applied.resource for key, applied in (self.items | dict(found)).items()}
        return galley.check([applied.resource for applied in found.values()], world.build(resources.values()))

    def apply(self, items: Iterable[Applied]) -> list[tuple[Key, Outcome]]:
        """Put checked resources in force.

        Raises:
            MeshError: a file could not be written; what came before it is in force.
        """
        results: list[tuple[Key, Outcome]] = []
        for applied in items:
            key = applied.resource.key
            current = self.items.get(key)
            if current and current.raw == applied.raw and current.directory == applied.directory:
                results.append((key, "unchanged"))
                continue
            if key.kind not in OBSERVED_KINDS:
                write_json(self._directory / file_name(key), applied.raw, self._temporary)
            self.items[key] = applied
            results.append((key, "configured" if current else "created"))
        return results

    def delete(self, key: Key) -> None:
        """Take a resource out of force.

        Raises:
            KeyError: there is no such resource.
        """
        del self.items[key]
        with contextlib.suppress(FileNotFoundError):
            (self._directory / file_name(key)).unlink()

    def of_kind(self, kind: str) -> list[Applied]:
        """All resources of a kind, by namespace and name."""
        return [self.items[key] for key in sorted(self.items) if key.kind == kind]

    def namespace_labels(self) -> dict[str, dict[str, str]]:
        """Labels of the namespaces that were applied, by name."""
        return _labels_of(self.of_kind("Namespace"))

    def config_map(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """The data of a ConfigMap."""
        applied = self.items.get(Key("ConfigMap", namespace, name))
        if applied is None:
            return None
        data = applied.raw.get("data")
        return {str(key): str(value) for key, value in data.items()} if isinstance(data, dict) else {}

    @staticmethod
    def _checked(resource: Resource[object], directory: Path) -> Applied | list[ConfigError]:
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

    def _injection_errors(self, applied: Applied, labels: Mapping[str, Mapping[str, str]]) -> list[ConfigError]:
        workload = applied.workload
        if workload is None:
            return []
        document = applied.raw
        try:
            if inject_document(document, config=self._injection, namespaces=labels) is document:
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


def _labels_of(items: Iterable[Applied]) -> dict[str, dict[str, str]]:
    return {
        applied.resource.key.name: applied.raw["metadata"].get("labels") or {}
        for applied in items
        if applied.resource.key.kind == "Namespace"
    }


def file_name(key: Key) -> str:
    """Name of the file of a resource; a namespace has no dot, so no two resources share one."""
    return f"{key.kind.lower()}-{key.namespace}.{key.name}.json"


def _text(document: Mapping[str, Any]) -> str:
    """`document` as pilot gets it; a character is a byte, for what is not ASCII is escaped."""
    return json.dumps(document, indent=1)


def write_json(path: Path, document: Mapping[str, Any], temporary: Path) -> None:
    """Put `document` into `path` at once. The state lives in memory-backed /run, so nothing is flushed to a disk.

    Raises:
        MeshError: it cannot be written; what was there is untouched.
    """
    draft = temporary / path.name
    try:
        draft.write_text(_text(document))
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise MeshError(f"{path} cannot be written: {error.strerror}") from None
