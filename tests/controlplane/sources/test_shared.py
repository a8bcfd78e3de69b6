"""One source for several followers."""

import asyncio
from collections.abc import AsyncIterator

from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.sources.shared import SharedSource
from tests.controlplane.pilot.worlds import BOOKINFO, world_of


class Source:
    """Tells the worlds of a queue."""

    def __init__(self) -> None:
        self.worlds: asyncio.Queue[World] = asyncio.Queue()
        self.watched = 0

    async def watch(self) -> AsyncIterator[World]:
        self.watched += 1
        while True:
            yield await self.worlds.get()


async def test_everyone_hears_of_every_change_and_late_comers_of_the_last() -> None:
    """Read and judged once."""
    source, first, second = Source(), world_of(BOOKINFO), world_of("")
    shared = SharedSource(source)
    task = asyncio.get_running_loop().create_task(shared.run())
    early, other = shared.watch(), shared.watch()
    async with asyncio.timeout(5):
        source.worlds.put_nowait(first)
        assert await anext(early) is first
        source.worlds.put_nowait(second)
        assert await anext(early) is second
        assert await anext(other) is second, "who is slow misses the ones in between"
        assert await anext(shared.watch()) is second
    assert source.watched == 1
    task.cancel()
    await asyncio.wait([task])
