"""What etcd and the watch cache are to a real API server: objects, one counter of revisions, a bounded history.

Objects that are in here are never changed in place: who changes one makes a copy, so snapshots and events can share.
Everything runs in the server's event loop; nothing is locked.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.support.kubernetes.errors import Object, expired

# Events that are remembered for watches that come back. A real one keeps five minutes; a test makes fewer than this.
HISTORY = 20_000
# Objects altogether: a test that makes more has a loop that does not end.
OBJECTS = 50_000
# Lists that were begun with a limit and may be continued.
SNAPSHOTS = 64

Storage = tuple[str, str]
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `object` is what is there now, or was there last (DELETED); `previous` what was before."""

    revision: int
    kind: str
    storage: Storage
    object: Object
    previous: Object | None


@dataclass(slots=True)
class Store:
    """All objects, by (group, plural) and then (namespace, name)."""

    revision: int = 1
    # Changes up to here are forgotten: a watch from before is answered with 410.
    compacted: int = 0
    objects: dict[Storage, dict[Key, Object]] = field(default_factory=dict)
    history: deque[Event] = field(default_factory=deque)
    _snapshots: dict[tuple[tuple[str, ...], int], list[Object]] = field(default_factory=dict)
    # Told of every change at once; they may make changes themselves.
    observers: list[Callable[[Event], None]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def get(self, storage: Storage, namespace: str, name: str) -> Object | None:
        """One object; not to be changed."""
        return self.objects.get(storage, {}).get((namespace, name))

    def all(self, storage: Storage, namespace: str = "") -> list[Object]:
        """The objects of a kind, in the order of namespace and name; of every namespace if none is given."""
        found = self.objects.get(storage, {})
        return [found[key] for key in sorted(found) if not namespace or key[0] == namespace]

    def put(self, storage: Storage, new: Object) -> Object:
        """Create or replace, under a new revision, which the object is told. It belongs to the store from here on."""
        kept = self.objects.setdefault(storage, {})
        meta = new["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        previous = kept.get(key)
        if previous is None and sum(map(len, self.objects.values())) >= OBJECTS:
            raise RuntimeError(f"more than {OBJECTS} objects: who is making them?")
        self.revision += 1
        meta["resourceVersion"] = str(self.revision)
        kept[key] = new
        self._record("MODIFIED" if previous is not None else "ADDED", storage, new, previous)
        return new

    def remove(self, storage: Storage, namespace: str, name: str) -> Object:
        """Delete, under a new revision; the object as watches are told of it."""
        previous = self.objects[storage].pop((namespace, name))
        self.revision += 1
        gone = previous | {"metadata": previous["metadata"] | {"resourceVersion": str(self.revision)}}
        self._record("DELETED", storage, gone, previous)
        return gone

    def _record(self, kind: str, storage: Storage, new: Object, previous: Object | None) -> None:
        event = Event(self.revision, kind, storage, new, previous)
        self.history.append(event)
        if len(self.history) > HISTORY:
            self.compacted = self.history.popleft().revision
        self.wake()
        for observer in self.observers:
            observer(event)

    def wake(self) -> None:
        """Let everybody who waits for a change look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, timeout: float) -> None:
        """Return after the next change, or after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            pass

    def since(self, revision: int, storage: Storage) -> Iterable[Event]:
        """The changes of a kind after a revision.

        Raises:
            ApiError: 410, they are forgotten.
        """
        if revision < self.compacted:
            raise expired(f"too old resource version: {revision} ({self.compacted})")
        newer = []
        for event in reversed(self.history):
            if event.revision <= revision:
                break
            if event.storage == storage:
                newer.append(event)
        return reversed(newer)

    def compact(self) -> None:
        """Forget the history: whoever comes back with an older revision has to list again."""
        self.history.clear()
        self._snapshots.clear()
        self.revision += 1
        self.compacted = self.revision
        self.wake()

    def snapshot(self, what: tuple[str, ...], objects: list[Object]) -> int:
        """Keep a list as it is now, to be continued; its revision."""
        self._snapshots[(what, self.revision)] = objects
        while len(self._snapshots) > SNAPSHOTS:
            del self._snapshots[next(iter(self._snapshots))]
        return self.revision

    def at(self, what: tuple[str, ...], revision: int) -> list[Object]:
        """A list that was kept.

        Raises:
            ApiError: 410, it is forgotten.
        """
        if (kept := self._snapshots.get((what, revision))) is not None:
            return kept
        raise expired("The provided continue parameter is too old to display a consistent list result.")
