"""Processes of containers: started through the launcher, waited for by file descriptor, found by their namespace."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymesh.errors import MeshError
from pymesh_controlplane.local.launch import Launch

# The launcher runs without `site`, so it is told where the package is.
_PACKAGE_PARENT: Final = str(Path(__file__).resolve().parents[2])
_LAUNCHER: Final = (
    f"import sys; sys.path.insert(0, {_PACKAGE_PARENT!r}); from pymesh_controlplane.local.launch import main; main()"
)
# Bytes of the launcher's complaint that are kept; it is one line.
_MAX_COMPLAINT: Final = 4096


class StartError(MeshError):
    """A container's command could not be started; the text says why."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit code, or 128 + the signal that ended it, as shells and Kubernetes say it."""

    exit_code: int

    def __str__(self) -> str:
        if self.exit_code > 128:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(self.exit_code - 128).name}"
        return f"exited with code {self.exit_code}"


class Process:
    """A child of this process. Its pidfd makes that a signal never meets another process with the same number."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    @property
    def pid(self) -> int:
        """The process number."""
        return self._popen.pid

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._popen.wait()
        if not self._ended.done():
            self._ended.set_result(Ended(code if code >= 0 else 128 - code))

    async def wait(self) -> Ended:
        """How it ended, once it has."""
        return await asyncio.shield(self._ended)

    def send(self, signal_number: int) -> None:
        """Send a signal, unless the process has ended."""
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal_number)


async def start(launch: Launch, output: int) -> Process:
    """Start `launch` as a child that ends with this process; its output goes to the file descriptor `output`.

    Raises:
        StartError: the command could not be started.
    """
    # The kernel ties the child to the thread that started it, so this must not move to another thread.
    popen, spec_write, error_read = _spawn(output, output, launch.sockets.values())
    process = Process(popen)
    try:
        complaint = await asyncio.to_thread(_converse, launch.to_json(), spec_write, error_read)
    except BaseException:
        process.send(signal.SIGKILL)
        raise
    if complaint:
        await process.wait()
        raise StartError(complaint)
    return process


def run(launch: Launch) -> "subprocess.CompletedProcess[bytes]":
    """Run `launch` to its end, with its output captured.

    Raises:
        StartError: the command could not be started.
    """
    popen, spec_write, error_read = _spawn(subprocess.PIPE, subprocess.PIPE, launch.sockets.values())
    with popen:
        complaint = _converse(launch.to_json(), spec_write, error_read)
        output, errors = popen.communicate()
    if complaint:
        raise StartError(complaint)
    return subprocess.CompletedProcess(launch.argv, popen.returncode, output, errors)


def _spawn(stdout: int, stderr: int, sockets: Iterable[int] = ()) -> "tuple[subprocess.Popen[bytes], int, int]":
    """A launcher, the descriptor to write its launch to, and the one to read its complaint from."""
    spec_read, spec_write = os.pipe()
    error_read, error_write = os.pipe()
    try:
        popen = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(spec_read), str(error_write), str(os.getpid())],
            pass_fds=(spec_read, error_write, *sockets),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env={},
        )
    except BaseException:
        os.close(spec_write)
        os.close(error_read)
        raise
    finally:
        os.close(spec_read)
        os.close(error_write)
    return popen, spec_write, error_read


def _converse(spec: bytes, spec_write: int, error_read: int) -> str:
    """Hand the launcher its `spec`; what it complained of, empty once the command runs."""
    with os.fdopen(error_read, "rb") as errors:
        with contextlib.suppress(BrokenPipeError), os.fdopen(spec_write, "wb") as out:
            out.write(spec)
        return errors.read(_MAX_COMPLAINT).decode(errors="replace")


def start_time(pid: int) -> int | None:
    """When the process `pid` started, in clock ticks since boot: with the number it names a process for good."""
    try:
        # The second field is the command in parentheses and may contain anything: proc_pid_stat(5).
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])


def in_network_namespace(path: Path) -> list[int]:
    """The processes that live in the network namespace at `path`, other than the calling one."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return []
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [pid for pid in numbers if pid != os.getpid() and _lives_in(pid, wanted)]


def _lives_in(pid: int, namespace: os.stat_result) -> bool:
    try:
        status = Path(f"/proc/{pid}/ns/net").stat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (namespace.st_dev, namespace.st_ino)


def kill_in_network_namespace(path: Path) -> int:
    """Send SIGKILL to every process in the network namespace at `path`; how many there were."""
    pids = in_network_namespace(path)
    for pid in pids:
        with contextlib.suppress(OSError):
            kill(pid, lambda pid: _lives_in(pid, path.stat()))
    return len(pids)


def kill(pid: int, is_meant: Callable[[int], bool]) -> None:
    """Send SIGKILL to the process `pid` if it still is the one that is meant when its number can change hands no more.

    Raises:
        OSError: it has ended.
    """
    pidfd = os.pidfd_open(pid)
    try:
        if is_meant(pid):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
