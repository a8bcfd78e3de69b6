"""The wheel, with a clock that the tests move; and once on a real loop."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import cast

import pytest
import uvloop

from pymesh_proxy import timers
from pymesh_proxy.timers import NEVER, TICK, TimerWheel
from tests.support.waiting import eventually


class Handle:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """The clock and the loop in one: time passes only by `advance`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.handles: list[Handle] = []
        self.failures: list[dict[str, object]] = []
        self.wakeups = 0

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        assert 0 < delay < float("inf")
        handle = Handle(self.now + delay, callback)
        self.handles.append(handle)
        return handle

    def call_exception_handler(self, context: dict[str, object]) -> None:
        self.failures.append(context)

    @property
    def pending(self) -> list[Handle]:
        return [handle for handle in self.handles if not handle.cancelled]

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, and what is due in them happen when it is due."""
        until = self.now + seconds
        while due := [handle for handle in self.pending if handle.when <= until]:
            first = min(due, key=lambda handle: handle.when)
            self.handles.remove(first)
            self.now = first.when
            self.wakeups += 1
            first.callback()
        self.now = until


class Item:
    def __init__(self, clock: Clock, deadline: float = NEVER, then: Callable[[], None] | None = None) -> None:
        self.clock = clock
        self.deadline = deadline
        self.timer_slot = 0
        self.calls: list[float] = []
        self.then = then

    def on_deadline(self, now: float) -> None:
        assert now == self.clock.now
        assert now >= self.deadline, "early"
        self.calls.append(now)
        if self.then is not None:
            self.then()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(timers, "monotonic", lambda: found.now)
    return found


@pytest.fixture
def wheel(clock: Clock) -> TimerWheel:
    return TimerWheel(cast("asyncio.AbstractEventLoop", clock))


def on_time(item: Item) -> bool:
    return len(item.calls) == 1 and 0 <= item.calls[0] - item.deadline <= TICK + 0.001


def test_deadlines_are_met_within_a_tick_and_never_early(clock: Clock, wheel: TimerWheel) -> None:
    items = [Item(clock, 1000 + 0.0137 * number) for number in range(200)]
    for item in reversed(items):
        wheel.watch(item)
    clock.advance(3)
    assert all(on_time(item) for item in items)
    assert clock.pending == []


def test_a_deadline_that_is_over_is_met_at_once(clock: Clock, wheel: TimerWheel) -> None:
    item = Item(clock, 1.0)
    wheel.watch(item)
    clock.advance(2 * TICK)
    assert len(item.calls) == 1


def test_never_costs_nothing(clock: Clock, wheel: TimerWheel) -> None:
    item = Item(clock)
    wheel.watch(item)
    assert clock.pending == []
    assert item.timer_slot == 0


def test_a_deadline_moves_to_later_without_telling(clock: Clock, wheel: TimerWheel) -> None:
    item = Item(clock, 1001)
    wheel.watch(item)
    item.deadline = 1005
    clock.advance(4.9)
    assert item.calls == []
    clock.advance(1)
    assert on_time(item)


def test_one_that_moves_to_later_leaves_the_others_on_time(clock: Clock, wheel: TimerWheel) -> None:
    moving, staying = Item(clock, 1001), Item(clock, 1002)
    wheel.watch(moving)
    wheel.watch(staying)
    moving.deadline = 2000
    clock.advance(3)
    assert on_time(staying)
    clock.advance(1000)
    assert on_time(moving)


def test_a_deadline_moves_to_earlier_by_watching_again(clock: Clock, wheel: TimerWheel) -> None:
    item = Item(clock, 1100)
    wheel.watch(item)
    item.deadline = 1001
    wheel.watch(item)
    clock.advance(2)
    assert on_time(item)
    clock.advance(200)
    assert len(item.calls) == 1


def test_a_deadline_given_up_is_not_met(clock: Clock, wheel: TimerWheel) -> None:
    item = Item(clock, 1001)
    wheel.watch(item)
    item.deadline = NEVER
    clock.advance(10)
    assert item.calls == []
    assert clock.pending == []


def test_what_is_forgotten_is_not_called(clock: Clock, wheel: TimerWheel) -> None:
    one, other = Item(clock, 1001), Item(clock, 1001)
    wheel.watch(one)
    wheel.watch(other)
    wheel.forget(one)
    wheel.forget(one)
    clock.advance(2)
    assert (one.calls, len(other.calls)) == ([], 1)


def test_forgetting_from_within_a_deadline(clock: Clock, wheel: TimerWheel) -> None:
    """Whichever is called first forgets the others: one in the same place, and one in the next that is due."""
    items: list[Item] = []

    def forget_all() -> None:
        for item in items:
            wheel.forget(item)

    items += [Item(clock, deadline, forget_all) for deadline in (1001, 1001, 1001 + TICK)]
    for item in items:
        wheel.watch(item)
    clock.now = 1002  # the loop was busy: both places are due at once
    clock.advance(1)
    assert sum(len(item.calls) for item in items) == 1
    assert clock.pending == []


def test_watching_anew_from_within_a_deadline(clock: Clock, wheel: TimerWheel) -> None:
    item = Item(clock, 1001)

    def again() -> None:
        if len(item.calls) < 3:
            item.deadline = clock.now + 1
            wheel.watch(item)

    item.then = again
    wheel.watch(item)
    clock.advance(10)
    assert len(item.calls) == 3
    assert clock.wakeups <= 6


def test_one_failure_does_not_stop_the_others(clock: Clock, wheel: TimerWheel) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    broken, neighbour, later = Item(clock, 1001, fail), Item(clock, 1001), Item(clock, 1002)
    for item in (broken, neighbour, later):
        wheel.watch(item)
    clock.advance(3)
    assert len(neighbour.calls) == len(later.calls) == 1
    assert [type(context["exception"]) for context in clock.failures] == [RuntimeError]
    broken.then = None
    broken.deadline = clock.now + 1
    wheel.watch(broken)
    clock.advance(2)
    assert len(broken.calls) == 2


def test_short_lives_leave_nothing_behind(clock: Clock, wheel: TimerWheel) -> None:
    """A thousand connections with an idle timeout of an hour, each gone after a moment."""
    for _ in range(1000):
        item = Item(clock, clock.now + 3600)
        wheel.watch(item)
        clock.advance(0.05)
        wheel.forget(item)
    assert len(wheel._slots) == 0
    assert len(clock.pending) <= 1


def test_waking_up_only_when_a_place_is_taken(clock: Clock, wheel: TimerWheel) -> None:
    wheel.watch(Item(clock, 1500))
    wheel.watch(Item(clock, 1100))
    clock.advance(1000)
    assert clock.wakeups <= 4


def test_close_forgets_everything(clock: Clock, wheel: TimerWheel) -> None:
    item = Item(clock, 1001)
    wheel.watch(item)
    wheel.close()
    clock.advance(10)
    assert item.calls == []
    assert clock.pending == []


def test_on_a_real_loop() -> None:
    class Real:
        def __init__(self, deadline: float) -> None:
            self.deadline = deadline
            self.timer_slot = 0
            self.called_at = 0.0

        def on_deadline(self, now: float) -> None:
            self.called_at = now

    async def run() -> None:
        loop = asyncio.get_running_loop()
        wheel = TimerWheel(loop)
        start = monotonic()
        items = [Real(start + 0.003 * number) for number in range(40)]
        for item in items:
            wheel.watch(item)
        await eventually(lambda: all(item.called_at for item in items))
        assert all(item.called_at >= item.deadline for item in items)
        wheel.close()

    uvloop.run(run())
