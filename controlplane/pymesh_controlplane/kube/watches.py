"""Reflectors that run side by side, with an owner, and their changes gathered into bursts."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from types import TracebackType
from typing import Self

from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.pilot.push import Debounce


class Watches:
    """Runs reflectors, from `start` until `stop`, at the latest until the context ends.

    Give `changed` to each of them as its `notify`.
    """

    def __init__(self) -> None:
        self._tasks: dict[Reflector, asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reflector in list(self._tasks):
            self._tasks[reflector].cancel()
        for reflector in list(self._tasks):
            await self.stop(reflector)

    def changed(self) -> None:
        """Something changed."""
        self._news.set()

    def start(self, reflector: Reflector) -> None:
        """Run `reflector`."""
        task = asyncio.get_running_loop().create_task(reflector.run(), name=str(reflector))
        task.add_done_callback(self._ended)
        self._tasks[reflector] = task

    async def stop(self, reflector: Reflector) -> None:
        """Run it no longer."""
        task = self._tasks.pop(reflector)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def bursts(self, debounce: Debounce, every: float | None = None) -> AsyncGenerator[None, None]:
        """Comes up after every burst of changes; the first time after the first.

        Args:
            every: seconds after which it comes up without any change, too.

        Raises:
            Exception: what a reflector raised, which none ever should.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(every):
                    await self._news.wait()
            except TimeoutError:
                debounce.changed(loop.time())
            while debounce.take(loop.time()) is None:
                if self._news.is_set():
                    self._news.clear()
                    debounce.changed(loop.time())
                due = debounce.due()
                assert due is not None, "something has changed"
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._news.wait()
            if self._failure is not None:
                raise self._failure
            yield

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._failure = task.exception()
            self._news.set()
