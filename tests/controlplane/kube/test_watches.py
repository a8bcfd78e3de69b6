"""Reflectors side by side: bursts of changes, and an end in good order."""

import asyncio
from contextlib import aclosing

import pytest
from lightkube.resources.core_v1 import ConfigMap

from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.kube.watches import Watches
from pymesh_controlplane.pilot.push import Debounce
from tests.controlplane.kube.scripted import answer, begin, event, items, scripted
from tests.support.waiting import eventually


async def script(path: str, writer: asyncio.StreamWriter) -> None:
    """A list, and then ten changes at once."""
    if "watch=true" not in path:
        answer(writer, items("a"))
        return
    begin(writer)
    writer.write(b"".join(event("ADDED", f"m{number}", str(number + 2)) for number in range(10)))
    await writer.drain()
    await asyncio.sleep(60)


async def test_changes_that_come_together_are_one_burst() -> None:
    async with scripted(script) as client, Watches() as watches:
        reflector = Reflector(client, ConfigMap, notify=watches.changed)
        watches.start(reflector)
        seen: list[int] = []
        async with aclosing(watches.bursts(Debounce(0.1, 1.0))) as bursts:
            async for _ in bursts:
                seen.append(len(reflector.objects))
                if seen[-1] == 11:
                    break
    assert len(seen) <= 2


async def test_where_nothing_changes_there_is_a_look_all_the_same() -> None:
    async with Watches() as watches, aclosing(watches.bursts(Debounce(0.0, 0.0), 0.05)) as bursts:
        for _ in range(2):
            await anext(bursts)


async def test_what_is_stopped_is_over_and_the_rest_ends_with_the_context() -> None:
    async with scripted(script) as client:
        async with Watches() as watches:
            one, other = (Reflector(client, ConfigMap, notify=watches.changed) for _ in range(2))
            watches.start(one)
            watches.start(other)
            await eventually(lambda: len(one.objects) == len(other.objects) == 11)
            await watches.stop(one)
            assert len([task for task in asyncio.all_tasks() if task.get_name() == "configmaps"]) == 1
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "configmaps"]


async def test_a_mistake_of_ours_ends_the_watching() -> None:
    """And with it the process: a source that is silently without a kind would be worse."""

    def broken(value: dict[str, object]) -> dict[str, object]:
        raise ZeroDivisionError

    async with scripted(script) as client, Watches() as watches:
        watches.start(Reflector(client, ConfigMap, trim=broken, notify=watches.changed))
        async with aclosing(watches.bursts(Debounce(0.0, 0.0))) as bursts:
            with pytest.raises(ZeroDivisionError):
                async for _ in bursts:
                    pass
