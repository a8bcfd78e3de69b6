"""The alarm that rings on time, on both event loops."""

import asyncio
import time
from collections.abc import Callable

import pytest
import uvloop

from benchmarks.load.alarm import Alarm

MS = 1_000_000


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_rings_once_for_each_time_not_before_it_and_at_once_for_a_past_one(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    rung: list[int] = []

    async def listen() -> None:
        alarm = Alarm(asyncio.get_running_loop(), lambda: rung.append(time.monotonic_ns()))
        set_for = [time.monotonic_ns() + 3 * MS, time.monotonic_ns() + 5 * MS, 0]
        for when in set_for:
            count = len(rung)
            alarm.set(when)
            while len(rung) == count:
                await asyncio.sleep(0)
            assert rung[-1] >= when
        alarm.set(time.monotonic_ns() + 60_000 * MS)
        alarm.set(time.monotonic_ns() + MS)  # moved forward
        while len(rung) == 3:
            await asyncio.sleep(0)
        alarm.set(time.monotonic_ns() + MS)
        alarm.close()
        await asyncio.sleep(0.005)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(listen())
    assert len(rung) == 4
