"""Running things side by side."""

import asyncio

import pytest

from pymesh_controlplane.tasks import until_first_ends


async def test_the_first_to_end_ends_the_others() -> None:
    """And what it raised is raised; the others were given time to clean up."""
    cleaned = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("first")

    with pytest.raises(LookupError, match="first"):
        await until_first_ends(forever(), fail())
    assert cleaned.is_set()
