"""The directory source: what people and runtimes write below a folder, as it changes."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import watchfiles

from pymesh import names
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.sources.files import Files
from pymesh_controlplane.sources.in_force import InForce
from pymesh_controlplane.sources.last_good import LastGood
from pymesh_controlplane.sources.ledger import Ledger

# Below this folder stands what a runtime observed: its Service, with a cluster IP, wins over the one that was applied.
OBSERVED: Final = "observed"

# A change is looked at once nothing has changed for so long (an editor's several steps, a file written in pieces) ...
QUIET_MS: Final = 50
# ... or, while it goes on and on, after so long.
PATIENCE_MS: Final = 400
# How often the watcher's thread comes up to see whether it should stop, and whether the folder itself is still there.
WAKE_MS: Final = 500
# How often everything is looked at without any event: for links that lead out of the folder, and network file systems.
RESCAN_SECONDS: Final = 5.0


class DirectorySource:
    """Watches `root` and everything below it: *.yaml, *.yml and *.json.

    A change is in the next world some 50 ms after the last write. What cannot be read or is wrong is in
    `World.problems`; what it said before stays in force meanwhile. The folder may come and go.

    Args:
        last_good: where what is in force is kept, so that it is known to the next process; by default nowhere.
    """

    def __init__(
        self,
        root: Path,
        *,
        trust_domain: str = names.TRUST_DOMAIN,
        root_namespace: str = names.SYSTEM_NAMESPACE,
        last_good: LastGood | None = None,
    ) -> None:
        self._root = root
        self._files = Files(root)
        ledger = Ledger((f"{root / OBSERVED}{os.sep}",), trust_domain, root_namespace)
        self._in_force = InForce(ledger, last_good)

    async def watch(self) -> AsyncIterator[World]:
        """The world as it is now, and a new one after every change that matters. One consumer at a time."""
        while True:
            watched = _identity(self._root)
            if (world := await self._news()) is not None:
                yield world
            if watched is None:
                await asyncio.sleep(WAKE_MS / 1000)
                continue
            try:
                async with aclosing(_wakes(self._root)) as wakes:
                    async for changed in wakes:
                        replaced = _identity(self._root) != watched
                        if (changed or replaced) and (world := await self._news()) is not None:
                            yield world
                        if replaced:
                            break
            except FileNotFoundError:
                continue  # gone since it was looked at

    async def _news(self) -> World | None:
        """The world, if it is not the one of last time. Parsing and judging are kept off the event loop."""
        return await asyncio.to_thread(lambda: self._in_force.update(self._files.read(), datetime.now(UTC)))


async def _wakes(root: Path) -> AsyncGenerator[bool, None]:
    """Comes up at least every WAKE_MS, and says whether something below `root` changed or may have.

    The first time it may: something could have changed before the watcher was in place.
    """
    loop = asyncio.get_running_loop()
    due = loop.time()
    changes = watchfiles.awatch(
        root,
        watch_filter=None,
        debounce=PATIENCE_MS,
        step=QUIET_MS,
        rust_timeout=WAKE_MS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
        recursive=True,
    )
    async with aclosing(changes) as batches:
        async for batch in batches:
            changed = bool(batch) or loop.time() >= due
            if changed:
                due = loop.time() + RESCAN_SECONDS
            yield changed


def _identity(root: Path) -> tuple[int, int] | None:
    """Which folder it is; None if there is none."""
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
