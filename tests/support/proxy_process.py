"""`pymesh-proxy` as a process of its own, and its admin port.

    with ProxyProcess("--config", str(path)) as proxy:
        assert proxy.get("/ready").status == 200

On loopback its ports are free ones; in a pod (`namespace`) they are the usual ones, as in a cluster.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from pymesh import names
from tests.support.netns import Pod
from tests.support.waiting import eventually_sync

PYMESH_PROXY = (sys.executable, "-m", "pymesh_proxy")
PYMESH_INIT = (sys.executable, "-m", "pymesh_proxy.redirect")
PROXY_UID = 1337
# Seconds for a start on a busy machine: the protobuf modules take half a second of CPU.
START_TIMEOUT = 20.0


@dataclass(frozen=True)
class Answer:
    """What an HTTP port said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class ProxyProcess:
    """A proxy that runs, ready when the block is entered; killed at the latest when it is left.

    Attributes:
        log: what it wrote to stderr so far, lines with their end.
    """

    def __init__(
        self,
        *arguments: str,
        namespace: Pod | None = None,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        """`wrapper` is a command that executes the rest of its command line, on loopback only."""
        self._namespace = namespace
        self._env = None if env is None else {**os.environ, **env}
        self.admin = names.PORT_ADMIN if namespace else free_port()
        ports: Sequence[str] = ()
        if namespace is None:
            ports = ["--admin", f"127.0.0.1:{self.admin}", "--metrics-port", "0", "--readiness-port", "0"]
        self._argv = [*wrapper, *PYMESH_PROXY, *arguments, *ports]
        self.log: list[str] = []
        self.process: subprocess.Popen[str]
        self._reader: threading.Thread

    def __enter__(self) -> Self:
        if self._namespace is None:
            self.process = subprocess.Popen(
                self._argv, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=self._env
            )
        else:
            self.process = self._namespace.popen(self._argv, user=PROXY_UID, stderr=subprocess.PIPE, env=self._env)
        self._reader = threading.Thread(target=self._collect)
        self._reader.start()
        try:
            eventually_sync(self._ready, what="a ready proxy", timeout=START_TIMEOUT)
        except BaseException as error:
            self.__exit__(None, None, None)
            raise AssertionError(f"no ready proxy: {error}\n{''.join(self.log)}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stderr:
            self.process.stderr.close()

    def _collect(self) -> None:
        assert self.process.stderr
        self.log.extend(self.process.stderr)

    def _ready(self) -> bool:
        assert self.process.poll() is None, "it has ended"
        return self.get("/ready").status == 200

    def logged(self, words: str) -> bool:
        """Whether a line of the log has `words`."""
        return any(words in line for line in list(self.log))

    # --- The admin port ---

    def get(self, path: str, method: str = "GET") -> Answer:
        """Ask the admin port."""
        return self.ask(self.admin, path, method)

    def ask(self, port: int, path: str, method: str = "GET") -> Answer:
        """Ask a port of the proxy on loopback."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with self._inside():
            connection.connect()
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        if self._namespace is None:
            yield
        else:
            with self._namespace.entered():
                yield

    def requests(self) -> list[dict[str, Any]]:
        """The last requests, oldest first."""
        return list(self.get("/requests?limit=500").json)

    def counter(self, name: str, **labels: str) -> float:
        """The sum of a sample over all labels that are not given; 0 if there is none."""
        found = 0.0
        for family in text_string_to_metric_families(self.get("/stats/prometheus").text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    found += sample.value
        return found

    def in_flight(self) -> dict[str, float]:
        """Every count of things in flight that is not zero, idle upstream connections apart."""
        found: dict[str, float] = {}
        idle = 0
        for row in self.get("/clusters?format=json").json:
            for endpoint in row["endpoints"]:
                idle += endpoint["idle"]
                if endpoint["active"]:
                    found[f"{row['cluster']} {endpoint['address']}"] = endpoint["active"]
        for family in text_string_to_metric_families(self.get("/stats/prometheus").text):
            for sample in family.samples:
                if sample.name.endswith("_active") and sample.value:
                    found[sample.name] = found.get(sample.name, 0.0) + sample.value
        pooled = found.pop("envoy_cluster_upstream_cx_active", 0.0)
        if pooled != idle:
            found["upstream connections neither idle nor in use"] = pooled - idle
        if connections := int(self.get("/connections").text):
            found["connections"] = connections
        return found

    def settled(self) -> None:
        """Wait until nothing is in flight; fails with what is."""
        eventually_sync(lambda: not self.in_flight(), what=f"nothing in flight, but {self.in_flight()}")

    def memory(self) -> int:
        """Resident memory in bytes (proc(5): VmRSS)."""
        with open(f"/proc/{self.process.pid}/status") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    # --- The end ---

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(timeout=20)


def run_to_its_end(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`pymesh-proxy` with arguments that make it end by itself."""
    return subprocess.run([*PYMESH_PROXY, *arguments], capture_output=True, text=True, timeout=30)
