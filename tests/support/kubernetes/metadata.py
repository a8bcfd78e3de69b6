"""What the server itself writes into metadata, and what it lets nobody change."""

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

from tests.support.kubernetes.errors import Object, cause
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.names import wrong_key, wrong_labels, wrong_name

# apimachinery's alphabet of generated names: no vowels, no look-alikes.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_GENERATED = 5
# Bytes of all annotations together.
ANNOTATIONS = 256 * 1024
_OURS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")


def timestamp(at: float, *, micro: bool = False) -> str:
    """RFC 3339 in UTC, as metav1.Time (or MicroTime) is written."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def suffix(dice: random.Random) -> str:
    """The five characters that end a generated name."""
    return "".join(dice.choices(_ALPHABET, k=_GENERATED))


def begin(made: Object, kind: Kind, now: float, dice: random.Random) -> None:
    """Name and metadata of a new object, in place."""
    meta = made["metadata"]
    if not meta.get("name") and meta.get("generateName"):
        meta["name"] = meta["generateName"][: 63 - _GENERATED] + suffix(dice)
    for key in (*_OURS, "resourceVersion", "generation"):
        meta.pop(key, None)
    meta["uid"] = str(uuid.UUID(int=dice.getrandbits(128), version=4))
    meta["creationTimestamp"] = timestamp(now)
    if kind.generation_counts:
        meta["generation"] = 1


def carry(new: Object, old: Object) -> None:
    """What an update keeps of the old metadata, in place."""
    meta, before = new["metadata"], old["metadata"]
    for key in (*_OURS, "generation"):
        if key in before:
            meta[key] = before[key]
        else:
            meta.pop(key, None)


def wrong(made: Object, kind: Kind) -> Iterator[Object]:
    """Causes of a 422 in metadata."""
    meta = made["metadata"]
    yield from wrong_name(meta.get("name", ""), kind)
    yield from wrong_labels(meta.get("labels") or {}, "metadata.labels")
    annotations = meta.get("annotations") or {}
    for key in annotations:
        yield from wrong_key(key, "metadata.annotations")
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > ANNOTATIONS:
        yield cause("metadata.annotations", f"Too long: may not be more than {ANNOTATIONS} bytes", "FieldValueTooLong")
    for index, owner in enumerate(meta.get("ownerReferences") or ()):
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                yield cause(f"metadata.ownerReferences[{index}].{key}", 'Invalid value: "": must not be empty')
    for finalizer in meta.get("finalizers") or ():
        yield from wrong_key(finalizer, "metadata.finalizers")
