"""Processes under measurement."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.macro.running import free_port, on_cores, running, settled_memory
from pymesh.errors import MeshError
from tests.support.repository import ROOT
from tests.support.waiting import eventually_sync

SERVER = "import http.server, sys\nhttp.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), None).serve_forever()"


def test_a_process_runs_on_its_core_and_ends_with_the_block(tmp_path: Path) -> None:
    core, port = {max(os.sched_getaffinity(0))}, free_port()
    before = os.sched_getaffinity(0)
    with running("server", [sys.executable, "-c", SERVER, str(port)], port, tmp_path / "log", core) as process:
        assert os.sched_getaffinity(process.pid) == core
        assert os.sched_getaffinity(0) == before
        assert 1_000_000 < settled_memory([process.pid])[process.pid] < 500_000_000
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_process_ends_also_when_the_block_fails(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", SERVER, str(port)]
    with (
        pytest.raises(ZeroDivisionError),
        running("server", command, port, tmp_path / "log", os.sched_getaffinity(0)) as process,
    ):
        raise ZeroDivisionError
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_program_that_ends_at_its_start_is_quoted(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo bad configuration >&2; exit 3"]
    with (
        pytest.raises(MeshError, match=r"server ended with status 3 at its start:\nbad configuration"),
        running("server", command, free_port(), tmp_path / "log", os.sched_getaffinity(0)),
    ):
        pass


def test_what_was_being_started_as_a_signal_came_ends_as_well() -> None:
    """Its handler raises within `Popen`, which has started a process and not yet given it to anybody."""
    code = """
import subprocess, sys
from benchmarks.macro.running import nothing_left
with nothing_left():
    print(subprocess.Popen(["sleep", "20"], stdout=subprocess.DEVNULL).pid)
    sys.exit(3)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode == 3
    eventually_sync(lambda: not Path(f"/proc/{int(ended.stdout)}").exists(), what="its end", timeout=5)


def test_the_cores_are_given_back_after_a_failure() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), on_cores({min(before)}):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == before
