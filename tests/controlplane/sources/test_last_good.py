"""What is in force, on disk: found again by the next process, and never believed when it may be something else."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pymesh.errors import ConfigError
from pymesh.resources.istio.virtual_service import VirtualService
from pymesh.resources.parse import parse
from pymesh.resources.resource import Key, Resource, holds
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.sources import last_good as module
from pymesh_controlplane.sources.directory import DirectorySource
from pymesh_controlplane.sources.in_force import FORGOTTEN, NOT_KEPT
from pymesh_controlplane.sources.last_good import FILE, LastGood
from pymesh_controlplane.sources.ledger import KEPT, NOTHING
from tests.controlplane.pilot.worlds import BOOKINFO, service

ROOT = Path("/config")
NAME = Key("VirtualService", "default", "reviews")
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec: {hosts: [reviews], http: [{name: one, route: [{destination: {host: reviews}}]}]}
"""
BROKEN = ROUTE.replace("route:", "rout:")


def resources(text: str = BOOKINFO) -> tuple[Resource[object], ...]:
    return parse(text, "/config/all.yaml").resources


def told(kept: LastGood) -> str:
    """Why nothing was found."""
    found, (error,) = kept.load()
    assert found == {}
    return str(error)


def test_what_was_saved_is_found_with_its_file_and_without_lines(tmp_path: Path) -> None:
    saved = resources()
    LastGood(tmp_path, ROOT).save(saved)
    found, errors = LastGood(tmp_path, ROOT).load()
    assert errors == []
    assert list(found) == [resource.key for resource in saved]
    assert all(found[item.key].says_the_same_as(item) and found[item.key].value == item.value for item in saved)
    assert str(found[NAME].positions.at("spec.http[0]")) == "/config/all.yaml"


def test_nothing_saved_is_nothing_wrong(tmp_path: Path) -> None:
    assert LastGood(tmp_path, ROOT).load() == ({}, [])


def test_it_is_for_its_user_alone_and_written_only_if_it_changed(tmp_path: Path) -> None:
    kept, path = LastGood(tmp_path, ROOT), tmp_path / FILE
    same = resources()
    kept.save(same)
    before = path.stat()
    assert before.st_mode & 0o777 == 0o600
    kept.save(same)
    assert path.stat().st_ino == before.st_ino
    kept.save(resources(service("other")))
    assert list(LastGood(tmp_path, ROOT).load()[0]) == [Key("Service", "default", "other")]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_told_and_not_used(tmp_path: Path, data: st.DataObject) -> None:
    LastGood(tmp_path, ROOT).save(resources())
    path = tmp_path / FILE
    good = path.read_bytes()
    if data.draw(st.booleans(), label="cut"):
        path.write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
    else:
        at, bits = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(1, 255))
        path.write_bytes(good[:at] + bytes([good[at] ^ bits]) + good[at + 1 :])
    assert told(LastGood(tmp_path, ROOT)).startswith(f"{path}: is ")


def other_release(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"last-good 1 ", b"last-good 2 ", 1))


def of_others_too(path: Path) -> None:
    path.chmod(0o620)


def a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (other_release, "is not of this release"),
        (of_others_too, "could have been written by others than the control plane"),
        (a_link, "cannot be read: Too many levels of symbolic links"),
        (a_pipe, "is not a file"),
    ],
)
def test_what_may_be_something_else_is_told_and_not_used(
    change: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    LastGood(tmp_path, ROOT).save(resources())
    change(tmp_path / FILE)
    assert told(LastGood(tmp_path, ROOT)) == f"{tmp_path / FILE}: {sentence}"


def test_what_is_of_another_source_is_not_used(tmp_path: Path) -> None:
    LastGood(tmp_path, ROOT).save(resources())
    assert told(LastGood(tmp_path, Path("/else"))).endswith(f"{FILE}: is of /config")


def test_too_much_is_neither_written_nor_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = LastGood(tmp_path, ROOT)
    kept.save(resources(service("small")))
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="is not written: it would have more than 0 MiB"):
        kept.save(resources())
    assert list(LastGood(tmp_path, ROOT).load()[0]) == [Key("Service", "default", "small")]
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    assert told(LastGood(tmp_path, ROOT)).endswith("has more than 0 MiB")


def test_what_is_no_longer_a_resource_is_left_out_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stricter(value: object, *more: object) -> Resource[object]:
        if isinstance(value, dict) and value["kind"] == "VirtualService":
            raise ConfigError("'http' was renamed")
        return reread(value, *more)  # type: ignore[arg-type]  # as it was called

    reread = module.reread
    LastGood(tmp_path, ROOT).save(resources())
    monkeypatch.setattr(module, "reread", stricter)
    found, (error,) = LastGood(tmp_path, ROOT).load()
    assert "holds what is not read any more ('http' was renamed)" in str(error)
    assert NAME not in found
    assert len(found) == len(resources()) - 1


def test_what_a_killed_process_began_to_write_is_cleared(tmp_path: Path) -> None:
    (tmp_path / f".{FILE}.abc.tmp").write_text("half")
    LastGood(tmp_path, ROOT).load()
    assert list(tmp_path.iterdir()) == []


# --- With a source -------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    folder = tmp_path / "config"
    (folder / "observed").mkdir(parents=True)
    (folder / "reviews.yaml").write_text(service("reviews"))
    (folder / "route.yaml").write_text(ROUTE)
    return folder


async def started(config: Path) -> World:
    """The first world of a new process."""
    source = DirectorySource(config, last_good=LastGood(config.parent / "state", config))
    worlds = source.watch()
    async for world in worlds:
        await worlds.aclose()  # type: ignore[attr-defined]  # an async generator, as the interface says
        return world
    raise AssertionError("the source ended")


def route_name(world: World) -> str | None:
    found = world.resources.get(NAME)
    if found is None:
        return None
    assert holds(found, VirtualService)
    return found.value.spec.http[0].name


def consequences(world: World) -> list[str]:
    return [problem.consequence for problem in world.problems if problem.consequence]


async def test_a_restart_finds_the_last_good_version_of_what_is_broken(config: Path) -> None:
    assert route_name(await started(config)) == "one"
    (config / "route.yaml").write_text(BROKEN)
    for _ in range(2):  # and so does the next one
        world = await started(config)
        assert (route_name(world), consequences(world)) == ("one", [KEPT])
    (config / "route.yaml").write_text(ROUTE.replace("one", "two"))
    world = await started(config)
    assert (route_name(world), world.problems) == ("two", ())


async def test_a_restart_brings_back_nothing_that_was_deleted_meanwhile(config: Path) -> None:
    await started(config)
    (config / "route.yaml").unlink()
    assert route_name(await started(config)) is None


async def test_what_was_right_before_a_restart_stays_in_force_though_others_are_gone(config: Path) -> None:
    await started(config)
    (config / "reviews.yaml").unlink()
    world = await started(config)
    assert route_name(world) == "one"
    assert "there is no service reviews.default.svc.cluster.local" in [p.sentence for p in world.problems][-1]


async def test_without_it_what_is_broken_is_not_in_force_and_that_is_said(config: Path) -> None:
    await started(config)
    (config / "route.yaml").write_text(BROKEN)
    (config.parent / "state" / FILE).write_text("rubbish")
    world = await started(config)
    assert (route_name(world), sorted(consequences(world))) == (None, sorted([NOTHING, FORGOTTEN]))


async def test_what_a_runtime_observed_is_not_kept(config: Path) -> None:
    (config / "observed" / "other.yaml").write_text(service("other"))
    await started(config)
    found, _ = LastGood(config.parent / "state", config).load()
    assert sorted(key.kind for key in found) == ["Service", "VirtualService"]


async def test_what_cannot_be_kept_is_in_force_all_the_same_and_that_is_said(config: Path) -> None:
    (config.parent / "state").rmdir()
    world = await started(config)
    assert (route_name(world), consequences(world)) == ("one", [NOT_KEPT])
