"""create, update, patch and delete: the steps of apiserver's generic registry, in its order.

Decode (drop what is unknown, refuse wrong types), default, prepare, admit, validate, keep. An object that somebody else
changed meanwhile is a conflict where the request names a resourceVersion, and another attempt where it does not.
"""

from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from tests.support.kubernetes import (
    bodies,
    defaults,
    garbage,
    managed,
    metadata,
    patches,
    plugins,
    reads,
    rules,
    subresources,
    webhooks,
)
from tests.support.kubernetes.cluster import Answer, Cluster
from tests.support.kubernetes.errors import (
    ApiError,
    Object,
    already_exists,
    bad_request,
    conflict,
    invalid,
    not_found,
    unsupported_media_type,
)
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.requests import Asked, Target, dry_run, flag
from tests.support.kubernetes.schema import violations

# Attempts to write an object that others write at the same time.
ATTEMPTS = 5

Change = Callable[[Object | None], Awaitable[Object]]


class Write:
    """One write request: where it goes, who asks, and what it was told on the way."""

    def __init__(self, cluster: Cluster, kind: Kind, asked: Asked, options: Mapping[str, Any] | None = None) -> None:
        self.cluster = cluster
        self.kind = kind
        self.asked = asked
        self.target = asked.target
        self.query = asked.query
        self.manager = managed.manager_of(asked.query, asked.agent, asked.target.subresource)
        self.dry = dry_run(asked.query, options or {})
        self.strict = bodies.strictness(asked.query)
        self.warnings: list[str] = []

    async def create(self, value: Any) -> Answer:
        """POST to a collection."""
        made = bodies.to_object(deepcopy(value), self.kind, self.target)
        return await self.create_object(made)

    async def create_object(self, made: Object, *, tracked: bool = False) -> Answer:
        """Keep a new object; `tracked` if it knows who owns its fields."""
        kind, store = self.kind, self.cluster.store
        meta = made["metadata"]
        garbage.check_namespace(store, kind, meta.get("namespace", ""), meta.get("name", ""))
        bodies.decoded(made, kind, self.strict if not tracked else "Ignore", self.warnings)
        if made["metadata"].get("resourceVersion") and not tracked:
            raise bad_request("resourceVersion should not be set on objects to be created")
        metadata.begin(made, kind, self.cluster.clock(), self.cluster.dice)
        defaults.fill(made, kind, self.cluster)
        defaults.begin(made, kind)
        if not tracked:
            managed.track(made, None, kind, self.manager, self.cluster.clock())
        made = await self._admit("CREATE", made, None)
        self._check(made, None)
        await self._validate("CREATE", made, None)
        meta = made["metadata"]
        if store.get(kind.storage, meta.get("namespace", ""), meta["name"]):
            raise already_exists(kind.group, kind.plural, meta["name"])
        if not self.dry:
            store.put(kind.storage, made)
        return self._answer(made, 201)

    async def replace(self, value: Any) -> Answer:
        """PUT one object."""
        made = bodies.to_object(value, self.kind, self.target)

        async def change(old: Object | None) -> Object:
            if old is None:
                raise not_found(self.kind.group, self.kind.plural, self.target.name)
            return deepcopy(made)

        return await self._update(change)

    async def patch(self, body: bytes, content_type: str) -> Answer:
        """PATCH one object, in the way that the media type says.

        Raises:
            ApiError: 400, 415, 422 ...
        """
        media = content_type.partition(";")[0].strip()
        served = [patches.JSON_PATCH, patches.MERGE, patches.APPLY, *([] if self.kind.custom else [patches.STRATEGIC])]
        if media not in served:
            raise unsupported_media_type(served)
        patch = bodies.parsed(body, yaml_too=media == patches.APPLY)

        async def change(old: Object | None) -> Object:
            if old is None:
                raise not_found(self.kind.group, self.kind.plural, self.target.name)
            return bodies.to_object(self._patched(old, patch, media), self.kind, self.target)

        if media == patches.APPLY:
            return await self._apply(patch)
        return await self._update(change)

    async def _apply(self, patch: Any) -> Answer:
        """Server-side apply, which creates what is not there."""
        managed.check_patch(patch, self.query)
        wanted = bodies.to_object(patch, self.kind, self.target)
        wanted["metadata"].setdefault("name", self.target.name)
        bodies.decoded(wanted, self.kind, self.strict, self.warnings, defaulted=False)
        now, force = self.cluster.clock(), flag(self.query, "force")

        def apply_to(live: Object | None) -> Object:
            return managed.applied(live, deepcopy(wanted), self.kind, self.manager, now, force=force)

        if self._found() is None:
            if self.target.subresource:
                raise not_found(self.kind.group, self.kind.plural, self.target.name)
            return await self.create_object(apply_to(None), tracked=True)

        async def change(old: Object | None) -> Object:
            return apply_to(old)

        return await self._update(change, tracked=True)

    def _found(self) -> Object | None:
        place = self.target.namespace if self.kind.namespaced else ""
        return self.cluster.store.get(self.kind.storage, place, self.target.name)

    async def rescale(self, body: bytes, content_type: str) -> Answer:
        """PUT or PATCH the scale of a workload."""
        media = content_type.partition(";")[0].strip()

        async def change(old: Object | None) -> Object:
            if old is None:
                raise not_found(self.kind.group, self.kind.plural, self.target.name)
            if self.target.verb == "update":
                return subresources.scaled(old, bodies.read(body, content_type))
            patch, before = bodies.parsed(body), subresources.scale(old)
            by_json = media == patches.JSON_PATCH
            return subresources.scaled(
                old, patches.json_patch(before, patch) if by_json else patches.merge(before, patch)
            )

        answer = await self._update(change)
        return Answer(subresources.scale(answer.body), answer.code, answer.warnings)

    def _patched(self, old: Object, patch: Any, media: str) -> Any:
        if media == patches.JSON_PATCH:
            return patches.json_patch(old, patch)
        if not isinstance(patch, dict):
            raise bad_request("a patch of this type has to be an object")
        return patches.merge(old, patch) if media == patches.MERGE else patches.strategic(old, patch, self.kind.schema)

    async def _update(self, change: Change, *, tracked: bool = False) -> Answer:
        kind, target = self.kind, self.target
        for _ in range(ATTEMPTS):
            found = self._found()
            old = deepcopy(reads.versioned(found, kind)) if found else None
            new = await change(deepcopy(old))
            assert old is not None
            asked = new["metadata"].get("resourceVersion")
            if asked and asked != old["metadata"]["resourceVersion"]:
                raise conflict(kind.group, kind.plural, target.name)
            uid = new["metadata"].get("uid")
            if uid and uid != old["metadata"]["uid"]:
                raise conflict(kind.group, kind.plural, target.name, _other_uid(uid, old))
            self._prepare(new, old)
            if not tracked:
                managed.track(new, old, kind, self.manager, self.cluster.clock())
            new = await self._admit("UPDATE", new, old)
            self._check(new, old)
            await self._validate("UPDATE", new, old)
            if self._found() is not found:
                continue  # somebody was faster while webhooks were asked
            return self._keep(new, old)
        raise conflict(kind.group, kind.plural, target.name)

    def _prepare(self, new: Object, old: Object) -> None:
        kind = self.kind
        bodies.decoded(new, kind, self.strict, self.warnings)
        metadata.carry(new, old)
        if self.target.subresource == "status":
            status = new.get("status")
            managed = new["metadata"].get("managedFields")
            new.clear()
            new.update(deepcopy(old))
            new["metadata"].pop("managedFields", None)
            if managed is not None:
                new["metadata"]["managedFields"] = managed
            new["status"] = status
            if status is None:
                del new["status"]
        elif "status" in kind.subresources:
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
        defaults.fill(new, kind, self.cluster)
        defaults.carry(new, old, kind)
        if kind.generation_counts and _meant(new) != _meant(old):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1

    async def _admit(self, operation: str, new: Object, old: Object | None) -> Object:
        """Let plugins and mutating webhooks change an object; what comes of it, as if it had been sent so."""
        kind, cluster = self.kind, self.cluster
        creates = operation == "CREATE" and not self.target.subresource
        if creates:
            plugins.admit(cluster, kind, new)
        asked = self._attributes(operation, new, old)
        if not await webhooks.mutate(cluster, asked):
            return new
        made = asked.new
        assert made is not None
        bodies.decoded(made, kind, "Ignore", [])
        defaults.fill(made, kind, cluster)
        if creates:
            plugins.admit(cluster, kind, made)
        return made

    async def _validate(self, operation: str, new: Object, old: Object | None) -> None:
        if operation == "CREATE":
            plugins.check(self.cluster, self.kind, new, self.warnings)
        await webhooks.validate(self.cluster, self._attributes(operation, new, old))

    def _attributes(self, operation: str, new: Object | None, old: Object | None) -> webhooks.Attributes:
        meta = (new or old or {})["metadata"]
        name = meta.get("name", "") if operation != "CREATE" or not meta.get("generateName") else ""
        options = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}[operation]
        return webhooks.Attributes(
            operation, self.kind, self.target, self.asked.user, name, meta.get("namespace", ""), new, old, self.dry,
            {"kind": options, "apiVersion": "meta.k8s.io/v1"}, self.warnings,
        )  # fmt: skip

    def _check(self, new: Object, old: Object | None) -> None:
        kind = self.kind
        causes = list(metadata.wrong(new, kind))
        if kind.schema:
            causes += list(bodies.wrong_custom_types(new, kind)) or violations(new, kind.schema)
        if not causes:
            causes += rules.wrong(new, old, kind) if self.target.subresource != "status" else []
        if causes:
            raise invalid(kind.group, kind.kind, new["metadata"].get("name", ""), causes)

    def _keep(self, new: Object, old: Object) -> Answer:
        store, kind = self.cluster.store, self.kind
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if new == old or self.dry:
            return self._answer(new)
        if old["metadata"].get("deletionTimestamp") and not garbage.waits(new):
            gone = garbage.remove(self.cluster, kind, new["metadata"].get("namespace", ""), new["metadata"]["name"])
            return self._answer(gone)
        store.put(kind.storage, new)
        return self._answer(new)

    def _answer(self, new: Object, code: int = 200) -> Answer:
        return Answer(reads.versioned(new, self.kind), code, self.warnings)

    async def delete(self, options: Mapping[str, Any]) -> Answer:
        """DELETE one object."""
        found = reads.get(self.cluster.store, self.kind, self.target)
        self._check_preconditions(found, options.get("preconditions") or {})
        await webhooks.validate(self.cluster, self._attributes("DELETE", None, deepcopy(found)))
        if self.dry:
            return Answer(self._deleted(found), 200, self.warnings)
        left = garbage.delete(self.cluster, self.kind, found, {**self._delete_query(), **options})
        return Answer(reads.versioned(left, self.kind) if left else self._deleted(found), 200, self.warnings)

    def _delete_query(self) -> Object:
        asked: Object = {}
        if "gracePeriodSeconds" in self.query:
            asked["gracePeriodSeconds"] = int(self.query["gracePeriodSeconds"])
        if "propagationPolicy" in self.query:
            asked["propagationPolicy"] = self.query["propagationPolicy"]
        return asked

    def _check_preconditions(self, found: Object, wanted: Mapping[str, str]) -> None:
        meta, kind = found["metadata"], self.kind
        if wanted.get("uid") and wanted["uid"] != meta["uid"]:
            raise conflict(kind.group, kind.plural, meta["name"], _other_uid(wanted["uid"], found))
        if wanted.get("resourceVersion") and wanted["resourceVersion"] != meta["resourceVersion"]:
            raise conflict(
                kind.group,
                kind.plural,
                meta["name"],
                f"Precondition failed: ResourceVersion in precondition: {wanted['resourceVersion']}, ResourceVersion "
                f"in object meta: {meta['resourceVersion']}",
            )

    def _deleted(self, found: Object) -> Object:
        meta = found["metadata"]
        details = {"name": meta["name"], "kind": self.kind.plural, "uid": meta["uid"]}
        if self.kind.group:
            details["group"] = self.kind.group
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    async def delete_all(self, options: Mapping[str, Any]) -> Answer:
        """DELETE a collection, or what is selected of it."""
        found = reads.listed(self.cluster.store, self.kind, self.target, self.query)
        for each in found["items"]:
            meta = each["metadata"]
            one = Target("delete", self.kind.group, self.kind.version, self.kind.plural,
                         meta.get("namespace", ""), meta["name"])  # fmt: skip
            try:
                await Write(self.cluster, self.kind, replace(self.asked, target=one), options).delete(options)
            except ApiError as error:
                if error.code != 404:  # the garbage collector was faster
                    raise
        return Answer(found)


def _meant(found: Object) -> Object:
    """What counts for metadata.generation: everything but metadata and status."""
    return {key: value for key, value in found.items() if key not in ("metadata", "status")}


def _other_uid(uid: str, found: Object) -> str:
    return f"Precondition failed: UID in precondition: {uid}, UID in object meta: {found['metadata']['uid']}"
