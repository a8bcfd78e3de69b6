"""Makes things so, and keeps them so: looks at what is there, writes what is missing, and looks again when it changes.

What is written is found out anew each time from what reflectors tell, never from what was written before. So nothing
depends on a change having been seen, on the order of two, or on who led when it happened.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from pymesh_controlplane.kube.asking import CONFLICT, NOT_FOUND, KubernetesError, ask
from pymesh_controlplane.kube.client import FIELD_MANAGER
from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.kube.replica import Object
from pymesh_controlplane.metrics import Metrics

log = logging.getLogger("pymesh.written_back")

# Seconds that a burst of changes is given before it is looked at: what was just written comes back as a change, too.
QUIET: Final = 0.1
# Seconds until an object is tried again that could not be written: doubled from the first to the last, half by chance.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
# Seconds after which a write that is due again has nothing to do with the one before.
FORGOTTEN: Final = 2 * LONGEST_PAUSE
# So many times in a row the same has to be written until somebody else is said to undo it. Twice is a person's `kubectl
# edit`, or our own write, of which the reflector has not heard yet.
CONTESTED: Final = 3


class Write(NamedTuple):
    """A write that is due.

    Attributes:
        name: of the object, as people call it.
        request: asks for it.
        wanted: tells what is to be there from what was to be there before: where the same is due again, somebody else
            has undone it.
        found: the object as it is, trimmed by `trim.authored`; None if it is not there.
    """

    name: str
    request: Callable[[], Awaitable[object]]
    wanted: str = ""
    found: Object | None = None


class Keeper:
    """Keeps one concern.

    Args:
        what: is written, as in `root bundles`; a label of metrics.
        watch: makes the reflectors of what is there, given what to call after a change.
        due: what is to be written now. Called only when everything has been listed.
    """

    def __init__(
        self,
        what: str,
        watch: Callable[[Callable[[], None]], Sequence[Reflector]],
        due: Callable[[Sequence[Reflector]], Iterable[Write]],
        metrics: Metrics,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._what = what
        self._watch = watch
        self._due = due
        self._metrics = metrics
        self._rng = rng or random.Random()  # noqa: S311  spreads retries, guards nothing
        self._news = asyncio.Event()
        self._failures: dict[str, _Failure] = {}
        self._done: dict[str, _Done] = {}

    def changed(self) -> None:
        """Look again."""
        self._news.set()

    async def run(self) -> None:
        """Keep it, until cancelled."""
        reflectors = self._watch(self.changed)
        self._failures.clear()
        self._done.clear()
        async with asyncio.TaskGroup() as tasks:
            for reflector in reflectors:
                tasks.create_task(reflector.run())
            tasks.create_task(self._keep(reflectors))

    async def _keep(self, reflectors: Sequence[Reflector]) -> None:
        loop = asyncio.get_running_loop()
        again_at: float | None = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(again_at):
                    await self._news.wait()
                    await asyncio.sleep(QUIET)
            self._news.clear()
            again_at = None
            if any(reflector.waiting() for reflector in reflectors):
                continue
            writes = {write.name: write for write in self._due(reflectors)}
            for name in self._failures.keys() - writes.keys():
                del self._failures[name]
            for name in [name for name, done in self._done.items() if done.at + FORGOTTEN < loop.time()]:
                del self._done[name]
            for write in writes.values():
                if self._held_until(write) <= loop.time():
                    await self._write(write)
            held = (self._held_until(write) for write in writes.values())
            again_at = min((until for until in held if until > loop.time()), default=None)

    def _held_until(self, write: Write) -> float:
        """When it may be written: not at once if that has just failed, or has just been undone."""
        if failure := self._failures.get(write.name):
            return failure.again_at
        done = self._done.get(write.name)
        return done.at + done.pause if done is not None and done.wanted == write.wanted else 0.0

    async def _write(self, write: Write) -> None:
        try:
            await ask(write.request())
        except KubernetesError as error:
            before = self._failures.get(write.name)
            lasting = before is not None and before.pause >= LONGEST_PAUSE
            if error.code in {CONFLICT, NOT_FOUND} and not lasting:
                # It has changed meanwhile, or is gone: that is on its way to us, and takes no minute.
                self._failed(write.name, "")
                return
            self._metrics.count("controlplane_write_errors", self._what)
            self._failed(write.name, str(error))
        else:
            self._failures.pop(write.name, None)
            self._metrics.count("controlplane_writes", self._what)
            log.info("wrote %s", write.name)
            self._succeeded(write)

    def _succeeded(self, write: Write) -> None:
        now, before = asyncio.get_running_loop().time(), self._done.get(write.name)
        if before is None or before.wanted != write.wanted:
            self._done[write.name] = _Done(write.wanted, now, FIRST_PAUSE, 1)
            return
        done = _Done(write.wanted, now, min(before.pause * 2, LONGEST_PAUSE), before.times + 1)
        self._done[write.name] = done
        if done.times >= CONTESTED:
            self._metrics.count("controlplane_contested_writes", self._what)
        if done.times == CONTESTED:
            log.warning(
                "%s is undone by %s each time it is written: one of the two has to stop, and until then pauses grow",
                write.name,
                _other_author(write.found),
            )

    def _failed(self, name: str, why: str) -> None:
        before = self._failures.get(name)
        pause = min(before.pause * 2, LONGEST_PAUSE) if before else FIRST_PAUSE
        if why and (before is None or before.why != why):
            log.warning("%s cannot be written, and is tried again: %s", name, why)
        again_at = asyncio.get_running_loop().time() + pause * (0.5 + self._rng.random() / 2)
        self._failures[name] = _Failure(pause, again_at, why)


def _other_author(found: Object | None) -> str:
    """Who else wrote to an object last, by the name that the API server noted down (its field manager)."""
    if found is None:
        return "somebody who deletes it"
    entries = [entry for entry in found["metadata"].get("managedFields") or [] if entry.get("manager") != FIELD_MANAGER]
    if not entries:
        return "somebody"
    return f"field manager {max(entries, key=lambda entry: str(entry.get('time') or '')).get('manager')}"


class _Done(NamedTuple):
    """A write that succeeded: when, for how long it is not repeated, and how many times in a row it was made."""

    wanted: str
    at: float
    pause: float
    times: int


class _Failure(NamedTuple):
    """A write that did not succeed. Seconds are those of the loop's clock."""

    pause: float
    again_at: float
    why: str
