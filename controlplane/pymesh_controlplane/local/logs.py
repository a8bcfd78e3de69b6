"""What a container writes, in a file that does not grow beyond a limit."""

import asyncio
import os
from pathlib import Path
from typing import Final

# Bytes of one log file; then it becomes `….1`, in place of the one before. As the kubelet's containerLogMaxSize.
MAX_LOG: Final = 10 * 1024 * 1024
# Bytes read at once: a pipe holds 64 KiB.
_CHUNK: Final = 64 * 1024


class ContainerLog:
    """A pipe whose write end is a container's output, and a file that gets what comes through it.

    The container waits when this process is slow, and loses nothing. What a full disk has no room for is counted, and
    the count is written when there is room again.
    """

    def __init__(self, path: Path, limit: int = MAX_LOG) -> None:
        self.path = path
        self._limit = limit
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._size = path.stat().st_size
        self._lost = 0
        self._read, self.write_fd = os.pipe()
        os.set_blocking(self._read, False)
        asyncio.get_running_loop().add_reader(self._read, self._drain)

    def _drain(self) -> None:
        try:
            data = os.read(self._read, _CHUNK)
        except BlockingIOError:
            return
        self._append(data)

    def _append(self, data: bytes) -> None:
        if self._size + len(data) > self._limit:
            self._file.close()
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            self._file = self.path.open("ab", buffering=0)
            self._size = 0
        if self._lost:
            data = f"pymesh: {self._lost} bytes could not be written here\n".encode() + data
        written = self._write(data)
        self._size += written
        self._lost = 0 if written == len(data) else self._lost + len(data) - written

    def _write(self, data: bytes) -> int:
        """How many bytes fitted on the disk. The container goes on without the others: it has done nothing wrong."""
        try:
            return self._file.write(data) or 0
        except OSError:
            return 0

    def note(self, text: str) -> None:
        """A line of ours, between what the container writes."""
        self._append(f"pymesh: {text}\n".encode())

    def last_line(self) -> str:
        """The last line that is not empty, cut to what fits a status."""
        self._drain()
        with self.path.open("rb") as file:
            file.seek(max(0, self._size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """Take what is in the pipe, and close it."""
        self._drain()
        asyncio.get_running_loop().remove_reader(self._read)
        os.close(self._read)
        os.close(self.write_fd)
        self._file.close()
