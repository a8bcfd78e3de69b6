"""Who owns which field: metadata.managedFields, server-side apply and its conflicts (KEP 555)."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from tests.support.kubernetes.errors import ApiError, Object, bad_request, cause, invalid, required
from tests.support.kubernetes.fieldsets import Path, fields_of, merged, paths_of, removed, tree, value_at, written
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.metadata import timestamp

_APPLY, _UPDATE = "Apply", "Update"
# Nobody owns these.
_NOBODYS = {
    ("f:apiVersion",), ("f:kind",), ("f:metadata",),
    *(("f:metadata", f"f:{key}") for key in (
        "name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields",
        "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds")),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Manager:
    """Who writes, and by which subresource."""

    name: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Owner:
    """One entry of managedFields."""

    manager: str
    operation: str
    api_version: str
    subresource: str
    time: str
    paths: frozenset[Path]

    @property
    def identity(self) -> tuple[str, str, str]:
        """What tells entries apart; the version does as well, which no test of ours mixes."""
        return (self.manager, self.operation, self.subresource)


def manager_of(query: Mapping[str, str], agent: str, subresource: str) -> Manager:
    """Who writes: as the request says, or by its user agent."""
    return Manager(query.get("fieldManager") or agent.partition("/")[0][:128] or "unknown", subresource)


def owned(found: Object) -> list[Owner]:
    """The entries of an object."""
    return [
        Owner(
            each.get("manager", ""), each.get("operation", ""), each.get("apiVersion", ""), each.get("subresource", ""),
            each.get("time", ""), frozenset(paths_of(each.get("fieldsV1") or {})),
        )
        for each in found["metadata"].get("managedFields") or ()
        if each.get("manager")
    ]  # fmt: skip


def _write(made: Object, owners: Iterable[Owner]) -> None:
    entries = []
    for each in sorted(owners, key=lambda owner: (owner.operation, owner.time, owner.manager)):
        if not each.paths:
            continue
        entry: Object = {"manager": each.manager, "operation": each.operation, "apiVersion": each.api_version,
                         "time": each.time, "fieldsType": "FieldsV1", "fieldsV1": tree(each.paths)}  # fmt: skip
        entries.append(entry | ({"subresource": each.subresource} if each.subresource else {}))
    made["metadata"].pop("managedFields", None)
    if entries:
        made["metadata"]["managedFields"] = entries


def _paths(found: Object, kind: Kind, subresource: str) -> frozenset[Path]:
    """What an object says that somebody owns; the status is owned by who writes it by its subresource."""
    paths = {path for path in fields_of(found, kind.schema) if path not in _NOBODYS}
    if "status" in kind.subresources:
        ours = subresource == "status"
        paths = {path for path in paths if (path[0] == "f:status") is ours}
    return frozenset(paths)


def track(new: Object, old: Object | None, kind: Kind, by: Manager, now: float) -> None:
    """Let the one who created or updated an object own what is different now, in place."""
    given = new["metadata"].get("managedFields")
    owners = owned(new if given is not None or old is None else old)
    before = old or {"metadata": {}}
    everything = {path for path in fields_of(new, kind.schema) if path not in _NOBODYS}
    paths = _paths(new, kind, by.subresource)
    changed = {path for path in paths if value_at(new, path, kind.schema) != value_at(before, path, kind.schema)}
    mine = (by.name, _UPDATE, by.subresource)
    kept = [
        replace(owner, paths=frozenset(path for path in owner.paths if path in everything and
                                       (path not in changed or owner.identity == mine)))
        for owner in owners
    ]  # fmt: skip
    _write(new, _with(kept, mine, kind, changed | _previous(kept, mine), now))


def _previous(owners: Iterable[Owner], identity: tuple[str, str, str]) -> frozenset[Path]:
    return next((owner.paths for owner in owners if owner.identity == identity), frozenset())


def _with(
    owners: list[Owner], identity: tuple[str, str, str], kind: Kind, paths: Iterable[Path], now: float
) -> list[Owner]:
    """The owners with one of them owning these paths; its time is that of its last change."""
    mine = frozenset(paths)
    before = next((owner for owner in owners if owner.identity == identity), None)
    time = before.time if before and before.paths == mine else timestamp(now)
    manager, operation, subresource = identity
    others = [owner for owner in owners if owner.identity != identity]
    return [*others, Owner(manager, operation, kind.api_version, subresource, time, mine)]


def check_patch(patch: Any, query: Mapping[str, str]) -> None:
    """What every server-side apply has to have.

    Raises:
        ApiError: 400, 422.
    """
    if not query.get("fieldManager"):
        missing = required("fieldManager", "is required for apply patch")
        raise invalid("meta.k8s.io", "PatchOptions", "", [missing])
    if not isinstance(patch, dict) or not patch.get("apiVersion") or not patch.get("kind"):
        raise bad_request("error decoding YAML: Object 'Kind' is missing")
    if (patch.get("metadata") or {}).get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")


def applied(live: Object | None, patch: Object, kind: Kind, by: Manager, now: float, *, force: bool) -> Object:
    """The object after a server-side apply, with its managedFields.

    Raises:
        ApiError: 409, others own what would change.
    """
    identity = (by.name, _APPLY, by.subresource)
    if live is None:
        made = deepcopy(patch)
        paths = _paths(made, kind, by.subresource)
        _write(made, _with([], identity, kind, paths, now))
        return made
    owners = owned(live)
    wanted = _paths(patch, kind, by.subresource)
    whole: Object = merged(live, patch, kind.schema)
    changed = {
        path for path in wanted if value_at(whole, path, kind.schema) != value_at(live, path, kind.schema)
    }  # fmt: skip
    conflicts = [
        (owner, path)
        for owner in owners
        if owner.identity != identity
        for path in sorted(owner.paths & changed, key=_walk)
    ]
    if conflicts and not force:
        raise _conflict(conflicts)
    # An item before its fields: without the one that names it, nobody finds it any more.
    for path in sorted(_previous(owners, identity) - wanted, key=len):
        if all(path not in owner.paths for owner in owners if owner.identity != identity):
            removed(whole, path, kind.schema)
    left = [owner if owner.identity == identity else replace(owner, paths=owner.paths - changed) for owner in owners]
    _write(whole, _with(left, identity, kind, wanted, now))
    return whole


def _walk(path: Path) -> list[tuple[bool, str]]:
    """The order of structured-merge-diff: at each level what is owned itself, then what is below."""
    return [(index < len(path) - 1, step) for index, step in enumerate(path)]


def _conflict(conflicts: list[tuple[Owner, Path]]) -> ApiError:
    causes = [
        cause(written(path), f"conflict with {_who(owner)}", "FieldManagerConflict") for owner, path in conflicts
    ]  # fmt: skip
    if len(causes) == 1:
        text = f"1 conflict: {causes[0]['message']}: {causes[0]['field']}"
    else:
        lines = [f"{len(causes)} conflicts: "]
        for who in sorted({_who(owner) for owner, _ in conflicts}):
            lines += [
                f"conflicts with {who}:",
                *(f"- {written(path)}" for owner, path in conflicts if _who(owner) == who),
            ]
        text = lines[0] + "\n".join(lines[1:])
    return ApiError(409, "Conflict", f"Apply failed with {text}", {"causes": causes})


def _who(owner: Owner) -> str:
    """An owner as conflicts name it (managedfields/internal/conflict.go)."""
    if owner.operation == _APPLY:
        return f'"{owner.manager}"'
    subresource = f' with subresource "{owner.subresource}"' if owner.subresource else ""
    return f'"{owner.manager}"{subresource} using {owner.api_version}'
