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
from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.metrics import Metrics

log = logging.getLogger("pymesh.written_back")

# Seconds that a burst of changes is given before it is looked at: what was just written comes back as a change, too.
QUIET: Final = 0.1
# Seconds until an object is tried again that could not be written: doubled from the first to the last, half by chance.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0


class Write(NamedTuple):
    """A write that is due. `name` is of the object, as people call it; `request` asks for it."""

    name: str
    request: Callable[[], Awaitable[object]]


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

    def changed(self) -> None:
        """Look again."""
        self._news.set()

    async def run(self) -> None:
        """Keep it, until cancelled."""
        reflectors = self._watch(self.changed)
        self._failures.clear()
        async with asyncio.TaskGroup() as tasks:
            for reflector in reflectors:
                tasks.create_task(reflector.run())
            tasks.create_task(self._keep(reflectors))

    async def _keep(self, reflectors: Sequence[Reflector]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min((f.again_at for f in self._failures.values()), default=None)):
                    await self._news.wait()
                    await asyncio.sleep(QUIET)
            self._news.clear()
            if any(reflector.waiting() for reflector in reflectors):
                continue
            writes = {write.name: write for write in self._due(reflectors)}
            for name in self._failures.keys() - writes.keys():
                del self._failures[name]
            for write in writes.values():
                failure = self._failures.get(write.name)
                if failure is None or failure.again_at <= loop.time():
                    await self._write(write)

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

    def _failed(self, name: str, why: str) -> None:
        before = self._failures.get(name)
        pause = min(before.pause * 2, LONGEST_PAUSE) if before else FIRST_PAUSE
        if why and (before is None or before.why != why):
            log.warning("%s cannot be written, and is tried again: %s", name, why)
        again_at = asyncio.get_running_loop().time() + pause * (0.5 + self._rng.random() / 2)
        self._failures[name] = _Failure(pause, again_at, why)


class _Failure(NamedTuple):
    """A write that did not succeed. Seconds are those of the loop's clock."""

    pause: float
    again_at: float
    why: str
