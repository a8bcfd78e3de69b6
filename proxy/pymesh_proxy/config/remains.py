"""What is no longer in force, let go of piece by piece.

To free the objects of a large configuration takes milliseconds, and happens wherever the last reference to it goes
away: at the end of some request that began under it. So the pieces of what is large are held here for longer than their
owner lives; when it is gone, they go a few at a time.
"""

import weakref
from collections.abc import Callable
from typing import Final

from pymesh.steps import Steps

# Pieces between two chances for others: about 0.05 ms.
_AT_ONCE: Final = 16


class Remains:
    """Holds the pieces of large objects until their owners are gone. `on_loose` is called when there is work to do."""

    def __init__(self) -> None:
        self.on_loose: Callable[[], None] = lambda: None
        self._held: dict[weakref.ref[object], list[object]] = {}
        self._loose: list[object] = []

    def keep(self, owner: object, pieces: list[object]) -> None:
        """Hold `pieces`, which nothing but `owner` needs, for as long as it lives."""
        if pieces:
            self._held[weakref.ref(owner, self._gone)] = pieces

    def letting_go(self) -> Steps[None]:
        """Free the pieces whose owners are gone."""
        while self._loose:
            del self._loose[-_AT_ONCE:]
            yield

    def __len__(self) -> int:
        """Pieces that are held, or about to go."""
        return len(self._loose) + sum(map(len, self._held.values()))

    def _gone(self, owner: "weakref.ref[object]") -> None:
        self._loose += self._held.pop(owner)
        self.on_loose()
