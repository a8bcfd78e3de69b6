"""Files are replaced whole or not at all."""

from pathlib import Path

import pytest

from pymesh.errors import ConfigError
from pymesh_controlplane import files


def test_replace_puts_new_content_in_place_with_its_mode(tmp_path: Path) -> None:
    """Whoever has the old file open keeps the old content."""
    path = tmp_path / "root-cert.pem"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        files.replace(path, b"new", 0o644)
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_publish_leaves_alone_what_is_right(tmp_path: Path) -> None:
    """No watcher is woken for nothing."""
    path = tmp_path / "root-cert.pem"
    files.publish(path, b"root", 0o644)
    before = path.stat()
    files.publish(path, b"root", 0o644)
    assert path.stat().st_ino == before.st_ino
    files.publish(path, b"other", 0o644)
    assert path.read_bytes() == b"other"


def test_create_never_overwrites(tmp_path: Path) -> None:
    """And says so."""
    path = tmp_path / "key.pem"
    assert files.create(path, b"one", 0o600)
    assert not files.create(path, b"two", 0o600)
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_a_config_error_with_the_path(tmp_path: Path) -> None:
    """No such folder; and a name that is a folder."""
    with pytest.raises(ConfigError, match=r"missing/file: cannot be written: No such file or directory"):
        files.replace(tmp_path / "missing" / "file", b"", 0o644)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        files.replace(tmp_path / "folder", b"", 0o644)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
