"""Sockets that are there before the process: taken by systemd's rules, or refused with what is wrong."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest

from pymesh_proxy.transport.handed_in import handed_in

SCRIPT = """
import os, socket, sys
from pymesh.errors import MeshError
from pymesh_proxy.transport.handed_in import handed_in
environ = dict(pair.split("=") for pair in sys.argv[1:])
try:
    found = handed_in({**environ, "LISTEN_PID": environ.get("LISTEN_PID", str(os.getpid()))}, os.getpid())
except MeshError as error:
    sys.exit(f"refused: {error}")
for port, sock in found.items():
    print(port, sock.getsockname()[1], sock.getblocking(), os.get_inheritable(sock.fileno()))
"""


def in_a_process(*sockets: socket.socket, **environ: str) -> str:
    """What a process says that has `sockets` from descriptor 3 on."""
    fds = [sock.fileno() for sock in sockets]
    beyond = max([9, *fds]) + 1
    mover = f"""
        import os, sys
        for place, fd in enumerate({fds}): os.dup2(fd, {beyond} + place)
        for place in range({len(fds)}): os.dup2({beyond} + place, 3 + place, True)
        os.execv(sys.executable, [sys.executable, "-c", {SCRIPT!r}, *sys.argv[1:]])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(mover), *(f"{name}={value}" for name, value in environ.items())],
        capture_output=True,
        text=True,
        pass_fds=fds,
        timeout=30,
        check=False,
    )
    return done.stdout + done.stderr


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def test_each_socket_stands_for_the_port_it_is_named_after() -> None:
    with listening() as first, listening() as second:
        said = in_a_process(first, second, LISTEN_FDS="2", LISTEN_FDNAMES="8080:8443")
        ports = [sock.getsockname()[1] for sock in (first, second)]
    assert said.splitlines() == [f"8080 {ports[0]} False False", f"8443 {ports[1]} False False"]


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    assert handed_in({"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "8080"}, os.getpid()) == {}
    assert handed_in({}, os.getpid()) == {}


@pytest.mark.parametrize(
    ("count", "names", "problem"),
    [
        ("1", "http", "'http' is not the port"),
        ("2", "8080:8080", "there twice"),
        ("1", "0", "'0' is not the port"),
        ("2", "8080", "each socket needs one"),
        ("many", "8080", "each socket needs one"),
    ],
)
def test_names_that_are_no_ports(count: str, names: str, problem: str) -> None:
    with listening() as first, listening() as second:
        assert problem in in_a_process(first, second, LISTEN_FDS=count, LISTEN_FDNAMES=names)


def test_a_socket_that_does_not_listen() -> None:
    with socket.socket() as sock:
        assert "does not listen for TCP" in in_a_process(sock, LISTEN_FDS="1", LISTEN_FDNAMES="8080")


def test_a_descriptor_that_is_not_there() -> None:
    assert "is none" in in_a_process(LISTEN_FDS="1", LISTEN_FDNAMES="8080")
