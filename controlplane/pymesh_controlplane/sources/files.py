"""The files of a directory: every manifest below it, read once per change."""

import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeAlias

from pymesh.errors import ConfigError, Position
from pymesh.resources.parse import Parsed, parse

SUFFIXES: Final = (".yaml", ".yml", ".json")
# A file larger than this is no manifest: etcd takes 1.5 MiB per object, and people split files long before.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024
# Files below the root: some pods and services each for a thousand workloads.
MAX_FILES: Final = 20_000
MAX_DEPTH: Final = 32  # folders within folders; links may make more of them than there are
# A file that was written this short a time ago may be written again without its time stamp telling so (seconds).
STAMP_RESOLUTION: Final = 2.0

Content: TypeAlias = Parsed | ConfigError


class _Stamp(NamedTuple):
    device: int
    inode: int
    size: int
    modified: int  # ns


@dataclass(slots=True)
class Files:
    """Reads the manifests below `root`, following links; names that start with a dot are left out.

    Those are editors' swap files, files on their way to be renamed, and the hidden folders of a mounted ConfigMap,
    whose files are linked to from beside them.
    """

    root: Path
    _cache: dict[str, tuple[_Stamp, Content]] = field(default_factory=dict)

    def read(self) -> Mapping[str, Content]:
        """What each file holds, by its path; sorted. For a file or folder that cannot be read, the reason."""
        found: dict[str, Content] = {}
        for path, problem in self._walk():
            if len(found) >= MAX_FILES:
                sentence = f"there are more than {MAX_FILES} files: nothing is read until there are fewer"
                return {str(self.root): ConfigError(sentence, position=Position(str(self.root)))}
            found[str(path)] = problem if problem is not None else self._file(path)
        self._cache = {path: entry for path, entry in self._cache.items() if path in found}
        return dict(sorted(found.items()))

    def _walk(self) -> Iterator[tuple[Path, ConfigError | None]]:
        """Every manifest; and every folder that cannot be listed, with the reason."""
        pending, visited = [(self.root, 0)], set[tuple[int, int]]()
        while pending:
            folder, depth = pending.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in visited:
                    continue
                visited.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                yield folder, _unreadable(folder, error)
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = folder / entry.name
                if _is_folder(entry):
                    if depth == MAX_DEPTH:
                        sentence = f"folders are nested deeper than {MAX_DEPTH}"
                        yield path, ConfigError(sentence, position=Position(str(path)))
                    else:
                        pending.append((path, depth + 1))
                elif entry.name.endswith(SUFFIXES):
                    yield path, None

    def _file(self, path: Path) -> Content:
        name = str(path)
        try:
            with _open(path) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    return ConfigError("is not a file", position=Position(name))
                stamp = _Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
                known = self._cache.get(name)
                settled = time.time() - status.st_mtime > STAMP_RESOLUTION
                if known is not None and known[0] == stamp and settled:
                    return known[1]
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            return _unreadable(path, error)
        content = _content(data, name)
        self._cache[name] = (stamp, content)
        return content


def _open(path: Path) -> BinaryIO:
    # A named pipe would otherwise block until somebody writes to it.
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _content(data: bytes, name: str) -> Content:
    if len(data) > MAX_FILE_BYTES:
        limit = MAX_FILE_BYTES // 1024 // 1024
        return ConfigError(f"has more than {limit} MiB: split it", position=Position(name))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return ConfigError(f"is not UTF-8: byte {data[error.start]:#04x}", position=Position(name, line, 1))
    return parse(text, name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads nowhere: as a file, it says so itself


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot be read: {error.strerror}", position=Position(str(path)))
