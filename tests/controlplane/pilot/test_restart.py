"""A pilot that starts anew on a folder in which something is wrong."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.server import DiscoveryServer
from pymesh_controlplane.pilot.status import configz
from pymesh_controlplane.pilot.translate import Translator
from pymesh_controlplane.sources.directory import DirectorySource
from tests.controlplane.pilot.worlds import service
from tests.support.waiting import eventually


def world_of(server: DiscoveryServer) -> World:
    assert server.world is not None
    return server.world


@asynccontextmanager
async def following(folder: Path) -> AsyncIterator[DiscoveryServer]:
    """A pilot that has read `folder`."""
    server = DiscoveryServer(Translator().snapshot, Metrics(), time.monotonic)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(server.run(DirectorySource(folder)))
        await eventually(lambda: server.world is not None)
        yield server
        running.cancel()


async def test_what_was_refused_before_is_told_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the log and on the debug page, with its place; and nobody claims that its good version is still in force."""
    right = service("reviews")
    line = right[: right.index("9080")].count("\n") + 1
    file = tmp_path / "reviews.yaml"
    file.write_text(right)
    async with following(tmp_path) as server:
        file.write_text(right.replace("9080", "70000"))
        await eventually(lambda: world_of(server).problems)
        assert world_of(server).problems[0].consequence == "the version before it stays in force"
        assert "reviews.default.svc.cluster.local" in world_of(server).services
    caplog.clear()
    async with following(tmp_path) as server:
        assert world_of(server).services == {}
        told = configz(world_of(server))["problems"]
    column = right.splitlines()[line - 1].index("port: 9080") + 1
    where = f"{file}:{line}:{column}"
    apart = {"text", "file", "line", "column"}  # the same in other forms
    assert [{name: value for name, value in problem.items() if name not in apart} for problem in told] == [
        {
            "severity": "error",
            "sentence": "the number 70000 is not a port number between 1 and 65535",
            "path": "spec.ports[0].port",
            "position": where,
            "resource": "Service default/reviews",
            "consequence": "it is not in force",
        }
    ]
    assert f"{where}: Service default/reviews: spec.ports[0].port: error: the number 70000" in caplog.text
    assert "(it is not in force)" in caplog.text
