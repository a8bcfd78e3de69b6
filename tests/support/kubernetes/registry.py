"""Which resources the server serves: the built-in ones and those of established CRDs."""

from collections.abc import Iterable

from tests.support.kubernetes.errors import no_such_path
from tests.support.kubernetes.kinds import SUBRESOURCE_VERBS, Kind, builtin_kinds


class Registry:
    """Kinds by (group, version, plural)."""

    def __init__(self) -> None:
        self._kinds = builtin_kinds()

    def get(self, group: str, version: str, plural: str) -> Kind:
        """The kind that a path names.

        Raises:
            ApiError: 404.
        """
        if kind := self._kinds.get((group, version, plural)):
            return kind
        raise no_such_path()

    def of(self, api_version: str, kind: str) -> Kind | None:
        """The kind that an object says it is of."""
        group, _, version = api_version.rpartition("/")
        found = (each for each in self.served(group, version) if each.kind == kind)
        return next(found, None)

    def stored(self, storage: tuple[str, str]) -> Kind | None:
        """Any version of the kind that is kept there."""
        return next((kind for kind in self._kinds.values() if kind.storage == storage), None)

    def versions(self, group: str) -> list[str]:
        """The versions of a group, the preferred one first."""
        found = {version for of, version, _ in self._kinds if of == group}
        return sorted(found, key=_priority)

    def groups(self) -> list[str]:
        """Every named group."""
        return sorted({group for group, _, _ in self._kinds if group})

    def served(self, group: str, version: str) -> list[Kind]:
        """The kinds of a group in a version."""
        return [kind for (of, at, _), kind in sorted(self._kinds.items()) if (of, at) == (group, version)]

    def all(self) -> Iterable[Kind]:
        """Every kind in every version."""
        return self._kinds.values()

    def replace(self, group: str, plural: str, kinds: Iterable[Kind]) -> None:
        """Serve a custom resource in these versions, and in no others."""
        for key in [key for key, kind in self._kinds.items() if kind.storage == (group, plural)]:
            del self._kinds[key]
        for kind in kinds:
            self._kinds[(kind.group, kind.version, kind.plural)] = kind


def _priority(version: str) -> tuple[int, int, int]:
    """Kubernetes' order of versions: v2, v1, v1beta2, v1beta1, v1alpha1."""
    for rank, stage in enumerate(("alpha", "beta"), start=0):
        major, found, minor = version.partition(stage)
        if found:
            return (2 - rank, -int(major[1:]), -int(minor or 0))
    return (0, -int(version[1:]), 0)


def subresource_verbs(name: str) -> tuple[str, ...]:
    """What may be done with a subresource."""
    return SUBRESOURCE_VERBS[name]
