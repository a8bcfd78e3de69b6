"""The files that `-f` names."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pymesh.errors import MeshError
from pymesh_controlplane.local.texts import MAX_APPLY, Text

_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})


def read(names: Iterable[str]) -> list[Text]:
    """The manifests in files and directories; `-` is standard input. A directory is not searched deeper, as in kubectl.

    Raises:
        MeshError: a file cannot be read, is not UTF-8, a directory has no manifests, or all together are too large.
    """
    texts: list[Text] = []
    left = MAX_APPLY
    for name in names:
        if name == "-":
            text = Text("standard input", str(Path.cwd()), _decoded("standard input", sys.stdin.buffer.read(left + 1)))
            texts.append(text)
            left -= len(text.text)
        else:
            for path in _files(Path(name)):
                text = _read(path, left)
                texts.append(text)
                left -= len(text.text)
        if left < 0:
            raise MeshError(f"more than {MAX_APPLY // 2**20} MiB of manifests; apply them in parts")
    return texts


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(entry for entry in path.iterdir() if entry.suffix in _SUFFIXES and entry.is_file())
    if not found:
        raise MeshError(f"{path} has no manifests: no file ends in {', '.join(sorted(_SUFFIXES))}")
    return found


def _read(path: Path, limit: int) -> Text:
    try:
        with path.open("rb") as file:
            data = file.read(max(limit, 0) + 1)
    except OSError as error:
        raise MeshError(f"{path}: {error.strerror}") from None
    return Text(str(path), str(path.resolve().parent), _decoded(str(path), data))


def _decoded(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MeshError(f"{name}: not UTF-8 at byte {error.start}") from None
