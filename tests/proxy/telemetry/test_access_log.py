"""Log files that are read, moved, full, blocked and gone: whole lines in order, or counted as dropped."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymesh.errors import ConfigError
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.telemetry import access_log
from pymesh_proxy.telemetry.access_log import BATCH, AccessLog, AccessLogs
from pymesh_proxy.telemetry.log_format import compile_format
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from tests.support.waiting import eventually

RENDER = compile_format("%UPSTREAM_CLUSTER%\n")


def record(name: str) -> RequestRecord:
    found = RequestRecord(Facts("outbound", "", ""), 0.0, 0.0)
    found.cluster = name
    return found


def write(target: AccessLog, first: int, last: int, padding: int = 0) -> list[str]:
    lines = [f"line {number} {'x' * padding}" for number in range(first, last)]
    for line in lines:
        target.write(record(line))
    return lines


async def test_a_full_batch_is_written_at_once(tmp_path: Path) -> None:
    file = tmp_path / "log"
    target = AccessLog(str(file), RENDER)
    lines = write(target, 0, BATCH - 1)
    assert file.read_text() == ""
    lines += write(target, BATCH - 1, BATCH)
    assert file.read_text().splitlines() == lines
    assert (target.written, target.dropped) == (BATCH, 0)
    target.close()


async def test_a_single_line_is_written_soon(tmp_path: Path) -> None:
    file = tmp_path / "log"
    target = AccessLog(str(file), RENDER)
    lines = write(target, 0, 1)
    await eventually(lambda: file.read_text().splitlines() == lines)
    target.close()


async def test_close_writes_what_is_left_and_appends_to_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("before\n")
    target = AccessLog(str(file), RENDER)
    lines = write(target, 0, 3)
    target.close()
    assert file.read_text().splitlines() == ["before", *lines]
    assert file.stat().st_mode & 0o022 == 0


async def test_the_file_is_not_inherited(tmp_path: Path) -> None:
    target = AccessLog(str(tmp_path / "log"), RENDER)
    assert target._file is not None
    assert not os.get_inheritable(target._file)
    target.close()


async def test_reopen_goes_on_in_a_new_file(tmp_path: Path) -> None:
    file, moved = tmp_path / "log", tmp_path / "log.1"
    target = AccessLog(str(file), RENDER)
    old = write(target, 0, 5)
    file.rename(moved)
    old += write(target, 5, 7)
    target.reopen()
    new = write(target, 7, 9)
    target.close()
    assert moved.read_text().splitlines() == old
    assert file.read_text().splitlines() == new
    assert (target.written, target.dropped) == (9, 0)


async def test_a_reopen_that_fails_leaves_the_old_file_in_use(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    target = AccessLog(str(directory / "log"), RENDER)
    directory.rename(tmp_path / "old")
    target.reopen()
    lines = write(target, 0, 2)
    target.close()
    assert (tmp_path / "old/log").read_text().splitlines() == lines


async def test_a_path_that_cannot_be_opened_is_told_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "FAILED_PAUSE", 0.01)
    file = tmp_path / "not/there/yet"
    with caplog.at_level(logging.WARNING, "pymesh.access_log"):
        target = AccessLog(str(file), RENDER)
        lines = write(target, 0, 3 * BATCH)
        await asyncio.sleep(0)
        target.flush()
        assert [item.levelname for item in caplog.records] == ["ERROR"]
        assert "No such file or directory" in caplog.text
        file.parent.mkdir(parents=True)
        await eventually(lambda: file.exists() and file.read_text().splitlines() == lines)
    assert caplog.records[-1].getMessage() == f"access log {file}: written again; 0 lines were dropped so far"
    target.close()


# Bytes: one page, the least that a tmpfs can be limited to.
DISK = 4096


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that is full after DISK bytes: a write up to it is cut short, the next one fails. `enlarge` helps."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def enlarge(disk: Path) -> None:
    """Make room on the disk."""
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)


async def test_a_full_disk_costs_lines_and_says_so(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_log, "MAX_QUEUED", 2000)
    monkeypatch.setattr(access_log, "FAILED_PAUSE", 0.01)
    file = small_disk / "log"
    target = AccessLog(str(file), RENDER)
    lines = write(target, 0, 400, padding=20)
    assert file.stat().st_size == DISK
    await eventually(lambda: "No space left on device" in caplog.text)
    whole = file.read_text().count("\n")
    assert target.written == whole
    kept = len(target._lines)
    assert target.dropped == 400 - whole - kept > 0
    assert target._queued <= 2000
    # Room again: the rest of the torn line is first, then the others that were kept.
    enlarge(small_disk)
    await eventually(lambda: target.written == whole + kept)
    found = file.read_text().splitlines()
    assert found == [line for line in lines if line in set(found)]
    assert len(found) == whole + kept
    target.close()


async def test_reopening_after_a_torn_line_begins_with_a_whole_one(tmp_path: Path, small_disk: Path) -> None:
    logs, roomy = tmp_path / "logs", tmp_path / "roomy"
    logs.symlink_to(small_disk)
    roomy.mkdir()
    file = logs / "log"
    target = AccessLog(str(file), RENDER)
    lines = write(target, 0, 200, padding=20)
    target.flush()
    whole = target.written
    logs.unlink()
    logs.symlink_to(roomy)
    target.reopen()
    target.close()
    assert file.read_text().splitlines() == lines[whole + 1 :][: file.read_text().count("\n")]
    assert target.dropped >= 1
    assert target.written + target.dropped == 200


async def test_a_blocked_pipe_does_not_block_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MAX_QUEUED", 100_000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        target = AccessLog(str(pipe), RENDER)
        lines = write(target, 0, 5000, padding=100)
        target.flush()
        assert target.written > 0
        assert target.dropped > 0
        assert target._queued <= 100_000
        expected = 5000 - target.dropped
        found = b""

        def drained() -> bool:
            nonlocal found
            try:
                found += os.read(reader, 1 << 20)
            except BlockingIOError:
                return False
            return found.count(b"\n") == expected

        await eventually(drained)
        assert found.decode().splitlines() == lines[:expected]
        assert target.written == expected
        target.close()
    finally:
        os.close(reader)


async def test_a_pipe_nobody_reads_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "FAILED_PAUSE", 0.01)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    target = AccessLog(str(pipe), RENDER)
    lines = write(target, 0, BATCH)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    await eventually(lambda: target.written == BATCH)
    assert os.read(reader, 1 << 16).decode().splitlines() == lines
    os.close(reader)
    write(target, 0, BATCH)  # the reader is gone: a broken pipe, and no exception
    assert target.written == BATCH
    target.close()
    assert target.dropped == BATCH


async def test_a_mistake_in_a_format_costs_a_line_and_not_a_request(tmp_path: Path) -> None:
    def broken(record: RequestRecord, request: Head | None, response: Head | None) -> bytes:
        raise KeyError("x")

    seen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    target = AccessLog(str(tmp_path / "log"), broken)
    target.write(record("x"))
    target.flush()
    assert target.dropped == 1
    assert isinstance(seen[0]["exception"], KeyError)
    target.close()


async def test_several_logs_see_the_heads_of_a_record_that_gives_them_up(tmp_path: Path) -> None:
    render = compile_format("%REQ(X)% %RESP(Y)%\n")
    first, second = AccessLog(str(tmp_path / "a"), render), AccessLog(str(tmp_path / "b"), render)
    for number in range(BATCH):
        done = record("x")
        done.headers, done.response_headers = Head(), Head()
        done.headers.set(b"x", b"%d" % number)
        done.response_headers.set(b"y", b"%d" % -number)
        first.write(done)
        second.write(done)
        done.headers = done.response_headers = None
    expected = [f"{number} {-number}" for number in range(BATCH)]
    assert (tmp_path / "a").read_text().splitlines() == expected
    assert (tmp_path / "b").read_text().splitlines() == expected
    assert done.headers is None
    first.close()
    second.close()


async def test_what_comes_after_the_end_is_counted(tmp_path: Path) -> None:
    target = AccessLog(str(tmp_path / "log"), RENDER)
    target.close()
    target.write(record("late"))
    assert (target.written, target.dropped) == (0, 1)
    assert (tmp_path / "log").read_text() == ""


async def test_one_log_for_a_path_and_a_format(tmp_path: Path) -> None:
    logs = AccessLogs()
    path, other = str(tmp_path / "a"), str(tmp_path / "b")
    text = logs.get(path, "%UPSTREAM_CLUSTER%\n")
    assert logs.get(path, "%UPSTREAM_CLUSTER%\n") is text
    json = logs.get(path, {"a": "1", "b": "%UPSTREAM_CLUSTER%"})
    assert logs.get(path, {"b": "%UPSTREAM_CLUSTER%", "a": "1"}) is json
    gone = logs.get(other, "%UPSTREAM_CLUSTER%\n")
    for target in (text, json, gone):
        target.write(record("x"))
    logs.retain([(path, "%UPSTREAM_CLUSTER%\n"), (path, {"a": "1", "b": "%UPSTREAM_CLUSTER%"})])
    assert Path(other).read_text() == "x\n"
    gone.write(record("late"))
    assert logs.get(other, "%UPSTREAM_CLUSTER%\n") is not gone
    Path(path).rename(tmp_path / "moved")
    logs.reopen()
    assert set((tmp_path / "moved").read_text().splitlines()) == {"x", '{"a":"1","b":"x"}'}
    text.write(record("y"))
    logs.close()
    assert Path(path).read_text() == "y\n"
    assert logs.dropped == 0
    with pytest.raises(ConfigError):
        logs.get(path, "%NO%")


SCRIPT = """
import asyncio, sys
from pymesh_proxy.telemetry.access_log import AccessLog
from pymesh_proxy.telemetry.record import RequestRecord
async def main():
    log = AccessLog("/dev/stdout", lambda *_: b"line\\n")
    for _ in range(100):
        log.write(RequestRecord(None, 0.0, 0.0))
    log.reopen()
    log.write(RequestRecord(None, 0.0, 0.0))
    log.close()
    print(log.written, log.dropped, file=sys.stderr)
asyncio.run(main())
print("still open")
"""


@pytest.mark.parametrize("kind", ["pipe", "file", "socket"])
def test_standard_output_of_every_kind(kind: str, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with (tmp_path / "out").open("w+b") as file, ours, theirs:
        out = {"pipe": subprocess.PIPE, "file": file.fileno(), "socket": theirs.fileno()}[kind]
        done = subprocess.run([sys.executable, "-c", SCRIPT], stdout=out, stderr=subprocess.PIPE, check=True)
        if kind == "file":
            file.seek(0)
            text = file.read()
        else:
            text = done.stdout if kind == "pipe" else ours.recv(1 << 16)
    assert text == b"line\n" * 101 + b"still open\n"
    assert done.stderr == b"101 0\n"
