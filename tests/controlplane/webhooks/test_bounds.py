"""What waits for a webhook's answer: in order, not too much of it, and nothing that would come too late."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from pymesh_controlplane.webhooks.bounds import BusyError, Desk, Room
from tests.support.waiting import DEADLINE, eventually

FAR = 1e9


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk("test")
    yield desk
    desk.close()


@contextlib.contextmanager
def released_after_a_failure(event: threading.Event) -> Iterator[None]:
    """A thread that waits for the event would keep the whole run from ending."""
    try:
        yield
    except BaseException:
        event.set()
        raise


def test_room_is_of_all_together() -> None:
    room = Room(10)
    with room.enter() as first:
        first(4)
        with room.enter() as second:
            second(6)
            with pytest.raises(BusyError, match="have 10 bytes already: try again") as caught:
                first(1)
            assert (caught.value.what, caught.value.status) == ("bytes", 503)
        first(6)
    with room.enter() as third:
        third(10)


async def test_who_would_wait_too_long_is_told_at_once(desk: Desk) -> None:
    loop = asyncio.get_running_loop()
    go = threading.Event()
    desk._usual[go.wait] = 2.0  # as long as the last ones took
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(desk.ask(FAR, go.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with released_after_a_failure(go), pytest.raises(BusyError, match=r"2 requests wait .* about 4.0 s") as caught:
            async with asyncio.timeout(DEADLINE):
                await desk.ask(loop.time() + 5, go.wait)
        assert caught.value.what == "queue"
        patient = tasks.create_task(desk.ask(loop.time() + 60, go.wait))
        go.set()
    assert [task.result() for task in [*waiting, patient]] == [True, True, True]


async def test_what_took_too_long_is_tried_again_when_nobody_waits(desk: Desk) -> None:
    loop = asyncio.get_running_loop()
    desk._usual[int] = 100.0
    for _ in range(20):
        assert await desk.ask(loop.time() + 50, int) == 0
    assert desk._usual[int] < 1.0


async def test_who_gives_up_leaves_the_queue(desk: Desk) -> None:
    go, begun, asked = threading.Event(), threading.Event(), list[int]()

    def block() -> None:
        begun.set()
        go.wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(desk.ask(FAR, block))
        await eventually(begun.is_set)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await desk.ask(FAR, asked.append, 1)
        last = tasks.create_task(desk.ask(FAR, asked.append, 2))
        go.set()
        await last
    assert asked == [2]
