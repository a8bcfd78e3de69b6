"""Reading logs that another process appends to, renames and removes."""

import shutil
from pathlib import Path

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.cli.logs import follow, opened, tail


def test_the_end_of_a_log_over_its_renaming(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    with pytest.raises(MeshError, match="has not been made yet"):
        opened(log)
    log.with_name("app.log.1").write_text("one\ntwo\n")
    log.write_text("three\nfour")
    for lines, text in ((None, b"one\ntwo\nthree\nfour"), (3, b"two\nthree\nfour"), (0, b"")):
        with opened(log) as file:
            assert tail(file, lines) == text


def test_a_log_that_is_renamed_once_it_is_open_is_told_once(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.with_name("app.log.1").write_text("older\n")
    log.write_text("one\n")
    with opened(log) as file:
        log.replace(log.with_name("app.log.1"))
        log.write_text("two\n")
        assert tail(file, None) == b"one\n"
        assert next(follow(file)) == b"two\n"


def test_a_log_is_followed_from_where_its_end_was_over_its_renaming_until_it_is_gone(tmp_path: Path) -> None:
    log = tmp_path / "logs/app.log"
    log.parent.mkdir()
    log.write_text("before\n")
    file = opened(log)
    assert tail(file, None) == b"before\n"
    following = follow(file)
    assert next(following) == b""
    with log.open("a") as end:
        end.write("first\n")
    assert next(following) == b"first\n"
    log.replace(log.with_name("app.log.1"))
    log.write_text("after\n")
    assert next(following) == b"after\n"
    shutil.rmtree(log.parent)
    assert list(following) == []
