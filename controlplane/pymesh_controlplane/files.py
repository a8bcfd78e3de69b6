"""Files written so that a crash, or a full disk, leaves either the old content or the new, never a half."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from pymesh.errors import ConfigError, Position


def replace(path: Path, content: bytes, mode: int) -> None:
    """Put `content` into `path` with `mode`, in place of what was there.

    Raises:
        ConfigError: it cannot be written (no such folder, not allowed, no space left); what was there is untouched.
    """
    _write(path, content, mode, lambda temporary: temporary.replace(path))


def publish(path: Path, content: bytes, mode: int) -> None:
    """`replace`, unless that is what is there already: whoever watches the file is not woken for nothing.

    Raises:
        ConfigError: it cannot be read or written.
    """
    try:
        same = path.read_bytes() == content
    except FileNotFoundError:
        same = False
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", position=Position(str(path))) from error
    if not same:
        replace(path, content, mode)


def create(path: Path, content: bytes, mode: int) -> bool:
    """Put `content` into `path` with `mode`, unless something is there: then nothing changes and the answer is False.

    Raises:
        ConfigError: it cannot be written; nothing is left behind.
    """

    def link(temporary: Path) -> None:
        path.hardlink_to(temporary)  # unlike a rename, it never overwrites what another process was quicker to write
        temporary.unlink()

    try:
        _write(path, content, mode, link)
    except FileExistsError:
        return False
    return True


def _write(path: Path, content: bytes, mode: int, publish: Callable[[Path], object]) -> None:
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise _cannot(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        publish(temporary)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # without it the new name may be lost with the power
        finally:
            os.close(folder)
    except FileExistsError:
        temporary.unlink(missing_ok=True)
        raise
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _cannot(path, error) from error


def _cannot(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot be written: {error.strerror}", position=Position(str(path)))
