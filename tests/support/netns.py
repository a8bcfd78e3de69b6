"""Pods for tests: network namespaces with an address, a default route and processes of their own, gone afterwards.

    with Network() as net:
        a, b = net.pod("a"), net.pod("b")
        b.popen([sys.executable, "server.py"], user=1337)
        a.run(["curl", "-s", f"http://{b.ip}:8080/"])
        with a.connect((b.ip, 8080)) as sock:
            ...

The pods hang on a bridge in a namespace of its own (`net.switch`, the place for tcpdump), which is also their default
route; nothing touches the host's interfaces, routes or firewall. Leaving the block kills every process inside and
deletes the namespaces. What a run left behind that was itself killed, the next `Network` removes.
"""

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

NAMESPACES = Path("/run/netns")
PREFIX = "pmtest"
CLONE_NEWNET = 0x40000000

# Seconds. `ip` and `iptables` answer in milliseconds; a command of a test gets what a starved machine needs.
COMMAND_TIMEOUT = 30.0

Address = tuple[str, int]
File = int | IO[bytes] | IO[str] | None

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


@dataclass
class Namespace:
    """A network namespace by its name in `ip netns`, and the processes started in it through `popen`."""

    name: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, argv: Sequence[str], *, user: int | None = None) -> list[str]:
        """`argv` as it has to be started to run in here, as uid and gid `user` if given, without other groups."""
        identity = [] if user is None else [f"--setuid={user}", f"--setgid={user}"]
        return ["nsenter", f"--net={NAMESPACES / self.name}", *identity, "--", *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        user: int | None = None,
        check: bool = True,
        input: str | None = None,  # noqa: A002  the name that subprocess.run gives it
        env: Mapping[str, str] | None = None,
        timeout: float = COMMAND_TIMEOUT,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in here to its end; output is captured as text.

        Raises:
            AssertionError: it failed and `check` is set; the text has its output.
        """
        done = subprocess.run(
            self.command(argv, user=user), capture_output=True, text=True, input=input, env=env, timeout=timeout
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)} in {self.name}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def popen(
        self,
        argv: Sequence[str],
        *,
        user: int | None = None,
        stdin: File = subprocess.DEVNULL,
        stdout: File = None,
        stderr: File = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> subprocess.Popen[str]:
        """Start `argv` in here, killed with the namespace at the latest. The pid is that of `argv` itself."""
        process = subprocess.Popen(
            self.command(argv, user=user), stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd, text=True
        )
        self.processes.append(process)
        return process

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Inside the block this thread is in here: sockets that it makes belong here, and stay so.

        Keep it short and never await in it: only the calling thread moves.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            there = os.open(NAMESPACES / self.name, os.O_RDONLY)
            try:
                _setns(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def connect(self, address: Address, *, source: Address | None = None, timeout: float = 5.0) -> socket.socket:
        """A TCP connection made in here by this process (root, so never the proxy's), as `socket.create_connection`."""
        with self.entered():
            return socket.create_connection(address, timeout=timeout, source_address=source)

    def listen(self, address: Address) -> socket.socket:
        """A listening TCP socket in here, as `socket.create_server`; port 0 lets the kernel choose."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        with self.entered():
            return socket.create_server(address, family=family)

    def kill_processes(self) -> None:
        """Kill everything that runs in here, whoever started it, and reap what `popen` started."""
        for process in self.processes:
            process.kill()  # also what has moved on to a namespace of its own
        for pid in _ip("netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for process in self.processes:
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self.processes.clear()

    def delete(self) -> None:
        """Kill what runs in here, then remove the namespace and with it its interfaces, routes and rules."""
        self.kill_processes()
        _ip("netns", "delete", self.name)


@dataclass
class Pod(Namespace):
    """A namespace with one interface, `eth0`, addresses, and a default route of each family through the switch."""

    ip: str = ""
    ipv6: str = ""


class Network:
    """A switch and its pods, in 10.77.0.0/24 and fd77::/64; every `Network` is a world of its own.

    Attributes:
        switch: the namespace of the bridge `br0`; it owns the gateway addresses and forwards.
        pods: by the name given to `pod`.
    """

    gateway = "10.77.0.1"
    gateway_ipv6 = "fd77::1"

    def __init__(self) -> None:
        self._label = f"{PREFIX}-{os.getpid()}-{_start_time(os.getpid())}-{next(_numbers)}"
        self.switch = Namespace(f"{self._label}-switch")
        self.pods: dict[str, Pod] = {}

    def __enter__(self) -> Self:
        remove_leftovers()
        switch = self.switch
        _ip("netns", "add", switch.name)
        try:
            # No duplicate address detection: an IPv6 address would be unusable for the first second or two.
            # No port of the bridge has anything to wait for either, so it forwards at once.
            switch.run(["sysctl", "-qw", *_NO_DAD, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
            _ip_in(
                switch,
                "link set lo up",
                "link add br0 type bridge forward_delay 0 mcast_snooping 0",
                f"address add {self.gateway}/24 dev br0",
                f"address add {self.gateway_ipv6}/64 dev br0 nodad",
                "link set br0 up",
            )
        except BaseException:
            switch.delete()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for namespace in (*self.pods.values(), self.switch):
            namespace.delete()

    def pod(self, name: str) -> Pod:
        """A new pod. Its addresses are the next free ones: 10.77.0.2 and fd77::2 for the first."""
        if name in self.pods:
            raise ValueError(f"there is a pod {name!r} already")
        number = len(self.pods) + 2
        pod = Pod(f"{self._label}-{name}", ip=f"10.77.0.{number}", ipv6=f"fd77::{number:x}")
        _ip("netns", "add", pod.name)
        self.pods[name] = pod
        pod.run(["sysctl", "-qw", *_NO_DAD])
        _ip_in(
            self.switch,
            f"link add v{number} type veth peer name eth0 netns {pod.name}",
            f"link set v{number} master br0 up",
        )
        _ip_in(
            pod,
            "link set lo up",
            "link set eth0 up",
            f"address add {pod.ip}/24 dev eth0",
            f"address add {pod.ipv6}/64 dev eth0 nodad",
            f"route add default via {self.gateway}",
            f"route add default via {self.gateway_ipv6} dev eth0",
        )
        return pod


_NO_DAD = ("net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")


def remove_leftovers() -> None:
    """Remove the namespaces of runs that are over: those whose process, known by pid and start time, is gone."""
    if not NAMESPACES.is_dir():
        return
    for path in NAMESPACES.glob(f"{PREFIX}-*"):
        pid, started = path.name.split("-")[1:3]
        if _start_time(int(pid)) != int(started):
            try:
                Namespace(path.name).delete()
            except AssertionError:
                if path.exists():  # else another run was as quick to clean up
                    raise


def _start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot (proc(5): /proc/pid/stat field 22); -1 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(stat.rpartition(")")[2].split()[19])  # the command's name, in brackets, may hold anything


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=COMMAND_TIMEOUT)
    if done.returncode:
        raise AssertionError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _ip_in(namespace: Namespace, *lines: str) -> None:
    """Run all `lines` of `ip` arguments in `namespace`, in one process."""
    namespace.run(["ip", "-batch", "-"], input="".join(f"{line}\n" for line in lines))
