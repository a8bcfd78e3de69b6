"""Long work in slices: the loop turns in between, works do not overlap, and the collector is as it was afterwards."""

import asyncio
import gc
from time import perf_counter, sleep, thread_time
from weakref import ref

import pytest

from pymesh.steps import Steps
from pymesh_proxy.control import pace
from pymesh_proxy.control.pace import Pace
from tests.support.waiting import eventually


def busy(seconds: float) -> None:
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


def work(log: list[str], name: str, steps: int, each: float = 0.0002) -> Steps[str]:
    for _ in range(steps):
        log.append(name)
        busy(each)
        yield
    return name


async def test_the_loop_turns_between_the_slices() -> None:
    slices: list[float] = []
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        other = group.create_task(turn())
        one = Pace(lambda: False, lambda seconds, _: slices.append(seconds))
        assert await one.take(work([], "a", 50)) == "a"
        other.cancel()
    assert len(slices) >= 50 * 0.0002 / (pace.SLICE + 0.0002) - 1
    assert turns >= len(slices) - 1


async def test_of_a_slice_it_is_told_how_long_the_thread_was_running() -> None:
    told: list[tuple[float, float]] = []

    def waiting() -> Steps[None]:
        sleep(0.02)  # as one that does not get the core
        yield

    def working() -> Steps[None]:
        begin = thread_time()
        while thread_time() < begin + 0.02:
            pass
        yield

    one = Pace(lambda: False, lambda seconds, cpu: told.append((seconds, cpu)))
    await one.take(waiting())
    await one.take(working())
    assert told[0][0] >= 0.02 > told[0][1]
    assert max(cpu for _, cpu in told) >= 0.02


@pytest.mark.parametrize(("traffic", "rest"), [(True, pace.REST), (False, 0)])
async def test_the_loop_is_left_to_traffic_for_longer(
    traffic: bool, rest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        rests.append(seconds)
        await sleep(0)

    monkeypatch.setattr(pace.asyncio, "sleep", slept)
    await Pace(lambda: traffic).take(work([], "a", 20))
    assert set(rests) == {rest}


async def test_works_come_one_after_the_other() -> None:
    log: list[str] = []
    one = Pace(lambda: True)
    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(one.take(work(log, name, 10)))
    assert "".join(log) == "a" * 10 + "b" * 10 + "c" * 10


async def test_what_fails_or_is_cancelled_leaves_everything_as_it_was() -> None:
    before = gc.get_threshold()
    one = Pace()

    def failing() -> Steps[None]:
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await one.take(failing())
    log: list[str] = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one.take(work(log, "a", 100)))
        while not log:
            await asyncio.sleep(0)
        assert gc.get_threshold() != before, "old objects are not collected meanwhile"
        task.cancel()
    assert task.cancelled()
    assert gc.get_threshold() == before
    assert await one.take(work([], "b", 1)) == "b"


async def test_the_collector_is_told_by_the_last_of_two() -> None:
    before = gc.get_threshold()
    long, short = Pace(), Pace()
    log: list[str] = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(long.take(work(log, "a", 100)))
        while not log:
            await asyncio.sleep(0)
        await short.take(work([], "b", 1))
        assert not task.done()
        assert gc.get_threshold() != before, "the other is still at work"
    assert gc.get_threshold() == before


async def test_what_does_not_last_is_not_frozen() -> None:
    before = gc.get_freeze_count()
    await Pace(lambda: False, lasting=False).take(work([], "a", 80, pace.FREEZE_AFTER / 40))
    assert gc.get_freeze_count() == before


async def test_what_much_work_has_made_is_frozen() -> None:
    kept: list[list[int]] = []

    def making(each: float) -> Steps[None]:
        for number in range(100):
            kept.append([number])
            busy(each)
            yield

    one = Pace(lambda: False)
    try:
        before = gc.get_freeze_count()
        await one.take(making(0.0))
        assert gc.get_freeze_count() <= before, "little work is not worth it"  # what was frozen may be freed
        await one.take(making(pace.FREEZE_AFTER / 80))
        assert gc.get_freeze_count() >= before + len(kept)
    finally:
        gc.unfreeze()


class Node:
    """Somebody's garbage, when nobody else knows it: it knows itself."""

    def __init__(self) -> None:
        self.itself = self


async def test_dead_cycles_that_were_frozen_are_collected_when_there_is_no_traffic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "LOOK", 0.001)
    traffic = True
    slices: list[float] = []
    looks = 0

    def busy() -> bool:
        nonlocal looks
        looks += 1
        return traffic

    one = Pace(busy, lambda seconds, _: slices.append(seconds))
    node = Node()
    watched = ref(node)
    try:
        await one.take(work([], "a", 80, pace.FREEZE_AFTER / 40))
        del node
        gc.collect()
        assert watched() is not None, "it was frozen alive"
        async with asyncio.TaskGroup() as group:
            task = group.create_task(one.tidy())
            before = looks
            await eventually(lambda: looks > before + 2 * pace.QUIET, what="looks that see traffic")
            assert watched() is not None
            traffic, count = False, len(slices)
            await eventually(lambda: watched() is None, what="the cycle is collected")
            assert gc.get_freeze_count() > 0
            assert len(slices) == count + 1, "its stall is told, and there is one"
            before = looks
            await eventually(lambda: looks > before + 2 * pace.QUIET, what="more quiet looks")
            assert len(slices) == count + 1
            task.cancel()
    finally:
        gc.unfreeze()
