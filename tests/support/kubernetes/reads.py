"""get, list and watch: what they give, page by page and event by event."""

import base64
import binascii
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import msgspec

from tests.support.kubernetes.errors import ApiError, Object, bad_request, cause, expired, invalid, not_found
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.requests import Target, flag, number, revision
from tests.support.kubernetes.selectors import both
from tests.support.kubernetes.store import Event, Store

# Seconds between two bookmarks on a quiet watch. A real server sends one a minute; tests have no minute.
BOOKMARK_EVERY = 1.0
# Seconds that a watch may last when it does not say; a real server draws one between 30 and 60 minutes.
LONGEST_WATCH = 1800
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


def versioned(found: Object, kind: Kind) -> Object:
    """The object in the version that was asked for (CRDs convert with strategy None)."""
    return {"apiVersion": kind.api_version, "kind": kind.kind} | {
        key: value for key, value in found.items() if key not in ("apiVersion", "kind")
    }


def get(store: Store, kind: Kind, target: Target) -> Object:
    """One object.

    Raises:
        ApiError: 404.
    """
    found = store.get(kind.storage, target.namespace if kind.namespaced else "", target.name)
    if found is None:
        raise not_found(kind.group, kind.plural, target.name)
    return versioned(found, kind)


def listed(store: Store, kind: Kind, target: Target, query: Mapping[str, str]) -> Object:
    """A list, as far as `limit` goes.

    Raises:
        ApiError: 400, 410, 422.
    """
    matches = both(query.get("labelSelector", ""), query.get("fieldSelector", ""), kind)
    asked, match, limit = revision(query), query.get("resourceVersionMatch", ""), number(query, "limit")
    start = 0
    if token := query.get("continue", ""):
        if asked:
            raise bad_request("specifying resource version is not allowed when using continue")
        at, start = _continued(token)
        objects = store.at((*kind.storage, _where(target, query)), at)
    else:
        at = _checked(store, asked, match)
        objects = [each for each in store.all(kind.storage, _namespace(kind, target)) if matches(versioned(each, kind))]
    page = objects[start : start + limit] if limit else objects[start:]
    meta: Object = {"resourceVersion": str(at)}
    if start + len(page) < len(objects):
        store.snapshot((*kind.storage, _where(target, query)), objects)
        meta["continue"] = _token(at, start + len(page))
        if not (query.get("labelSelector") or query.get("fieldSelector")):
            meta["remainingItemCount"] = len(objects) - start - len(page)
    items = [versioned(each, kind) for each in page]
    return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": items}


def _where(target: Target, query: Mapping[str, str]) -> str:
    return f"{target.namespace}?{query.get('labelSelector', '')}?{query.get('fieldSelector', '')}"


def _namespace(kind: Kind, target: Target) -> str:
    return target.namespace if kind.namespaced else ""


def _checked(store: Store, asked: int | None, match: str) -> int:
    """The revision of a list from now, if that is what may be given."""
    if match not in ("", "Exact", "NotOlderThan") or (match and asked is None):
        reason = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        raise invalid("meta.k8s.io", "ListOptions", "", [cause("resourceVersionMatch", reason, "FieldValueForbidden")])
    if match == "Exact" and asked == 0:
        reason = 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        raise invalid("meta.k8s.io", "ListOptions", "", [{"field": "resourceVersionMatch", "message": reason}])
    if match == "Exact" and asked != store.revision:
        raise expired("The provided resource version is not available: only the present one is kept")
    if asked is not None and asked > store.revision:
        raise _future(asked, store.revision)
    return store.revision


def _future(asked: int, current: int) -> ApiError:
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    return ApiError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


def _token(at: int, start: int) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode({"v": "meta.k8s.io/v1", "rv": at, "start": start})).decode()


def _continued(token: str) -> tuple[int, int]:
    try:
        content = msgspec.json.decode(base64.urlsafe_b64decode(token))
        return int(content["rv"]), int(content["start"])
    except (ValueError, KeyError, TypeError, binascii.Error, msgspec.DecodeError):
        raise bad_request("continue key is not valid") from None


async def watch(store: Store, kind: Kind, target: Target, query: Mapping[str, str]) -> AsyncIterator[Object]:
    """The events of a watch until its time is over. What is wrong with the question is raised before the first one.

    Raises:
        ApiError: 400, 422. A revision that is forgotten is an ERROR event, as it is with a real server's watch cache.
    """
    matches = both(query.get("labelSelector", ""), query.get("fieldSelector", ""), kind)
    asked, bookmarks = revision(query), flag(query, "allowWatchBookmarks")
    initial = flag(query, "sendInitialEvents")
    _check_initial(query, initial)
    seconds = number(query, "timeoutSeconds") or LONGEST_WATCH
    # No revision and revision 0 both begin with what is there; a newer revision than ours never comes.
    synthetic = initial if "sendInitialEvents" in query else not asked
    if asked is not None and asked > store.revision:
        raise _future(asked, store.revision)
    seen = store.revision if synthetic or not asked else asked
    begins = _Beginning(seen, synthetic, initial)
    namespace = _namespace(kind, target)

    def wanted(found: Object | None) -> bool:
        return (
            found is not None
            and (not namespace or found["metadata"].get("namespace") == namespace)
            and matches(versioned(found, kind))
        )

    return _events(store, kind, wanted, begins, _Pace(bookmarks, time.monotonic() + seconds))


@dataclass(frozen=True, slots=True)
class _Beginning:
    """The revision that a watch begins with, whether what is there comes first, and whether its end is told."""

    revision: int
    synthetic: bool
    initial: bool


@dataclass(frozen=True, slots=True)
class _Pace:
    """Whether bookmarks are sent, and until when (monotonic)."""

    bookmarks: bool
    deadline: float


def _check_initial(query: Mapping[str, str], initial: bool) -> None:
    match, why = query.get("resourceVersionMatch", ""), ""
    if initial and match != "NotOlderThan":
        why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
    elif match and "sendInitialEvents" not in query:
        why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
    if why:
        forbidden = cause("resourceVersionMatch", f"Forbidden: {why}", "FieldValueForbidden")
        raise invalid("meta.k8s.io", "ListOptions", "", [forbidden])


async def _events(
    store: Store, kind: Kind, wanted: Callable[[Object | None], bool], begins: _Beginning, pace: _Pace
) -> AsyncIterator[Object]:
    seen = begins.revision
    for each in store.all(kind.storage) if begins.synthetic else ():
        if wanted(each):
            yield {"type": "ADDED", "object": versioned(each, kind)}
    if begins.initial and pace.bookmarks:
        yield _bookmark(kind, seen, {INITIAL_EVENTS_END: "true"})
    told = time.monotonic()
    while (now := time.monotonic()) < pace.deadline:
        try:
            events, upto = store.since(seen, kind.storage), store.revision
        except ApiError as error:
            yield {"type": "ERROR", "object": error.status()}
            return
        for event in events:
            if one := _told(event, kind, wanted):
                yield one
                told = now
        seen = upto
        if pace.bookmarks and now - told >= BOOKMARK_EVERY:
            yield _bookmark(kind, seen, {})
            told = now
        if store.revision == seen:
            await store.changed(min(pace.deadline - now, BOOKMARK_EVERY))


def _told(event: Event, kind: Kind, wanted: Callable[[Object | None], bool]) -> Object | None:
    """What a change is to somebody who watches a selection: an object may come into it and leave it."""
    is_in, was_in = event.kind != "DELETED" and wanted(event.object), wanted(event.previous)
    if not is_in and not was_in:
        return None
    name = ("MODIFIED" if was_in else "ADDED") if is_in else "DELETED"
    found = event.object
    if name == "DELETED" and event.kind != "DELETED":
        previous = event.previous or {}
        meta = previous["metadata"] | {"resourceVersion": str(event.revision)}
        found = previous | {"metadata": meta}
    return {"type": name, "object": versioned(found, kind)}


def _bookmark(kind: Kind, at: int, annotations: Mapping[str, str]) -> Object:
    meta: Object = {"resourceVersion": str(at), "creationTimestamp": None}
    if annotations:
        meta["annotations"] = dict(annotations)
    return {"type": "BOOKMARK", "object": {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta}}
