"""The watched directory: a change is in the next world, whichever way an editor makes it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.sources.base import Source
from pymesh_controlplane.sources.directory import DirectorySource
from tests.controlplane.pilot.worlds import service

DEADLINE = 10.0


class Worlds:
    """The worlds of a source, one after the other."""

    def __init__(self, source: Source) -> None:
        self.worlds = source.watch()

    async def until(self, condition: Callable[[World], bool]) -> World:
        """The next world that fits."""
        async with asyncio.timeout(DEADLINE):
            async for world in self.worlds:
                if condition(world):
                    return world
        raise AssertionError("the source ended")


@pytest.fixture
async def worlds(tmp_path: Path) -> AsyncIterator[Worlds]:
    found = Worlds(DirectorySource(tmp_path / "config"))
    yield found
    await found.worlds.aclose()  # type: ignore[attr-defined]  # an async generator, as the interface says


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "a.yaml").write_text(service("a"))
    return folder


def has(*names: str) -> Callable[[World], bool]:
    return lambda world: sorted(service.name for service in world.services.values()) == sorted(names)


async def test_the_first_world_comes_at_once_and_changes_follow(worlds: Worlds, config: Path) -> None:
    await worlds.until(has("a"))
    (config / "b.yaml").write_text(service("b"))
    await worlds.until(has("a", "b"))
    (config / "a.yaml").unlink()
    await worlds.until(has("b"))


async def test_an_editors_rename_in_place(worlds: Worlds, config: Path) -> None:
    await worlds.until(has("a"))
    for name in ("x", "y"):
        (config / ".a.yaml.swp").write_text(service(name))
        (config / ".a.yaml.swp").rename(config / "a.yaml")
        await worlds.until(has(name))


async def test_a_backup_made_by_renaming_first(worlds: Worlds, config: Path) -> None:
    await worlds.until(has("a"))
    (config / "a.yaml").rename(config / "a.yaml~")
    (config / "a.yaml").write_text(service("b"))
    await worlds.until(has("b"))


async def test_new_folders_are_watched_too(worlds: Worlds, config: Path) -> None:
    await worlds.until(has("a"))
    (config / "applied" / "deep").mkdir(parents=True)
    (config / "applied" / "deep" / "b.yaml").write_text(service("b"))
    await worlds.until(has("a", "b"))
    (config / "applied" / "deep" / "b.yaml").write_text(service("c"))
    await worlds.until(has("a", "c"))
    shutil.rmtree(config / "applied")
    await worlds.until(has("a"))


async def test_a_half_written_file_takes_nothing_away(worlds: Worlds, config: Path) -> None:
    await worlds.until(has("a"))
    (config / "a.yaml").write_text(service("a") + "---\napiVersion: v1\nkind: [")
    world = await worlds.until(lambda world: bool(world.problems))
    assert has("a")(world)
    (config / "a.yaml").write_text(service("a") + "---" + service("b"))
    assert (await worlds.until(has("a", "b"))).problems == ()


async def test_a_config_maps_switch_of_links(worlds: Worlds, config: Path) -> None:
    for name in ("one", "two"):
        (config / f"..{name}").mkdir()
        (config / f"..{name}" / "b.yaml").write_text(service(name))
    (config / "..data").symlink_to("..one")
    (config / "b.yaml").symlink_to("..data/b.yaml")
    await worlds.until(has("a", "one"))
    (config / "..tmp").symlink_to("..two")
    (config / "..tmp").rename(config / "..data")
    await worlds.until(has("a", "two"))


async def test_a_folder_that_is_not_there_yet_and_one_that_is_replaced(worlds: Worlds, tmp_path: Path) -> None:
    world = await worlds.until(lambda world: bool(world.problems))
    assert "No such file or directory" in str(world.problems[0])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.yaml").write_text(service("a"))
    (tmp_path / "new").rename(tmp_path / "config")
    await worlds.until(has("a"))
    (tmp_path / "config").rename(tmp_path / "old")
    world = await worlds.until(lambda world: bool(world.problems))
    assert has("a")(world), "what was in force stays so while the folder is away"
    (tmp_path / "old" / "a.yaml").write_text(service("b"))
    (tmp_path / "old").rename(tmp_path / "config")
    await worlds.until(has("b"))
    (tmp_path / "config" / "c.yaml").write_text(service("c"))
    await worlds.until(has("b", "c"))


async def test_what_changes_nothing_makes_no_world(config: Path) -> None:
    source = DirectorySource(config)
    assert await source._news() is not None
    (config / "a.yaml").write_text("# a remark\n" + service("a"))
    assert await source._news() is None
    (config / "b.yaml").write_text(service("b"))
    assert await source._news() is not None


async def test_a_watch_can_be_cancelled_at_any_moment(config: Path) -> None:
    async def consume() -> None:
        async for _ in DirectorySource(config).watch():
            pass

    for turns in (0, 1, 5, 50):
        task = asyncio.get_running_loop().create_task(consume())
        for _ in range(turns):
            await asyncio.sleep(0.005)
        async with asyncio.timeout(DEADLINE):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
