"""Reading a directory as it is found in the wild: links, pipes, folders that cannot be read, files that are none."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pymesh.errors import ConfigError
from pymesh.resources.parse import Parsed
from pymesh_controlplane.sources import files as module
from pymesh_controlplane.sources.files import Content, Files
from tests.controlplane.pilot.worlds import service


def names(found: Mapping[str, Content]) -> list[str]:
    contents = [content for content in found.values() if isinstance(content, Parsed)]
    return [resource.key.name for content in contents for resource in content.resources]


def problems(found: Mapping[str, Content]) -> list[str]:
    return [str(content) for content in found.values() if isinstance(content, ConfigError)]


def test_manifests_below_the_folder_are_found_and_other_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    for index, name in enumerate(
        ["a.yaml", "b.yml", "d/c.json", "d/e/f.yaml", "g.txt", ".h.yaml", "i.yaml.swp", "j.yaml~"]
    ):
        (tmp_path / name).write_text(service(f"s{index}"))
    assert names(Files(tmp_path).read()) == ["s0", "s1", "s2", "s3"]


def test_a_mounted_config_map_is_read_through_its_links_and_once(tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "a.yaml").write_text(service("a"))
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert names(Files(tmp_path).read()) == ["a"]


def test_a_link_that_leads_round_in_circles_ends(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "up").symlink_to(tmp_path)
    (tmp_path / "a.yaml").write_text(service("a"))
    assert names(Files(tmp_path).read()) == ["a"]


def test_a_link_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("gone.yaml")
    assert problems(Files(tmp_path).read()) == [f"{tmp_path}/a.yaml: cannot be read: No such file or directory"]


def test_a_pipe_does_not_hang_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(service("b"))
    found = Files(tmp_path).read()
    assert names(found) == ["b"]
    assert problems(found) == [f"{tmp_path}/a.yaml: is not a file"]


def test_a_folder_that_is_called_like_a_manifest_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").mkdir()
    (tmp_path / "d.yaml" / "a.yaml").write_text(service("a"))
    assert names(Files(tmp_path).read()) == ["a"]


def test_too_large_and_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"#" * (module.MAX_FILE_BYTES + 1))
    (tmp_path / "b.yaml").write_bytes(b"a: 1\nb: \xff\n")
    assert problems(Files(tmp_path).read()) == [
        f"{tmp_path}/a.yaml: has more than 4 MiB: split it",
        f"{tmp_path}/b.yaml:2:1: is not UTF-8: byte 0xff",
    ]


def test_too_many_files_are_refused_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 2)
    for name in "abc":
        (tmp_path / f"{name}.yaml").write_text(service(name))
    found = Files(tmp_path).read()
    assert list(found) == [str(tmp_path)]
    assert "there are more than 2 files" in problems(found)[0]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert problems(Files(tmp_path / "x").read()) == [f"{tmp_path}/x: cannot be read: No such file or directory"]


def test_a_change_of_the_same_size_in_the_same_instant_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    reader = Files(tmp_path)
    file.write_text(service("aaa"))
    stamp = file.stat().st_mtime_ns
    assert names(reader.read()) == ["aaa"]
    file.write_text(service("bbb"))
    os.utime(file, ns=(stamp, stamp))
    assert names(reader.read()) == ["bbb"]


def test_a_file_that_has_not_changed_is_not_parsed_again(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(service("a"))
    os.utime(file, (1_000_000_000, 1_000_000_000))
    reader = Files(tmp_path)
    assert reader.read()[str(file)] is reader.read()[str(file)]


def test_what_may_not_be_read_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    """As a user other than root, to whom permissions mean nothing."""
    (tmp_path / "d").mkdir()
    for name in ("a", "b", "d/c"):
        (tmp_path / f"{name}.yaml").write_text(service(name[-1]))
    (tmp_path / "b.yaml").chmod(0)
    (tmp_path / "d").chmod(0)
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from pymesh_controlplane.sources.files import Files\n"
        "from pymesh.errors import ConfigError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for path, content in Files(Path(sys.argv[1])).read().items():\n"
        "    print(content if isinstance(content, ConfigError) else path)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=30)
    assert result.stdout.splitlines() == [
        f"{tmp_path}/a.yaml",
        f"{tmp_path}/b.yaml: cannot be read: Permission denied",
        f"{tmp_path}/d: cannot be read: Permission denied",
    ], result.stderr
