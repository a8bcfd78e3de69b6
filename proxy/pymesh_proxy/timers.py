"""Deadlines for many things at once: one coarse wheel, one loop timer, no timer object per request.

A connection needs a deadline for each request and nearly never meets it. Here it writes a new `deadline` into itself
and stays where it is on the wheel; only when that place comes up is the deadline looked at, and the connection moved
on. So a deadline costs an attribute and a comparison, and the loop sleeps until the next place that is taken.
"""

import asyncio
from time import monotonic
from typing import Final, Protocol

TICK: Final = 0.02  # seconds; a deadline is met at most this much late, and never early
NEVER: Final = float("inf")


class Timed(Protocol):
    """Something with a deadline, in seconds of the monotonic clock. `timer_slot` is the wheel's own; start it at 0."""

    deadline: float
    timer_slot: int

    def on_deadline(self, now: float) -> None:
        """The deadline has passed. It may set another one and be watched again."""


class TimerWheel:
    """Calls `on_deadline` of what is watched."""

    __slots__ = ("_handle", "_loop", "_next", "_slots")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Timed]] = {}
        self._next = 0
        self._handle: asyncio.TimerHandle | None = None

    def watch(self, item: Timed) -> None:
        """Call `item.on_deadline` when its deadline has passed, which may move to later without telling."""
        if item.deadline == NEVER:
            return
        slot = int(item.deadline / TICK) + 1
        if item.timer_slot:
            if item.timer_slot <= slot:
                return
            self.forget(item)
        item.timer_slot = slot
        waiting = self._slots.get(slot)
        if waiting is not None:
            waiting.add(item)
            return
        self._slots[slot] = {item}
        if self._handle is None or slot < self._next:
            self._arm(slot)

    def forget(self, item: Timed) -> None:
        """Watch `item` no longer."""
        waiting = self._slots.get(item.timer_slot)
        if waiting is not None:
            waiting.discard(item)
            if not waiting:  # a place an hour ahead must not outlive the many short connections that had it
                del self._slots[item.timer_slot]
        item.timer_slot = 0

    def close(self) -> None:
        """Forget everything."""
        self._slots.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, slot: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._next = slot
        self._handle = self._loop.call_later(max(slot * TICK - monotonic(), 0.001), self._turn)

    def _turn(self) -> None:
        self._handle = None
        now = monotonic()
        current = int(now / TICK)
        for slot in [slot for slot in self._slots if slot <= current]:
            for item in self._slots.pop(slot, ()):
                if item.timer_slot != slot:
                    continue  # forgotten, or watched anew, by one called before it
                item.timer_slot = 0
                if item.deadline > now:
                    self.watch(item)
                else:
                    self._call(item, now)
        if self._slots:  # whoever was watched anew may have armed a place that is not the next one
            self._arm(min(self._slots))

    def _call(self, item: Timed, now: float) -> None:
        try:
            item.on_deadline(now)
        except Exception as error:  # noqa: BLE001 - as the loop does with its callbacks: one must not stop the others
            self._loop.call_exception_handler({"message": f"on_deadline of {item!r} failed", "exception": error})
