"""The machine's ports that lead into pods: whose they are, and until when."""

import os
import socket
import sys
from collections.abc import Iterator

import pytest

from pymesh.errors import ConfigError
from pymesh_controlplane.local import processes
from pymesh_controlplane.local.host_ports import HostPorts
from pymesh_controlplane.local.launch import Launch
from pymesh_controlplane.local.podspec import Container, ContainerPort, PodSpec

EDGE = ("pymesh-system", "ingressgateway")
OTHER = ("default", "edge")
HERE = "127.0.0.1"


def pod(*ports: tuple[int, int]) -> PodSpec:
    """One that has ports of the machine: (container's, machine's)."""
    listed = [ContainerPort(container_port=own, host_port=port) for own, port in ports]
    return PodSpec(containers=[Container(name="proxy", command=["pymesh-proxy"], ports=listed)])


@pytest.fixture
def host_ports() -> Iterator[HostPorts]:
    found = HostPorts()
    yield found
    found.keep(())


def connects(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((HERE, port)) == 0


def test_a_port_that_is_taken_gives_way_to_a_free_one(host_ports: HostPorts) -> None:
    with socket.create_server((HERE, 0)) as other:
        taken = other.getsockname()[1]
        port = host_ports.reserve(EDGE, HERE, taken)
        assert port != taken
        assert connects(port)
    free = HostPorts()
    assert free.reserve(EDGE, HERE, taken) == taken
    free.keep(())


def test_what_was_reserved_is_the_workloads_and_nobody_elses(host_ports: HostPorts) -> None:
    port = host_ports.reserve(EDGE, HERE, 0)
    host_ports.take(EDGE, pod((8080, port)))
    with pytest.raises(ConfigError, match=f"port {port} of the machine .* is pymesh-system/ingressgateway's"):
        host_ports.take(OTHER, pod((8080, port)))


def test_a_port_that_another_program_has_is_an_error(host_ports: HostPorts) -> None:
    with socket.create_server((HERE, 0)) as other, pytest.raises(ConfigError, match="Address already in use"):
        host_ports.take(OTHER, pod((8080, other.getsockname()[1])))


def test_pods_of_one_workload_share_the_socket_and_it_ends_with_the_workload(host_ports: HostPorts) -> None:
    port = host_ports.reserve(EDGE, HERE, 0)
    container = pod((8080, port)).containers[0]
    host_ports.take(EDGE, pod((8080, port)))
    before = host_ports.sockets(container)
    host_ports.take(EDGE, pod((8080, port)))
    assert host_ports.sockets(container) == before
    host_ports.keep({EDGE})
    assert connects(port)
    host_ports.keep({OTHER})
    assert host_ports.sockets(container) == {}
    assert not connects(port)


def test_what_people_are_shown() -> None:
    assert HostPorts.of(pod((8080, 18080), (8443, 18443))) == {"127.0.0.1:18080": 8080, "127.0.0.1:18443": 8443}


PRINT = """
import os, socket
names = os.environ["LISTEN_FDNAMES"].split(":")
sockets = [socket.socket(fileno=place) for place, _ in enumerate(names, 3)]
for name, sock in zip(names, sockets):
    print(name, sock.getsockname()[1], int(os.environ["LISTEN_PID"]) == os.getpid(), flush=True)
print(sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1], os.environ["LISTEN_FDS"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a container is made of namespaces, and joining one takes root")
def test_a_command_inherits_the_sockets_and_nothing_else(host_ports: HostPorts) -> None:
    ports = [host_ports.reserve(EDGE, HERE, 0) for _ in range(3)]
    container = pod(*zip((8080, 8443, 9000), ports, strict=True)).containers[0]
    host_ports.take(EDGE, pod(*zip((8080, 8443, 9000), ports, strict=True)))
    launch = Launch(
        argv=[sys.executable, "-c", PRINT],
        env={},
        cwd="/",
        uid=0,
        gid=0,
        join=os.getpid(),
        sockets=host_ports.sockets(container),
    )
    done = processes.run(launch)
    names = zip(("8080", "8443", "9000"), ports, strict=True)
    expected = [f"{name} {port} True" for name, port in names] + ["[0, 1, 2, 3, 4, 5] 3"]
    assert done.stdout.decode().splitlines() == expected, done.stderr
