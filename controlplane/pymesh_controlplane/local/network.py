"""The network of a local mesh: one namespace as switch and router, one for each pod, and nothing on the host.

A pod's address is a /32 and its only route leads through the mesh namespace, so both directions of every connection
pass the same conntrack: a cluster IP can be translated for a pod that sits on the same bridge. What to run is computed
by pure functions; `Network` runs it with `ip` and `iptables-restore`.
"""

import asyncio
import contextlib
import ipaddress
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymesh.errors import MeshError
from pymesh_controlplane.local import kernel, processes

NAMESPACES: Final = Path("/run/netns")
POD_NETWORK: Final = ipaddress.IPv4Network("10.244.0.0/16")
SERVICE_NETWORK: Final = ipaddress.IPv4Network("10.96.0.0/16")
GATEWAY: Final = "10.244.0.1"
DNS_ADDRESS: Final = "10.96.0.10"
BRIDGE: Final = "pymesh0"
BRIDGE_NETFILTER: Final = "net/bridge/bridge-nf-call-iptables"

# Seconds. Each of these commands takes milliseconds; one that takes this long hangs.
COMMAND_TIMEOUT: Final = 20.0
# Seconds. A process that outlives SIGKILL this long hangs in the kernel; its namespace's name is removed all the same.
KILL_TIMEOUT: Final = 5.0
# The programs that are needed, and the Debian packages they come in.
PROGRAMS: Final = {"ip": "iproute2", "iptables-restore": "iptables"}


@dataclass(frozen=True, slots=True)
class Frontend:
    """One port of a Service, and the pods that answer it; no backends means that connections are refused."""

    address: str
    port: int
    protocol: str
    backends: tuple[tuple[str, int], ...]


def mesh_namespace(mesh: str) -> str:
    """Name of the namespace with the bridge of `mesh`. It has no dot, and so is never a pod's."""
    return f"pymesh-{mesh}-mesh"


def pod_namespace(mesh: str, namespace: str, pod: str) -> str:
    """Name of the network namespace of a pod, for `ip netns exec`."""
    return f"pymesh-{mesh}-{pod}.{namespace}"


def owned_namespaces(mesh: str) -> list[str]:
    """The network namespaces on this machine that belong to `mesh`; its name has no dash, so the prefix is its own."""
    if not NAMESPACES.is_dir():
        return []
    return sorted(entry.name for entry in NAMESPACES.iterdir() if entry.name.startswith(f"pymesh-{mesh}-"))


class AddressPool:
    """Hands out pod addresses one after the other, so that one is reused as late as possible."""

    def __init__(self) -> None:
        self._last = int(ipaddress.IPv4Address(GATEWAY))

    def take(self, used: set[str]) -> str:
        """An address that is not in `used`.

        Raises:
            MeshError: there is none.
        """
        first, last = int(ipaddress.IPv4Address(GATEWAY)) + 1, int(POD_NETWORK.broadcast_address) - 1
        for _ in range(first, last + 1):
            self._last = self._last + 1 if self._last < last else first
            address = str(ipaddress.IPv4Address(self._last))
            if address not in used:
                return address
        raise MeshError(f"all addresses of {POD_NETWORK} are taken")


def mesh_commands() -> list[str]:
    """What makes the mesh namespace a switch and a router, as lines for `ip -batch`."""
    return [
        "link set lo up",
        # Without an address of its own a bridge takes the lowest of its ports', which changes as pods come and go; the
        # others would send to the old one until their ARP entries expire.
        f"link add {BRIDGE} address {mac_address(GATEWAY)} type bridge",
        f"address add {GATEWAY}/{POD_NETWORK.prefixlen} dev {BRIDGE}",
        f"link set {BRIDGE} up",
        f"address add {DNS_ADDRESS}/32 dev lo",
        # So that a cluster IP without endpoints reaches FORWARD, where it is refused, and not "no route to host".
        f"route add {SERVICE_NETWORK} dev {BRIDGE}",
    ]


def pod_link_commands(namespace: str, address: str) -> list[str]:
    """What connects a pod's namespace with the bridge; run in the mesh namespace."""
    link = link_name(address)
    return [
        f"link add {link} type veth peer name eth0 address {mac_address(address)} netns {namespace}",
        f"link set {link} master {BRIDGE} up",
    ]


def pod_commands(address: str) -> list[str]:
    """What gives a pod its address and its way out; run in the pod's namespace."""
    return [
        "link set lo up",
        f"address add {address}/32 dev eth0",
        "link set eth0 up",
        f"route add {GATEWAY} dev eth0 scope link",
        f"route add default via {GATEWAY}",
    ]


def link_name(address: str) -> str:
    """Name of a pod's link on the bridge: at most 15 characters, and the address can be read from it."""
    third, fourth = address.split(".")[2:]
    return f"pod{third}-{fourth}"


def mac_address(address: str) -> str:
    """The hardware address of a pod: made from its IP, so that a reused IP never waits for a stale ARP entry."""
    return "0a:58:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def rules(frontends: Iterable[Frontend], pods: Iterable[str], leaving: Iterable[str]) -> str:
    """Input for `iptables-restore` in the mesh namespace: cluster IPs to endpoints, and who may leave the mesh.

    A mesh has no way out of its own. Where somebody has given its namespace one (a link to another network), only the
    egress gateways' pods may take it, whatever runs in the others, with or without a sidecar; and nobody comes in by
    it. It is what a NetworkPolicy would be in a cluster.

    Args:
        frontends: the ports of all Services that have a cluster IP.
        pods: addresses of all pods. A pod that reaches itself through a Service would get packets from its own address,
            which its kernel drops; those are masqueraded.
        leaving: addresses of the pods that may open connections to what is not of the mesh.
    """
    lines = ["*nat", ":PREROUTING ACCEPT [0:0]", ":POSTROUTING ACCEPT [0:0]"]
    for front in frontends:
        match = f"-A PREROUTING -d {front.address}/32 -p {front.protocol.lower()} --dport {front.port}"
        for index, (address, port) in enumerate(front.backends):
            left = len(front.backends) - index
            chance = f" -m statistic --mode random --probability {1 / left:.8f}" if left > 1 else ""
            lines.append(f"{match}{chance} -j DNAT --to-destination {address}:{port}")
    lines += [f"-A POSTROUTING -s {pod}/32 -d {pod}/32 -j MASQUERADE" for pod in pods]
    lines += ["COMMIT", "*filter", ":FORWARD ACCEPT [0:0]", ":INPUT ACCEPT [0:0]"]
    # What PREROUTING has not translated has no endpoints: refused at once instead of a timeout.
    lines += [f"-A FORWARD -d {SERVICE_NETWORK} -j REJECT --reject-with icmp-port-unreachable"]
    lines += [f"-A FORWARD -i {BRIDGE} -o {BRIDGE} -j ACCEPT"]
    lines += [f"-A FORWARD -i {BRIDGE} -s {pod}/32 -j ACCEPT" for pod in leaving]
    lines += ["-A INPUT -i lo -j ACCEPT", f"-A INPUT -i {BRIDGE} -j ACCEPT"]
    for chain in ("FORWARD", "INPUT"):
        lines += [f"-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"]
        lines += [f"-A {chain} -j REJECT --reject-with icmp-admin-prohibited"]
    lines += ["COMMIT"]
    return "\n".join(lines) + "\n"


def check_programs(path: str) -> None:
    """Find the programs that the network is made with in `path`, a value of PATH.

    Raises:
        MeshError: one is missing; the text names the package to install, or where it is.
    """
    for name, package in PROGRAMS.items():
        if shutil.which(name, path=path):
            continue
        elsewhere = shutil.which(name, path="/usr/sbin:/sbin")
        if elsewhere:
            raise MeshError(f"{name} is {elsewhere}, which PATH does not lead to: export PATH=$PATH:/usr/sbin")
        raise MeshError(f"{name} not found, and a local mesh needs it: apt-get install {package}")


class Network:
    """The namespaces of one mesh. Commands run in threads; every method may be called from the event loop."""

    def __init__(self, mesh: str) -> None:
        self.mesh = mesh
        self.namespace = mesh_namespace(mesh)
        self.path = NAMESPACES / self.namespace
        self._rules = ""

    async def create(self) -> None:
        """Make the mesh namespace.

        Raises:
            MeshError: a command failed; the text has its output.
        """
        await _run(["ip", "netns", "add", self.namespace])
        with kernel.network_namespace(self.path):
            _sysctl("net/ipv4/ip_forward", "1")
            # Pods on one bridge are routed to each other on purpose; nobody shall be told of a shorter way.
            _sysctl("net/ipv4/conf/all/send_redirects", "0")
            _sysctl("net/ipv4/conf/default/send_redirects", "0")
            _sysctl("net/ipv6/conf/default/disable_ipv6", "1")
            # Where Docker has loaded br_netfilter, bridged frames would be translated too, before they are routed.
            with contextlib.suppress(FileNotFoundError):
                _sysctl(BRIDGE_NETFILTER, "0")
        await _run(["ip", "-n", self.namespace, "-batch", "-"], mesh_commands())
        await self.serve([], [])

    async def add_pod(self, namespace: str, pod: str, address: str) -> Path:
        """Make a pod's namespace with `address`; its path.

        Raises:
            MeshError: a command failed; the text has its output.
        """
        name = pod_namespace(self.mesh, namespace, pod)
        await _run(["ip", "netns", "add", name])
        path = NAMESPACES / name
        with kernel.network_namespace(path):
            # Apps do not run as root, and still listen on port 80 as they do in containers.
            _sysctl("net/ipv4/ip_unprivileged_port_start", "0")
            # The redirect is IPv4's; a link-local IPv6 address would be a way around it.
            _sysctl("net/ipv6/conf/default/disable_ipv6", "1")
        await _run(["ip", "-n", self.namespace, "-batch", "-"], pod_link_commands(name, address))
        await _run(["ip", "-n", name, "-batch", "-"], pod_commands(address))
        return path

    async def remove_pod(self, namespace: str, pod: str, address: str) -> None:
        """End what still runs in a pod's namespace and delete it with its link. What is gone already is no error."""
        name = pod_namespace(self.mesh, namespace, pod)
        await asyncio.to_thread(_empty, NAMESPACES / name)
        with contextlib.suppress(MeshError):
            await _run(["ip", "-n", self.namespace, "link", "del", link_name(address)])
        with contextlib.suppress(MeshError):
            await _run(["ip", "netns", "del", name])

    async def serve(self, frontends: Sequence[Frontend], pods: Sequence[str], leaving: Sequence[str] = ()) -> None:
        """Translate exactly `frontends` and let only `leaving` out from now on; nothing is run if that is so already.

        Raises:
            MeshError: iptables refused; the rules stay as they were.
        """
        wanted = rules(frontends, pods, leaving)
        if wanted != self._rules:
            await _run(["ip", "netns", "exec", self.namespace, "iptables-restore", "-w", "5"], wanted.splitlines())
            self._rules = wanted

    def socket(self, kind: socket.SocketKind, namespace: Path | None = None) -> socket.socket:
        """A non-blocking IPv4 socket in `namespace`, by default the mesh's.

        Raises:
            OSError: the namespace does not exist (any more).
        """
        with kernel.network_namespace(namespace or self.path):
            sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        return sock


def remove_namespaces(mesh: str) -> int:
    """End every process in the namespaces of `mesh` and delete them; how many namespaces there were."""
    names = owned_namespaces(mesh)
    for name in names:
        _empty(NAMESPACES / name)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=COMMAND_TIMEOUT)
    return len(names)


def _empty(path: Path) -> None:
    """Kill until nothing is left: what is killed may have forked meanwhile, and needs a moment to be gone."""
    deadline = time.monotonic() + KILL_TIMEOUT
    while processes.kill_in_network_namespace(path) and time.monotonic() < deadline:
        time.sleep(0.005)


def _sysctl(name: str, value: str) -> None:
    Path("/proc/sys", name).write_text(value)


async def _run(command: Sequence[str], lines: Sequence[str] = ()) -> str:
    return await asyncio.to_thread(_run_blocking, command, "".join(f"{line}\n" for line in lines))


def _run_blocking(command: Sequence[str], text: str) -> str:
    try:
        done = subprocess.run(
            list(command), input=text, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
        )
    except FileNotFoundError:
        package = PROGRAMS.get(command[0], "")
        raise MeshError(f"{command[0]} not found: apt-get install {package}") from None
    except subprocess.TimeoutExpired:
        raise MeshError(f"{' '.join(command)}: no end within {COMMAND_TIMEOUT:g} s") from None
    if done.returncode != 0:
        raise MeshError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
