"""Reading a container's log: a file that another process appends to and, when it is full, renames."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from pymesh.errors import MeshError

# Seconds between two looks at a file that is followed.
POLL: Final = 0.1
_CHUNK: Final = 64 * 1024


def opened(path: Path) -> BinaryIO:
    """The log at `path`, at its beginning.

    Raises:
        MeshError: there is none.
    """
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise MeshError(f"there is no log at {path}: the container has not been made yet") from None


def tail(file: BinaryIO, lines: int | None) -> bytes:
    """The last `lines` lines of a log, or all of it: what was renamed before, and `file`, which is read to its end.

    If `file` has been renamed itself since it was opened, it is all that there is: what was before it is gone.
    """
    text = file.read()
    with contextlib.suppress(FileNotFoundError), Path(f"{file.name}.1").open("rb") as before:
        if not os.path.sameopenfile(before.fileno(), file.fileno()):
            text = before.read() + text
    if lines is None:
        return text
    return b"".join(text.splitlines(keepends=True)[-lines:]) if lines else b""


def follow(file: BinaryIO) -> Iterator[bytes]:
    """What is appended after what was read of `file`, until the pod is gone; over renamings. Closes the file.

    While nothing is, b"" every POLL seconds: whoever prints it may look whether somebody still reads that.
    """
    path = Path(file.name)
    try:
        while True:
            data = file.read(_CHUNK)
            if data:
                yield data
                continue
            if not path.parent.exists():
                return
            # For a moment after the renaming there is no file; then there is another one.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                    following = path.open("rb")
                    file.close()
                    file = following
                    continue
            yield b""
            time.sleep(POLL)
    finally:
        file.close()
