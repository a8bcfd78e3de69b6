"""What is in force, kept on disk: a control plane that is started anew finds the last good version of what is broken.

One file in a directory that is the source's own, for its user alone: it may hold what Secrets hold. The first line
says what the rest is and has its checksum, so that half a file, or one of another release or another source, is
noticed; it is then told and left alone until the next one takes its place.

    pymesh-last-good 1 <sha256 of the rest> <folder of the source>
    [{"file": "/config/reviews.yaml", "namespace": "bookinfo", "resource": {"apiVersion": …}}, …]
"""

import os
import stat
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from pymesh.errors import ConfigError, Position
from pymesh.resources.parse import reread
from pymesh.resources.resource import Key, Positions, Resource
from pymesh_controlplane import files

FILE: Final = "last-good.json"
# Raised when the form below changes: what an older release has written is then not guessed at.
VERSION: Final = 1
# Bytes of the file. A thousand workloads' routes and rules are some MB; more than this is neither written nor read.
MAX_BYTES: Final = 64 * 1024 * 1024

_MAGIC: Final = b"pymesh-last-good"
_PRIVATE: Final = 0o600


class _Entry(msgspec.Struct, frozen=True):
    file: str
    namespace: str
    resource: dict[str, object]


class LastGood:
    """The file in `directory` that has what is in force of the source that reads `root`."""

    def __init__(self, directory: Path, root: Path) -> None:
        self._path = directory / FILE
        self._root = str(root).encode()
        self._saved: dict[Key, Resource[object]] | None = None

    def load(self) -> tuple[dict[Key, Resource[object]], list[ConfigError]]:
        """What was in force when it was last saved, and what of it cannot be used, with the reason.

        The positions in it have no lines: the files may have others by now.
        """
        for half_written in self._path.parent.glob(f".{FILE}.*.tmp"):  # by one that was killed
            half_written.unlink(missing_ok=True)
        try:
            data = self._read()
        except FileNotFoundError:
            return {}, []
        except OSError as error:
            return {}, [self._unusable(f"cannot be read: {error.strerror}")]
        except ConfigError as error:
            return {}, [error]
        found: dict[Key, Resource[object]] = {}
        errors: list[ConfigError] = []
        for entry in data:
            try:
                resource = reread(entry.resource, Positions(entry.file, {}), entry.namespace)
            except ConfigError as error:
                errors.append(self._unusable(f"holds what is not read any more ({error})"))
            else:
                found[resource.key] = resource
        return found, errors

    def save(self, resources: Iterable[Resource[object]]) -> None:
        """Keep `resources`. What is kept already is not written again.

        Raises:
            ConfigError: it cannot be written, or there is too much of it; what was there is untouched.
        """
        current = {resource.key: resource for resource in resources}
        if self._saved == current:
            return
        entries = [_Entry(item.file, item.key.namespace, dict(item.raw)) for item in current.values()]
        body = msgspec.json.encode(entries)
        content = self._header(body) + b"\n" + body
        if len(content) > MAX_BYTES:
            raise self._unusable(f"is not written: it would have more than {MAX_BYTES // 2**20} MiB")
        files.replace(self._path, content, _PRIVATE)
        self._saved = current

    def _read(self) -> list[_Entry]:
        with os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise self._unusable("is not a file")
            if status.st_uid not in {0, os.geteuid()} or stat.S_IMODE(status.st_mode) & 0o022:
                raise self._unusable("could have been written by others than the control plane")
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise self._unusable(f"has more than {MAX_BYTES // 2**20} MiB")
        header, _, body = content.partition(b"\n")
        if not header.startswith(b"%b %d " % (_MAGIC, VERSION)):
            raise self._unusable("is not of this release")
        if header != self._header(body):
            whose = header.split(b" ", 3)[-1]
            moved = whose != self._root
            raise self._unusable(f"is of {whose.decode(errors='replace')}" if moved else "is damaged")
        try:
            return msgspec.json.decode(body, type=list[_Entry])
        except msgspec.MsgspecError as error:
            raise self._unusable(f"is damaged: {error}") from None

    def _header(self, body: bytes) -> bytes:
        return b"%b %d %b %b" % (_MAGIC, VERSION, sha256(body).hexdigest().encode(), self._root)

    def _unusable(self, sentence: str) -> ConfigError:
        return ConfigError(sentence, position=Position(str(self._path)))
