"""Processes under measurement: started on their cores, waited for, and ended whatever happens."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.macro import procfs
from pymesh.errors import MeshError

# Seconds: a start on busy cores; an orderly end before a forced one.
_START_TIMEOUT: Final = 30.0
_STOP_TIMEOUT: Final = 10.0
_POLL: Final = 0.05
# Memory has settled when it has not changed for so long; it is read as it is when it has not settled by the end.
_SETTLED: Final = 0.5
_SETTLE_TIMEOUT: Final = 5.0
# Of a program's output, as much as an error shows.
_LOG_TAIL: Final = 2000


@dataclass(frozen=True, slots=True)
class Running:
    """A process that listens on a port of loopback."""

    name: str
    pid: int
    port: int
    log: Path

    def said(self) -> str:
        """The end of its output."""
        return self.log.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """What is started meanwhile runs on these processors, with all its threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def nothing_left() -> Iterator[None]:
    """At the end of the block, whatever this process has started and nobody has ended is ended by force.

    Such is what is being started at the moment at which a signal's handler raises: nobody knows its number yet.
    """
    try:
        yield
    finally:
        for pid in procfs.family(os.getpid(), procfs.processes()) - {os.getpid()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # there is none any more
            while True:
                os.wait()


@contextmanager
def running(name: str, command: list[str], port: int, log: Path, cores: Collection[int]) -> Iterator[Running]:
    """A process, from when it listens on `port` of loopback until the end of the block.

    Raises:
        MeshError: it ended, or does not listen within the time for it.
    """
    with log.open("wb") as output, on_cores(cores):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        started = Running(name, process.pid, port, log)
        _wait_until_listening(process, started)
        yield started
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def settled_memory(pids: Iterable[int]) -> dict[int, int]:
    """Bytes resident of each process with its children, once none of them changes any more."""
    resident, since = _resident(pids := list(pids)), time.monotonic()
    deadline = since + _SETTLE_TIMEOUT
    while (now := time.monotonic()) < deadline and now - since < _SETTLED:
        time.sleep(_POLL)
        if (latest := _resident(pids)) != resident:
            resident, since = latest, now
    return resident


def _resident(pids: Collection[int]) -> dict[int, int]:
    return {pid: procfs.resident_bytes(pid) for pid in pids}


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _wait_until_listening(process: "subprocess.Popen[bytes]", started: Running) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        if process.poll() is not None:
            raise MeshError(f"{started.name} ended with status {process.returncode} at its start:\n{started.said()}")
        try:
            socket.create_connection(("127.0.0.1", started.port), timeout=1.0).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise MeshError(
                    f"{started.name} does not listen after {_START_TIMEOUT:g} s:\n{started.said()}"
                ) from error
            time.sleep(_POLL)
        else:
            return
