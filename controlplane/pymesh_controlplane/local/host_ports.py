"""Ports of the machine that lead into pods.

A pod's network has no way to the machine's, and the machine's network is not changed. So the listening socket of a
`hostPort` is opened here, on the machine, and inherited by the container that has the port (`Launch.sockets`). It lives
as long as the workload does: what connects while a container is restarted waits in the socket's queue.
"""

import socket
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from pymesh.errors import ConfigError
from pymesh_controlplane.local.podspec import Container, PodSpec

# Connections that wait while nobody accepts; the kernel caps it at net.core.somaxconn.
BACKLOG: Final = 4096

# Namespace and name of the Pod or Deployment. Its pods share the sockets: each connection goes to one of them.
Owner = tuple[str, str]


class _Port(NamedTuple):
    listener: socket.socket
    owner: Owner


class HostPorts:
    """The sockets that are open, by address and port."""

    def __init__(self) -> None:
        self._ports: dict[tuple[str, int], _Port] = {}

    def reserve(self, owner: Owner, address: str, preferred: int) -> int:
        """Open `preferred`, or any free port if that is taken; which one it is.

        Raises:
            ConfigError: the address is none of this machine's, or no port is free.
        """
        try:
            return self._open(owner, address, preferred)
        except ConfigError:
            return self._open(owner, address, 0)

    def take(self, owner: Owner, spec: PodSpec) -> None:
        """Open what `spec` asks for and is not open yet.

        Raises:
            ConfigError: another workload, or another program, has the port.
        """
        for address, port in _wanted(spec):
            held = self._ports.get((address, port))
            if held is None:
                self._open(owner, address, port)
            elif held.owner != owner:
                other = "/".join(held.owner)
                raise ConfigError(f"port {port} of the machine ({address}) is {other}'s: choose another hostPort")

    def sockets(self, container: Container) -> dict[str, int]:
        """The file descriptors that a container inherits, by the name it knows them by: its own port."""
        found: dict[str, int] = {}
        for port in container.ports:
            held = self._ports.get((port.host_ip, port.host_port or 0))
            if held is not None:
                found[str(port.container_port)] = held.listener.fileno()
        return found

    def keep(self, owners: Collection[Owner]) -> None:
        """Close the sockets of all other workloads."""
        for key, port in list(self._ports.items()):
            if port.owner not in owners:
                port.listener.close()
                del self._ports[key]

    @staticmethod
    def of(spec: PodSpec) -> Mapping[str, int]:
        """The container's port that each port of the machine (`127.0.0.1:8080`) leads to."""
        ports = (port for container in spec.containers for port in container.ports if port.host_port)
        return {f"{port.host_ip}:{port.host_port}": port.container_port for port in ports}

    def _open(self, owner: Owner, address: str, port: int) -> int:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise ConfigError(f"port {port} of the machine ({address}) cannot be had: {error.strerror}") from error
        number = int(listener.getsockname()[1])
        self._ports[address, number] = _Port(listener, owner)
        return number


def _wanted(spec: PodSpec) -> list[tuple[str, int]]:
    ports = (port for container in spec.containers for port in container.ports)
    return [(port.host_ip, port.host_port) for port in ports if port.host_port is not None]
