"""What runs between the supervisor's fork and the exec of a container's command.

The supervisor starts this module in a fresh interpreter, with the file descriptor of a pipe; from it comes a `Launch`
as JSON, and into another goes one line if the command could not be started. An exec closes that pipe without a word.

Standard library only, without `site`: it stands between a pod and its start.
"""

import fcntl
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from pymesh_controlplane.local import kernel, rootfs

# As docker run and kubectl exec: 125 the environment could not be made, 126 not executable, 127 no such command.
EXIT_SETUP: Final = 125
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127

# Of the sockets that are handed in: SD_LISTEN_FDS_START.
FIRST_SOCKET: Final = 3

# What container runtimes leave to root by default, less MKNOD, AUDIT_WRITE and SETFCAP: the file system is read-only.
DEFAULT_CAPABILITIES: Final = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL"),
    *("SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT"),
)


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, and everything about the place and the user it runs as.

    `join` is the process whose namespaces are entered (exec into a running container); without it a container is made:
    `netns` is entered and a root is built at `staging` from `required` and `mounts`. `sockets` are file descriptors of
    listening sockets by name, which the command inherits as systemd would hand them to it: sd_listen_fds(3).
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    uid: int
    gid: int
    capabilities: Sequence[str] = DEFAULT_CAPABILITIES
    hostname: str = ""
    netns: str = ""
    staging: str = ""
    required: Sequence[str] = ()
    mounts: Sequence[rootfs.Mount] = field(default_factory=tuple)
    join: int = 0
    sockets: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The wire form, which `from_json` reads."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> "Launch":
        """The launch that `to_json` wrote."""
        document = json.loads(raw)
        document["mounts"] = [rootfs.Mount(**mount) for mount in document["mounts"]]
        return cls(**document)


def enter(launch: Launch) -> None:
    """Move the calling process, which must have one thread, to where `launch` runs.

    Raises:
        OSError: a namespace or a mount could not be had.
    """
    if launch.join:
        for name in ("net", "uts", "mnt"):
            with open(f"/proc/{launch.join}/ns/{name}", "rb") as namespace:  # noqa: PTH123  pathlib costs 5 ms here
                kernel.setns(namespace.fileno())
    else:
        with open(launch.netns, "rb") as namespace:  # noqa: PTH123  as above
            kernel.setns(namespace.fileno(), kernel.CLONE_NEWNET)
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS)
        kernel.set_hostname(launch.hostname)
        rootfs.build(rootfs.plan(launch.required, launch.mounts), launch.staging)
    os.chdir(launch.cwd)


def become(launch: Launch) -> None:
    """Give up every privilege that `launch` does not name. What follows can only be the exec."""
    for fd in (1, 2):
        if not os.isatty(fd):
            # So that the container's user may open /dev/stdout: programs that log to a file are pointed there.
            os.fchown(fd, launch.uid, launch.gid)
    kernel.keep_capabilities(launch.capabilities)
    kernel.forbid_new_privileges()
    os.setgroups([])
    os.setresgid(launch.gid, launch.gid, launch.gid)
    os.setresuid(launch.uid, launch.uid, launch.uid)
    os.umask(0o022)


def execute(launch: Launch) -> None:
    """Replace this process by the command.

    Raises:
        OSError: the command does not exist in the container or cannot be executed.
    """
    env = {**launch.env, **_hand_in(launch.sockets)}
    os.execvpe(launch.argv[0], list(launch.argv), env)  # noqa: S606  running a command is what this is for


def not_executed(launch: Launch, error: OSError) -> tuple[int, str]:
    """The exit status, and a sentence for people, of what `execute` raised; only where it did can this be told."""
    program = launch.argv[0]
    if not isinstance(error, FileNotFoundError):
        return EXIT_NOT_EXECUTABLE, f"{program} cannot be executed by user {launch.uid}: {error.strerror}"
    if "/" in program and os.path.exists(program):  # noqa: PTH110  pathlib costs 5 ms here
        return EXIT_NOT_FOUND, f"{program} is in the container, but not the interpreter that it names"
    return EXIT_NOT_FOUND, f"{program} is not in the container; PATH is {launch.env.get('PATH')}"


def _hand_in(sockets: Mapping[str, int]) -> dict[str, str]:
    """Put the sockets where sd_listen_fds(3) has them, from descriptor 3 on; the variables that say so."""
    if not sockets:
        return {}
    beyond = FIRST_SOCKET + len(sockets)
    # Copied out of the way first: one may stand where another belongs.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, beyond) for fd in sockets.values()]
    for fd in sockets.values():
        os.set_inheritable(fd, False)
    for place, fd in enumerate(copies, FIRST_SOCKET):
        os.dup2(fd, place, inheritable=True)
    names = ":".join(sockets)
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names}


def main() -> None:
    """`launch SPEC_FD ERROR_FD PARENT_PID`: run what is written on SPEC_FD."""
    spec_fd, error_fd, parent = (int(argument) for argument in sys.argv[1:4])
    with os.fdopen(spec_fd, "rb") as spec:
        launch = Launch.from_json(spec.read())
    # Closed by the exec, and out of the way of the sockets.
    os.set_inheritable(error_fd, False)
    error_fd = fcntl.fcntl(error_fd, fcntl.F_DUPFD_CLOEXEC, FIRST_SOCKET + len(launch.sockets))
    executing = False
    try:
        enter(launch)
        become(launch)
        # After the change of user, which would have cleared it; the parent may have ended before.
        kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            return
        executing = True
        execute(launch)
    except OSError as error:
        status, complaint = not_executed(launch, error) if executing else (EXIT_SETUP, str(error))
        os.write(error_fd, complaint.encode())
        os._exit(status)


if __name__ == "__main__":
    main()
