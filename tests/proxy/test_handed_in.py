"""A proxy that is started with listening sockets: it serves them by the listeners of the ports that they stand for."""

import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inprocess import bootstrap, http_listener
from tests.support.proxy_process import free_port

# Puts the sockets where systemd would, and becomes the proxy.
STARTER = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
copies = [os.dup(fd) for fd in fds]
high = [os.dup2(fd, 100 + place) for place, fd in enumerate(copies)]
for place, fd in enumerate(high):
    os.dup2(fd, 3 + place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.executable, [sys.executable, "-m", "pymesh_proxy", *sys.argv[3:]])
"""
PATIENCE = 30  # seconds; the proxy starts meanwhile


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Ports of two sockets of a proxy: one for its listener, one for a port that it has no listener for."""
    listener = http_listener([{"match": {"prefix": "/"}, "direct_response": {"status": 200}}])
    listener["address"]["socket_address"]["port_value"] = own = free_port()
    config = tmp_path / "bootstrap.json"
    config.write_text(bootstrap([listener], []))
    with socket.create_server(("127.0.0.1", 0)) as served, socket.create_server(("127.0.0.1", 0)) as unserved:
        fds = [served.fileno(), unserved.fileno()]
        options = ["--config", str(config), "--admin", "127.0.0.1:0", "--metrics-port", "0", "--readiness-port", "0"]
        process = subprocess.Popen(
            [sys.executable, "-c", STARTER, ",".join(map(str, fds)), f"{own}:9", *options],
            pass_fds=fds,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            yield served.getsockname()[1], unserved.getsockname()[1]
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0


def test_what_connects_before_the_proxy_is_ready_waits_and_is_served(sockets: tuple[int, int]) -> None:
    served, unserved = sockets
    connection = http.client.HTTPConnection("127.0.0.1", served, timeout=PATIENCE)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    with socket.create_connection(("127.0.0.1", unserved), timeout=PATIENCE) as nobodys:
        assert nobodys.recv(1) == b""  # closed at once, and not left to wait for ever
