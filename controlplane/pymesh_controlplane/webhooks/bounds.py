"""What the webhooks do at once, at most: bytes that are held, and questions that wait. Who comes later is told at once.

The port is open to every pod, and an API server waits for seconds only: what cannot be answered in time is better
refused at once, since its caller may then try again while the answer still counts.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal, TypeVar, TypeVarTuple

from pymesh_controlplane.webhooks.admission import ReviewError

T = TypeVar("T")
Inputs = TypeVarTuple("Inputs")

# Bytes of all bodies whose questions are being read or answered. JSON takes up to some 25 times as much once it is
# decoded (`{},{},{}`), so that this is at most 400 MiB of the Deployment's 1 GiB; the usual review has 10 to 50 kB.
MAX_BODIES: Final = 16 * 1024 * 1024
# Questions of one webhook that wait, whatever they take: half of the connections, so that each webhook has its own.
MAX_WAITING: Final = 128
# How much of what a question took counts for the next: 1/4 forgets a slow one after some ten others.
_WEIGHT: Final = 0.25

What = Literal["bytes", "queue"]


class BusyError(ReviewError):
    """Too much at once; `what` of it."""

    def __init__(self, sentence: str, what: What) -> None:
        super().__init__(f"{sentence}: try again", 503)
        self.what: What = what


class Room:
    """Room for `size` bytes, of all who are in it."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size

    @contextlib.contextmanager
    def enter(self) -> Iterator[Callable[[int], None]]:
        """What takes a number of bytes more, or raises BusyError; all are given back at the end of the block."""
        taken = 0

        def take(more: int) -> None:
            nonlocal taken
            if more > self._left:
                raise BusyError(f"the requests under way have {self._size} bytes already", "bytes")
            self._left -= more
            taken += more

        try:
            yield take
        finally:
            self._left += taken


class Desk:
    """The questions of one webhook: answered one after the other, in a thread.

    The injector takes milliseconds for one; galley, which holds every change against all of the world, 0.1 to 0.5 s in
    one of 1000 Services. So who may wait goes by time, as the last questions took it, and not by number alone.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._ahead = 0.0  # seconds that those who wait are going to take
        self._usual: dict[object, float] = {}

    async def ask(self, due: float, function: Callable[[*Inputs], T], *inputs: *Inputs) -> T:
        """`function(*inputs)`, as soon as it is its turn.

        Args:
            due: when the answer comes too late, in seconds of the loop's clock. Who gives up earlier leaves the queue.

        Raises:
            BusyError: too many wait already, or too long. Where nobody waits it is tried in any case.
        """
        usual = self._usual.get(function, 0.0)
        if self._waiting >= MAX_WAITING:
            raise BusyError(f"{MAX_WAITING} requests wait already", "queue")
        if self._waiting and asyncio.get_running_loop().time() + self._ahead + usual > due:
            raise BusyError(f"{self._waiting} requests wait already, for about {self._ahead:.1f} s", "queue")
        self._waiting += 1
        self._ahead += usual
        try:
            async with self._turn:
                return await self._timed(function, *inputs)
        finally:
            self._waiting -= 1
            self._ahead = self._ahead - usual if self._waiting else 0.0

    async def _timed(self, function: Callable[[*Inputs], T], *inputs: *Inputs) -> T:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await loop.run_in_executor(self._thread, lambda: function(*inputs))
        finally:
            took = loop.time() - began
            before = self._usual.setdefault(function, took)
            self._usual[function] = before + _WEIGHT * (took - before)

    def close(self) -> None:
        """Answer nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
