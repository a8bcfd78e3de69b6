"""A container's output: nothing lost, and no more kept than allowed."""

import asyncio
import os
from pathlib import Path

import pytest

from pymesh_controlplane.local.logs import ContainerLog
from tests.support.waiting import eventually


async def test_what_is_written_is_kept_and_the_last_line_known(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "logs/c.log")
    os.write(log.write_fd, b"one\ntwo\n\n")
    await eventually(lambda: log.path.read_bytes() == b"one\ntwo\n\n")
    assert log.last_line() == "two"
    log.note("three")
    assert log.last_line() == "pymesh: three"
    os.write(log.write_fd, b"last")
    log.close()
    assert log.path.read_bytes().endswith(b"last")


async def test_a_full_log_is_put_aside_and_only_one_is(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "c.log", limit=100)
    for number in range(30):
        os.write(log.write_fd, f"line {number:03}\n".encode())
        await asyncio.sleep(0)
        log.last_line()
    log.close()
    aside = log.path.with_name("c.log.1")
    assert log.path.stat().st_size <= 100
    assert aside.stat().st_size <= 100
    lines = (aside.read_text() + log.path.read_text()).splitlines()
    assert lines == [f"line {number:03}" for number in range(30 - len(lines), 30)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.log", "c.log.1"]


async def test_what_a_full_disk_has_no_room_for_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.log"
    path.symlink_to("/dev/full")
    log = ContainerLog(path)
    log.note("lost")
    path.unlink()
    log._file.close()
    with path.open("ab", buffering=0) as file:
        monkeypatch.setattr(log, "_file", file)
        log.note("kept")
        assert path.read_text() == "pymesh: 13 bytes could not be written here\npymesh: kept\n"
        log.close()
