"""Keeping things so: again when something changes, again when it failed, and none of it at the cost of the rest."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import cast

import pytest

from pymesh_controlplane.kube.asking import CONFLICT, NOT_FOUND, KubernetesError
from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.written_back.keeper import LONGEST_PAUSE, Keeper, Write
from tests.support import virtual_time


@dataclass
class World:
    """Names that should be there, and what becomes of attempts to write them. Stands for a reflector, too."""

    wanted: set[str]
    there: set[str] = field(default_factory=set)
    refused: dict[str, KubernetesError] = field(default_factory=dict)
    attempts: list[tuple[float, str]] = field(default_factory=list)
    changed: Callable[[], None] = lambda: None
    unread: str = ""
    undone: bool = False
    version: int = 1

    def watch(self, changed: Callable[[], None]) -> Sequence[Reflector]:
        self.changed = changed
        changed()
        return (cast("Reflector", self),)

    def touch(self) -> None:
        """Something else changes."""
        self.changed()

    async def run(self) -> None:
        await asyncio.Event().wait()

    def waiting(self) -> str:
        return self.unread

    def due(self, _: Sequence[Reflector]) -> Iterator[Write]:
        for name in sorted(self.wanted - self.there):
            authors = [
                {"manager": "pymesh-controlplane", "time": "2026-11-23T00:00:09Z"},
                {"manager": "kubectl-edit", "time": "2026-11-23T00:00:01Z"},
                {"manager": "pilot-discovery", "time": "2026-11-23T00:00:08Z"},
            ]
            found = {"metadata": {"name": name, "managedFields": authors}}
            yield Write(name, partial(self.write, name), str(self.version), found)

    async def write(self, name: str) -> None:
        self.attempts.append((asyncio.get_running_loop().time(), name))
        if name in self.refused:
            raise self.refused[name]
        if not self.undone:
            self.there.add(name)
        self.changed()


def kept(world: World, *steps: Callable[[], object], seconds: float = 60) -> Metrics:
    """Keep `world`, taking one of `steps` after as many seconds each."""

    async def scenario() -> Metrics:
        metrics = Metrics()
        keeper = Keeper("things", world.watch, world.due, metrics)
        task = asyncio.get_running_loop().create_task(keeper.run())
        for step in (lambda: None, *steps):
            step()
            await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return metrics

    return virtual_time.run(scenario())


def test_what_is_missing_is_written_once() -> None:
    world = World({"a", "b"})
    metrics = kept(world, world.touch)
    assert [name for _, name in world.attempts] == ["a", "b"]
    assert metrics.counted("controlplane_writes", "things") == 2


def test_what_goes_is_written_again() -> None:
    world = World({"a"})
    kept(world, lambda: (world.there.clear(), world.changed()))
    assert [name for _, name in world.attempts] == ["a", "a"]


def test_nothing_is_written_before_everything_was_read() -> None:
    """Or all would seem to be missing."""
    world = World({"a"}, unread="the namespaces")
    kept(world)
    assert not world.attempts


def test_one_that_cannot_be_written_is_tried_ever_more_rarely_and_holds_up_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is counted each time, told of once, and written as soon as that goes."""
    world = World({"bad"}, refused={"bad": KubernetesError("exceeded quota", 403)})

    def another() -> None:
        world.wanted.add("good")
        world.changed()

    metrics = kept(world, another, world.refused.clear, seconds=200)
    times = [at for at, name in world.attempts if name == "bad"]
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[0] < 1
    assert max(pauses) <= LONGEST_PAUSE
    assert len(times) < 40
    assert metrics.counted("controlplane_write_errors", "things") == len(times) - 1
    assert caplog.text.count("bad cannot be written, and is tried again: exceeded quota") == 1
    assert world.there == {"good", "bad"}
    [good] = [at for at, name in world.attempts if name == "good"]
    assert good < 201


def test_changes_elsewhere_do_not_have_it_tried_more_often() -> None:
    """A busy cluster is no reason to ask for what was just refused."""
    world = World({"bad"}, refused={"bad": KubernetesError("exceeded quota", 403)})
    kept(world, *[world.touch] * 100, seconds=0.3)
    assert 4 <= len(world.attempts) <= 10


def test_a_conflict_is_no_failure() -> None:
    """Somebody was faster; what they wrote is looked at, and the write made again if it is still due."""
    world = World({"a"}, refused={"a": KubernetesError("it has changed", CONFLICT)})

    def nobody_is_faster() -> None:
        world.refused.clear()
        world.changed()

    # The pause begun by then may last up to 16 s.
    metrics = kept(world, nobody_is_faster, lambda: None, seconds=10)
    assert world.there == {"a"}
    assert metrics.counted("controlplane_write_errors", "things") == 0


def test_a_conflict_that_does_not_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Such as a status that is not found since the CRD that somebody brought has none."""
    metrics = kept(World({"a"}, refused={"a": KubernetesError("not found", NOT_FOUND)}), seconds=300)
    assert metrics.counted("controlplane_write_errors", "things") > 0
    assert caplog.text.count("a cannot be written, and is tried again: not found") == 1


def test_what_somebody_else_undoes_each_time_is_written_ever_more_rarely_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two who keep the same field, each for itself: no reason to keep the API server busy."""
    world = World({"a"}, undone=True)
    metrics = kept(world, seconds=300)
    times = [at for at, _ in world.attempts]
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[0] < 1
    assert LONGEST_PAUSE <= max(pauses) < LONGEST_PAUSE + 1
    assert len(times) < 20
    assert metrics.counted("controlplane_contested_writes", "things") == len(times) - 2
    assert caplog.text.count("a is undone by field manager pilot-discovery each time it is written") == 1


def test_what_has_to_say_something_new_is_written_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """As the verdict on a resource that is changed every second."""
    world = World({"a"})

    def another() -> None:
        world.version += 1
        world.there.clear()
        world.changed()

    kept(world, *[another] * 20, seconds=1)
    assert [int(at) for at, _ in world.attempts] == list(range(21))
    assert not caplog.text


def test_after_a_quiet_minute_nobody_is_suspected(caplog: pytest.LogCaptureFixture) -> None:
    world = World({"a"})
    metrics = kept(world, *[lambda: (world.there.clear(), world.changed())] * 5, seconds=70)
    assert [name for _, name in world.attempts] == ["a"] * 6
    assert metrics.counted("controlplane_contested_writes", "things") == 0
    assert not caplog.text
