"""Questions about rates whose counts are in the store: those that come while some are under way go together next.

So there is one round trip at a time, however many ask. A store that has not answered in time is not asked again before
the exchange of allotments (service.py) has found it: only the questions that wait then have to wait at all.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from pymesh_controlplane.policy.buckets import Spent
from pymesh_controlplane.policy.store import PATIENCE, Question, Store, StoreError

# Questions in one call: some microseconds each, in which Redis does nothing else.
MAX_TOGETHER: Final = 100
# Questions that wait: more than are answered within PATIENCE.
MAX_WAITING: Final = 2_000


class Till:
    """Where rates are spent that several replicas count together.

    Args:
        look: called when the store has not answered: it is to be looked for, and `problem` to be cleared.

    Attributes:
        problem: why nothing can be asked; empty when all is well.
    """

    def __init__(self, store: Store, look: Callable[[], None]) -> None:
        self.problem = "the store of counts has not been reached yet"
        self._store = store
        self._look = look
        self._waiting: deque[tuple[Question, asyncio.Future[list[Spent]]]] = deque()
        self._some = asyncio.Event()

    async def ask(self, question: Question) -> list[Spent]:
        """The answer for each that is wanted. Raises StoreError within PATIENCE: it may be spent all the same."""
        if self.problem:
            raise StoreError(self.problem)
        if len(self._waiting) >= MAX_WAITING:
            raise StoreError(f"{MAX_WAITING} questions wait for the store of counts")
        answer: asyncio.Future[list[Spent]] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        self._some.set()
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError:
            self.lost(f"no answer within {PATIENCE:g} s")
            raise StoreError(self.problem) from None

    async def run(self) -> None:
        """Put the questions, until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                await self._put([self._waiting.popleft() for _ in range(min(MAX_TOGETHER, len(self._waiting)))])

    async def _put(self, waiting: list[tuple[Question, asyncio.Future[list[Spent]]]]) -> None:
        waiting = [(question, answer) for question, answer in waiting if not answer.done()]
        if not waiting:
            return
        try:
            answers = await self._store.spend([question for question, _ in waiting])
        except StoreError as error:
            self.lost(str(error))
            for _, answer in waiting:
                if not answer.done():
                    answer.set_exception(StoreError(self.problem))
            return
        for (_, answer), spent in zip(waiting, answers, strict=True):
            if not answer.done():
                answer.set_result(spent)

    def lost(self, why: str) -> None:
        """The store has not answered."""
        if not self.problem:
            self.problem = f"the store of counts is away: {why}"
            self._look()
