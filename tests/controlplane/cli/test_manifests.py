"""The files that `-f` names."""

from pathlib import Path

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.cli import manifests


def test_a_directory_is_read_in_order_and_not_deeper(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "c.json", "notes.md", "deeper/d.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    texts = manifests.read([str(tmp_path), str(tmp_path / "deeper/d.yaml")])
    assert [text.text for text in texts] == ["a.yaml", "b.yml", "c.json", "deeper/d.yaml"]
    assert [text.directory for text in texts] == [str(tmp_path)] * 3 + [str(tmp_path / "deeper")]


@pytest.mark.parametrize(("content", "words"), [(None, "No such file"), (b"\xff", "not UTF-8 at byte 0")])
def test_what_cannot_be_read_is_told(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MeshError, match=words):
        manifests.read([str(path)])


def test_a_directory_without_manifests_and_too_much_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeshError, match="has no manifests: no file ends in"):
        manifests.read([str(tmp_path)])
    (tmp_path / "x.yaml").write_text("x" * 2000)
    monkeypatch.setattr(manifests, "MAX_APPLY", 1000)
    with pytest.raises(MeshError, match="apply them in parts"):
        manifests.read([str(tmp_path)])
