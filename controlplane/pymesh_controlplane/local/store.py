"""What the operator has applied: checked as a whole, kept by kind, namespace and name, and shown to pilot as files."""

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pymesh import names
from pymesh.errors import MeshError
from pymesh.resources.resource import Key, digest_of
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.local.judge import Applied, InUseError, Verdict, judge, labels_of, wrong_without
from pymesh_controlplane.local.texts import NOWHERE, Text, as_text
from pymesh_controlplane.pilot.model import Problem

# What the runtime shows to pilot as it observes it: a Service has its cluster IP, a Pod its address, a ServiceEntry
# those of its hosts.
OBSERVED_KINDS: Final = frozenset({"Service", "Pod", "ServiceEntry"})
# Kinds whose content is for pilot's eyes alone.
PRIVATE_KINDS: Final = frozenset({"Secret"})

Outcome = Literal["created", "configured", "unchanged", "deleted"]


class RefusedError(MeshError):
    """What was to be applied is wrong; nothing of it was applied. `errors` has everything that is."""

    def __init__(self, errors: Sequence[Problem]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in errors))


class ChangedError(MeshError):
    """What was to be applied was made from what is no longer in force. Nothing of it was applied."""


class Store:
    """The resources in force. `directory` is where pilot and others see them, `private` where pilot alone does.

    Attributes:
        items: what was applied.
        shown: of what pilot sees here, a digest.
    """

    def __init__(self, directory: Path, private: Path, temporary: Path, injection: InjectionConfig) -> None:
        self._directory = directory
        self._private = private
        self._temporary = temporary
        self._injection = injection
        self.items: dict[Key, Applied] = {}
        self.shown: dict[Key, str] = {}

    def judge(self, texts: Iterable[Text], namespace: str, *, force: bool = False) -> Verdict:
        """What is to be said of `texts` next to what is in force; by `force`, others may become wrong."""
        # A copy: this runs in a thread, and the event loop may change what is in force meanwhile.
        return judge(texts, namespace, dict(self.items), self._injection, datetime.now(UTC), force=force)

    def read(self, texts: Iterable[Text], namespace: str, *, force: bool = False) -> tuple[list[Applied], list[str]]:
        """The resources in `texts`, checked, and what a person should know about them all the same.

        Raises:
            RefusedError: something in them is wrong, or without `force` something else would be.
        """
        verdict = self.judge(texts, namespace, force=force)
        if verdict.errors:
            raise RefusedError(verdict.errors)
        return list(verdict.items), [str(problem) for problem in verdict.warnings]

    def refuse_if_changed(self, expected: Iterable[tuple[Key, Mapping[str, Any] | None]]) -> None:
        """Look whether what is in force is what somebody thinks it is; None: nothing of that name.

        Raises:
            ChangedError: it is not.
        """
        for key, document in expected:
            current = self.items.get(key)
            if (current.raw if current is not None else None) != document:
                what = "is there meanwhile" if document is None else "was changed" if current else "was deleted"
                raise ChangedError(f"{key} {what} by somebody else; nothing was applied")

    def refuse_if_named(self, keys: Collection[Key]) -> None:
        """Look who still needs what is to be deleted.

        Raises:
            InUseError: what would stay in force names one of `keys`.
        """
        if wrong := wrong_without(keys, self.items):
            raise InUseError([key for key in keys if key in self.items], wrong)

    def apply(self, items: Iterable[Applied]) -> list[tuple[Key, Outcome]]:
        """Put checked resources in force.

        Raises:
            MeshError: a file could not be written; what came before it is in force.
        """
        results: list[tuple[Key, Outcome]] = []
        for given in items:
            key = given.resource.key
            current = self.items.get(key)
            elsewhere = current.directory if current else Path("/")
            applied = replace(given, directory=elsewhere) if given.directory == NOWHERE else given
            if current and current.raw == applied.raw and current.directory == applied.directory:
                results.append((key, "unchanged"))
                continue
            if key.kind not in OBSERVED_KINDS:
                write_json(self._path(key), applied.raw, self._temporary)
                self.shown[key] = digest_of(applied.raw)
            self.items[key] = applied
            results.append((key, "configured" if current else "created"))
        return results

    def delete(self, key: Key) -> None:
        """Take a resource out of force.

        Raises:
            KeyError: there is no such resource.
        """
        del self.items[key]
        self.shown.pop(key, None)
        with contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()

    def _path(self, key: Key) -> Path:
        return (self._private if key.kind in PRIVATE_KINDS else self._directory) / file_name(key)

    def of_kind(self, kind: str) -> list[Applied]:
        """All resources of a kind, by namespace and name."""
        return [self.items[key] for key in sorted(self.items) if key.kind == kind]

    def namespace_labels(self) -> dict[str, dict[str, str]]:
        """Labels of the namespaces that were applied, by name."""
        return labels_of(self.of_kind("Namespace"))

    def config_map(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """The data of a ConfigMap."""
        applied = self.items.get(Key("ConfigMap", namespace, name))
        if applied is None:
            return None
        data = applied.raw.get("data")
        return {str(key): str(value) for key, value in data.items()} if isinstance(data, dict) else {}


def file_name(key: Key) -> str:
    """Name of the file of a resource; a namespace has no dot, so no two resources share one."""
    return f"{key.kind.lower()}-{key.namespace}.{key.name}.json"


def write_json(path: Path, document: Mapping[str, Any], temporary: Path) -> None:
    """Put `document` into `path` at once. The state lives in memory-backed /run, so nothing is flushed to a disk.

    Raises:
        MeshError: it cannot be written; what was there is untouched.
    """
    draft = temporary / path.name
    try:
        if document["kind"] in PRIVATE_KINDS:
            draft.unlink(missing_ok=True)
            draft.touch(0o600, exist_ok=False)  # from the first byte on it is for pilot and nobody else
            os.chown(draft, names.PROXY_UID, names.PROXY_UID)
        draft.write_text(as_text(document))
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise MeshError(f"{path} cannot be written: {error.strerror}") from None
