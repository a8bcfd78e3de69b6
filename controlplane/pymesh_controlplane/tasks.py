"""Running things side by side, with an owner for each."""

import asyncio
from collections.abc import Coroutine


async def side_by_side(*coroutines: Coroutine[None, None, None]) -> None:
    """Run all until all have ended; if one fails, the others are cancelled and waited for."""
    async with asyncio.TaskGroup() as tasks:
        for coroutine in coroutines:
            tasks.create_task(coroutine)


async def until_first_ends(*coroutines: Coroutine[None, None, None]) -> None:
    """Run all until one ends or fails; the others are then cancelled and waited for.

    Raises:
        Exception: what the one that ended first raised.
    """
    tasks = [asyncio.get_running_loop().create_task(coroutine) for coroutine in coroutines]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if task in ended:
            task.result()
