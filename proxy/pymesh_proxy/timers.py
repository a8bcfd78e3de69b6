"""Deadlines for many things at once: one coarse wheel, one loop timer, no timer object per request.

A request needs a deadline and nearly never meets it. Setting one here is a set insertion; the loop is woken only while
something is scheduled, and only once a tick.
"""

import asyncio
from time import monotonic
from typing import Final, Protocol

TICK: Final = 0.02  # seconds; a deadline is met at most this much late, and never early


class Timed(Protocol):
    """Something that can be due. `timer_slot` is the wheel's own; start it at 0."""

    timer_slot: int

    def on_timer(self, now: float) -> None:
        """Called once when the time has come; may schedule itself again."""


class TimerWheel:
    """Calls `on_timer` of what was scheduled, when it is due."""

    __slots__ = ("_handle", "_loop", "_slots")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Timed]] = {}
        self._handle: asyncio.TimerHandle | None = None

    def schedule(self, item: Timed, when: float) -> None:
        """Call `item.on_timer` at `when` (seconds of the monotonic clock), instead of any earlier schedule of it."""
        slot = int(when / TICK) + 1
        if item.timer_slot == slot:
            return
        if item.timer_slot:
            self.cancel(item)
        item.timer_slot = slot
        waiting = self._slots.get(slot)
        if waiting is None:
            self._slots[slot] = {item}
            if self._handle is None:
                self._handle = self._loop.call_later(TICK, self._turn)
        else:
            waiting.add(item)

    def cancel(self, item: Timed) -> None:
        """Forget about `item`."""
        waiting = self._slots.get(item.timer_slot)
        if waiting is not None:
            waiting.discard(item)
        item.timer_slot = 0

    def close(self) -> None:
        """Stop turning; what is scheduled will not be called."""
        self._slots.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _turn(self) -> None:
        now = monotonic()
        current = int(now / TICK)
        slots = self._slots
        for slot in [slot for slot in slots if slot <= current]:
            for item in slots.pop(slot):
                item.timer_slot = 0
                item.on_timer(now)
        self._handle = self._loop.call_later(TICK, self._turn) if slots else None
