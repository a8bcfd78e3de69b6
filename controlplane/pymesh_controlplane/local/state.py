"""What a mesh leaves on the disk while it runs, who owns it, and how all of it goes away again.

The directory names everything: the supervisor by process number and start time; the network namespaces carry the mesh's
name; every process of a pod lives in one of them. So a mesh can be removed by anyone who has its name, whether its
supervisor still runs, was killed, or never came up.
"""

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymesh.errors import MeshError
from pymesh_controlplane.local import network, processes

RUN: Final = Path("/run/pymesh")
# Without a dash, so that `pymesh-<mesh>-` is a prefix of no other mesh's names; short, since it is in many of them.
MESH_NAME: Final = re.compile(r"[a-z0-9]{1,20}")

# Seconds that the supervisor has to end its pods when it is asked to; then it is killed and swept away.
SHUTDOWN_TIMEOUT: Final = 20.0


@dataclass(frozen=True, slots=True)
class State:
    """The paths of one mesh's state directory."""

    mesh: str

    @property
    def root(self) -> Path:
        """The directory itself, 0700."""
        return RUN / self.mesh

    @property
    def config(self) -> Path:
        """What pilot watches."""
        return self.root / "config"

    @property
    def applied(self) -> Path:
        """What the operator applied."""
        return self.config / "applied"

    @property
    def secrets(self) -> Path:
        """What of it is for pilot alone: Secrets. The control plane's user owns it."""
        return self.config / "secrets"

    @property
    def observed(self) -> Path:
        """What the runtime observed."""
        return self.config / "observed"

    @property
    def pods(self) -> Path:
        """Logs and volumes, `<namespace>/<pod>/…`."""
        return self.root / "pods"

    @property
    def tokens(self) -> Path:
        """The token signing key and its public half."""
        return self.root / "tokens"

    @property
    def citadel(self) -> Path:
        """The certificate authority's own directory; the control plane's user owns it."""
        return self.root / "citadel"

    def last_good(self, part: str) -> Path:
        """Where `part` keeps the last good version of what it reads; the control plane's user owns it."""
        return self.root / "last-good" / part

    @property
    def shared(self) -> Path:
        """What the control plane writes for the runtime: the root certificate."""
        return self.root / "shared"

    @property
    def staging(self) -> Path:
        """An empty directory, on which containers build their roots in mount namespaces of their own."""
        return self.root / "root"

    @property
    def temporary(self) -> Path:
        """Files before they are renamed to where they are watched."""
        return self.root / "tmp"

    @property
    def socket(self) -> Path:
        """Where the supervisor answers."""
        return self.root / "supervisor.sock"

    @property
    def log(self) -> Path:
        """What the supervisor itself says."""
        return self.root / "supervisor.log"

    @property
    def owner(self) -> Path:
        """Who the supervisor is."""
        return self.root / "supervisor.json"


def named(mesh: str) -> State:
    """The state of the mesh of that name, whether it exists or not.

    Raises:
        MeshError: no mesh can have this name.
    """
    if MESH_NAME.fullmatch(mesh) is None:
        raise MeshError(f"{mesh!r} cannot be the name of a mesh: use 1 to 20 lower case letters and digits")
    return State(mesh)


def create(state: State) -> None:
    """Make the directory, empty and for root alone.

    Raises:
        MeshError: it cannot be made, or is there already.
    """
    try:
        RUN.mkdir(mode=0o700, exist_ok=True)
        state.root.mkdir(mode=0o700)
        for path in (
            state.config,
            state.applied,
            state.secrets,
            state.observed,
            state.pods,
            state.tokens,
            state.citadel,
        ):
            path.mkdir()
        for path in (state.shared, state.staging, state.temporary):
            path.mkdir()
    except FileExistsError:
        raise MeshError(f"{state.root} exists: pymesh down --mesh {state.mesh} removes it") from None
    except OSError as error:
        raise MeshError(f"{error.filename}: {error.strerror}") from None


def claim(state: State) -> int:
    """Record the calling process as the supervisor; the lock is held as long as the returned descriptor is open.

    Raises:
        MeshError: another process is.
    """
    descriptor = os.open(state.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise MeshError(f"mesh {state.mesh} has a supervisor already") from None
    record = {"pid": os.getpid(), "start_time": processes.start_time(os.getpid())}
    temporary = state.temporary / "supervisor.json"
    temporary.write_text(json.dumps(record))
    temporary.replace(state.owner)
    return descriptor


def supervisor(state: State) -> int | None:
    """The process number of the running supervisor; None if there is none."""
    try:
        record = json.loads(state.owner.read_text())
        pid, start_time = int(record["pid"]), record["start_time"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if processes.start_time(pid) == start_time else None


def exists(state: State) -> bool:
    """Whether anything of the mesh is there: its directory, or a namespace with its name."""
    return state.root.exists() or bool(network.owned_namespaces(state.mesh))


def destroy(state: State, timeout: float = SHUTDOWN_TIMEOUT) -> None:
    """Remove everything that belongs to the mesh: its supervisor, processes, namespaces and files.

    The supervisor is asked first, and killed when `timeout` seconds are over.

    Raises:
        MeshError: something could not be removed; the text says what.
    """
    pid = supervisor(state)
    if pid is not None:
        _end(state, pid, timeout)
    network.remove_namespaces(state.mesh)
    if state.root.exists():
        shutil.rmtree(state.root, ignore_errors=True)
    with contextlib.suppress(OSError):
        RUN.rmdir()  # only if no other mesh is there
    if exists(state):
        left = [str(state.root)] if state.root.exists() else network.owned_namespaces(state.mesh)
        raise MeshError(f"could not remove {', '.join(left)}")


def _end(state: State, pid: int, timeout: float) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if supervisor(state) != pid:
            return
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not select.select([pidfd], [], [], timeout)[0]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], network.KILL_TIMEOUT)
    finally:
        os.close(pidfd)
