"""The two proxies under comparison, and what a client sees of each."""

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Final, Protocol

from tests.support.envoy import command
from tests.support.waiting import eventually_sync

BOOTSTRAP: Final = Path(__file__).with_name("bootstrap.yaml")
# Seconds that a client waits; every answer of the bootstrap comes within two.
CLIENT_TIMEOUT: Final = 10.0
# What differs on purpose, or between any two runs.
DIFFERENT: Final = {
    "date": "the time of the answer",
    "x-envoy-upstream-service-time": "milliseconds, compared as present or absent",
    "proxy-status": "pymesh says why it answered by itself (RFC 9209); Envoy says nothing unless told to",
    "content-length": "compared through the body; Envoy chunks its own empty answers to HEAD",
    "transfer-encoding": "see content-length",
}
DIFFERENT_UPSTREAM: Final = {
    "x-test": "what tells the two proxies apart",
    "x-request-id": "random, compared by its shape",
    "x-envoy-expected-rq-timeout-ms": "the time left, which at a retry depends on the pause before it",
    "content-length": "Envoy adds `content-length: 0` to requests without a body",
    "expect": "pymesh leaves 100-continue to the upstream; Envoy answers it itself",
}


@dataclass(frozen=True, slots=True)
class Situation:
    """One request, and the status that both proxies are expected to answer with."""

    name: str
    status: int
    path: str
    method: str = "GET"
    host: str = "any.test"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the response, and what the upstream saw, if it saw anything."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    upstream: Mapping[str, object] = field(default_factory=dict)

    def header(self, name: str) -> list[str]:
        """Every value of the response header `name`."""
        return [value for key, value in self.headers if key == name]

    def upstream_header(self, name: str) -> list[str]:
        """Every value of the request header `name`, as the upstream saw it."""
        found = self.upstream.get("headers", ())
        assert isinstance(found, (list, tuple))
        return [value for key, value in found if key == name]


@dataclass(frozen=True, slots=True)
class Side:
    """A proxy that runs: its name, its listener's port, and that of its admin interface if its bootstrap has one."""

    name: str
    port: int
    admin: int = 0

    def connect(self) -> http.client.HTTPConnection:
        """A connection of a client; head and body are written apart, so they must not wait for each other."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=CLIENT_TIMEOUT)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def ask(self, situation: Situation) -> Answer:
        """The answer to one request on a connection of its own."""
        connection = self.connect()
        try:
            return ask(connection, situation, self.name)
        finally:
            connection.close()


def ask(connection: http.client.HTTPConnection, situation: Situation, label: str) -> Answer:
    """The answer to one request on `connection`; `label` keeps the upstream's counts of two proxies apart."""
    connection.putrequest(situation.method, situation.path, skip_host=True, skip_accept_encoding=True)
    connection.putheader("host", situation.host)
    connection.putheader("x-test", f"{label} {situation.name}")
    for name, value in situation.headers:
        connection.putheader(name, value)
    if situation.chunked:
        connection.putheader("transfer-encoding", "chunked")
    elif situation.body:
        connection.putheader("content-length", str(len(situation.body)))
    connection.endheaders()
    if situation.chunked:
        middle = len(situation.body) // 2
        for piece in (situation.body[:middle], situation.body[middle:], b""):
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    else:
        connection.send(situation.body)
    response = connection.getresponse()
    body = response.read()
    headers = tuple((name.lower(), value) for name, value in response.getheaders())
    from_upstream = response.headers.get("content-type") == "application/json" and body
    return Answer(response.status, headers, body, json.loads(body) if from_upstream else {})


class Upstream(Protocol):
    """A server on a port of loopback."""

    port: int


@contextmanager
def both_proxies(folder: Path, a: Upstream, b: Upstream, bootstrap: str | None = None) -> Iterator[tuple[Side, Side]]:
    """Envoy and pymesh-proxy, each with `bootstrap` or that of this directory, in front of the same upstreams."""
    text = BOOTSTRAP.read_text() if bootstrap is None else bootstrap
    with _proxy("envoy", text, folder, a, b) as envoy, _proxy("pymesh", text, folder, a, b) as pymesh:
        yield envoy, pymesh


@contextmanager
def _proxy(name: str, bootstrap: str, folder: Path, a: Upstream, b: Upstream) -> Iterator[Side]:
    port, dead, admin = _free_port(), _free_port(), _free_port()
    config = folder / f"{name}.yaml"
    config.write_text(Template(bootstrap).safe_substitute(LISTEN=port, A=a.port, B=b.port, DEAD=dead, ADMIN=admin))
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(_command(name, config, admin), stdout=output, stderr=output)
    try:
        eventually_sync(lambda: _listening(port, process, log), what=f"{name} listening", timeout=30.0)
        yield Side(name, port, admin)
    finally:
        process.kill()
        process.wait()
        print(log.read_text())


def _command(name: str, config: Path, admin: int) -> list[str]:
    if name == "envoy":
        return command(config)
    off = ["--admin", f"127.0.0.1:{admin}", "--metrics-port", "0", "--readiness-port", "0"]
    return [sys.executable, "-m", "pymesh_proxy", "--config", str(config), *off]


def _listening(port: int, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"it ended with status {process.returncode}: {log.read_text()}")
    socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    return True


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
