"""Reading logs that another process appends to, renames and removes."""

import shutil
import threading
from pathlib import Path

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.cli.logs import follow, tail


def test_the_end_of_a_log_over_its_renaming(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    with pytest.raises(MeshError, match="has not been made yet"):
        tail(log, None)
    log.with_name("app.log.1").write_text("one\ntwo\n")
    log.write_text("three\nfour")
    assert tail(log, None) == b"one\ntwo\nthree\nfour"
    assert tail(log, 3) == b"two\nthree\nfour"
    assert tail(log, 0) == b""


def test_a_log_is_followed_over_its_renaming_until_it_is_gone(tmp_path: Path) -> None:
    log = tmp_path / "logs/app.log"
    log.parent.mkdir()
    log.write_text("before\n")
    seen: list[bytes] = []
    arrived = threading.Semaphore(0)

    def read() -> None:
        for data in follow(log):
            seen.append(data)
            arrived.release()

    reader = threading.Thread(target=read)
    with log.open("a") as file:
        file.write("first\n")
    reader.start()
    try:
        # The thread opens the file at its end: written until one of the lines has come through.
        while not arrived.acquire(timeout=0.2):
            with log.open("a") as file:
                file.write("more\n")
        log.replace(log.with_name("app.log.1"))
        log.write_text("after\n")
        while b"after\n" not in b"".join(seen):
            assert arrived.acquire(timeout=10)
    finally:
        shutil.rmtree(log.parent)
        reader.join(10)
    assert not reader.is_alive()
    assert b"before" not in b"".join(seen)
