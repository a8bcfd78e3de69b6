"""One source for several followers: the files are read and judged once."""

import asyncio
from collections.abc import AsyncIterator

from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.sources.base import Source


class SharedSource:
    """Follows a source, and tells everyone who watches the newest world. Who is slow misses the ones in between."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._world: World | None = None
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Follow the source, until cancelled."""
        async for world in self._source.watch():
            async with self._changed:
                self._world = world
                self._changed.notify_all()

    async def watch(self) -> AsyncIterator[World]:
        """As `Source.watch`; it tells nothing before `run` does."""
        last: World | None = None
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._world is not last)  # noqa: B023  asked only before `last` moves on
                last = self._world
            assert last is not None
            yield last
