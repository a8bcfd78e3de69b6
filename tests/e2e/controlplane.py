"""A real pymesh-controlplane on loopback, and the clients that talk to it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from pymesh import istio_ca
from pymesh.xds.types import CLUSTER
from tests.controlplane.citadel.support import Tokens, csr_for, key_pem, new_key
from tests.support.waiting import eventually_sync

SERVER_NAME = "pilot.pymesh-system.svc"
DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


@dataclass
class Place:
    """The folders of one control plane on one machine; they outlive its process."""

    root: Path
    tokens: Tokens = field(init=False)

    def __post_init__(self) -> None:
        self.config.mkdir()
        self.tokens = Tokens(self.root)
        self.tokens.publish()

    @property
    def config(self) -> Path:
        """What pilot watches."""
        return self.root / "config"

    @property
    def citadel(self) -> Path:
        """The CA."""
        return self.root / "citadel"

    @property
    def root_cert(self) -> Path:
        """What pods mount."""
        return self.root / "root-cert.pem"

    def command(self, *more: str, xds: int = 0, tls: int = 0, http: int = 0, mesh: int = 0) -> list[str]:
        """The command line; port 0 is any free one."""
        return [
            sys.executable, "-m", "pymesh_controlplane", "--listen", "127.0.0.1",
            "--config-dir", str(self.config), "--ca-dir", str(self.citadel), "--jwks", str(self.tokens.jwks),
            "--root-cert-out", str(self.root_cert),
            "--xds-port", str(xds), "--tls-port", str(tls), "--http-port", str(http), "--mesh-port", str(mesh), *more,
        ]  # fmt: skip


class Ground(Protocol):
    """What a control plane stands on. `root` is a folder of its own, `root_cert` a file that has the mesh's root."""

    root: Path

    @property
    def root_cert(self) -> Path: ...

    def command(self, *more: str) -> list[str]:
        """The command line."""
        ...


@dataclass
class Running:
    """A control plane that serves."""

    place: Ground
    process: subprocess.Popen[bytes]
    log: Path
    ports: dict[str, int]

    def get(self, path: str) -> str:
        """A page of port 15014."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http']}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    def metric(self, name: str) -> float:
        """A sample of /metrics, 0 if it is not there."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def syncz(self) -> list[dict[str, object]]:
        """Who is connected, and what each has taken."""
        proxies: list[dict[str, object]] = json.loads(self.get("/debug/syncz"))
        return proxies

    def channel(self, key: ec.EllipticCurvePrivateKey | None = None, chain: Sequence[str] = ()) -> grpc.Channel:
        """A channel to the TLS port, with a client certificate if there is one."""
        credentials = grpc.ssl_channel_credentials(
            self.place.root_cert.read_bytes(), key and key_pem(key), "".join(chain).encode() or None
        )
        options = [("grpc.ssl_target_name_override", SERVER_NAME)]
        return grpc.secure_channel(f"127.0.0.1:{self.ports['tls']}", credentials, options=options)

    def sign(
        self, token: str | None, *, csr: bytes | None = None, lifetime: int = 0, channel: grpc.Channel | None = None
    ) -> tuple[str, ...]:
        """What CreateCertificate answers to a CSR; raises grpc.RpcError."""
        with channel or self.channel() as used:
            call = used.unary_unary(
                istio_ca.PATH,
                request_serializer=istio_ca.encode_request,
                response_deserializer=istio_ca.decode_response,
            )
            metadata = [("authorization", f"Bearer {token}")] if token is not None else []
            request = istio_ca.CertificateRequest((csr or csr_for(new_key())).decode(), lifetime)
            chain: tuple[str, ...] = call(request, metadata=metadata, timeout=10)
        return chain


@contextmanager
def running(place: Ground, *more: str, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """A control plane that serves; afterwards it ends by SIGTERM, with status 0, unless it ended before."""
    log = place.root / "controlplane.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            place.command(*more), stdout=output, stderr=output, env={**os.environ, **(environment or {})}
        )
    try:

        def serving() -> dict[str, int]:
            assert process.poll() is None, log.read_text()
            line = re.search(r"serving ((?:\w+=\d+ ?)+)", log.read_text())
            assert line is not None, log.read_text()
            return {name: int(port) for name, port in (pair.split("=") for pair in line[1].split())}

        yield Running(place, process, log, eventually_sync(serving, what="the control plane", timeout=30))
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


class Proxy:
    """A client of the discovery service, over delta, with everything it says and hears as messages."""

    def __init__(
        self, channel: grpc.Channel, token: str | None, account: str = "reviews", *, name: str = "reviews-v1-0"
    ) -> None:
        self._say: list[DeltaDiscoveryRequest] = []
        node = Node(id=f"sidecar~10.244.0.7~{name}.default~default.svc.cluster.local", user_agent_name="envoy")
        node.metadata.update({"NAMESPACE": "default", "SERVICE_ACCOUNT": account})
        self._say.append(DeltaDiscoveryRequest(type_url=CLUSTER, node=node))
        self._done = False
        metadata = [("authorization", f"Bearer {token}")] if token is not None else []
        self._call = channel.stream_stream(
            DELTA,
            request_serializer=DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=DeltaDiscoveryResponse.FromString,
        )(self._requests(), metadata=metadata)

    def _requests(self) -> Iterator[DeltaDiscoveryRequest]:
        while not self._done:
            if self._say:
                yield self._say.pop(0)
            else:
                time.sleep(0.01)

    def hear(self) -> DeltaDiscoveryResponse:
        """The next response, which is acknowledged; raises grpc.RpcError."""
        response: DeltaDiscoveryResponse = next(self._call)
        self._say.append(DeltaDiscoveryRequest(type_url=CLUSTER, response_nonce=response.nonce))
        return response

    def close(self) -> None:
        """End the stream."""
        self._done = True
        self._call.cancel()


def names_in(response: DeltaDiscoveryResponse) -> set[str]:
    """Of the resources."""
    return {resource.name for resource in response.resources}


def answers_http(port: int) -> bool:
    """Whether HTTP/1.1 is spoken there."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: inner\r\n\r\n")
        return connection.recv(5) == b"HTTP/"


def listening_ports(pid: int) -> set[int]:
    """TCP ports on which a process listens, as the kernel tells."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(entry.readlink()))
    ours = {link[8:-1] for link in links if link.startswith("socket:[")}
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in ours:
                ports.add(int(columns[1].rpartition(":")[2], 16))
    return ports


def failure(place: Place, *more: str, xds: int = 0, tls: int = 0, http: int = 0) -> str:
    """The one line that a control plane which cannot start leaves; its status is 1."""
    command = place.command(*more, xds=xds, tls=tls, http=http)
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("pymesh-controlplane: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0].removeprefix("pymesh-controlplane: ")


class PolicyOnly(Place):
    """A place where nothing else runs."""

    def command(self, *more: str, xds: int = 0, tls: int = 0, http: int = 0, mesh: int = 0) -> list[str]:
        program = [sys.executable, "-m", "pymesh_controlplane", "--listen", "127.0.0.1", "--components", "policy"]
        ports = ["--http-port", str(http), "--mesh-port", str(mesh)]
        return [*program, "--config-dir", str(self.config), *ports, *more]


def still_serves(plane: Running) -> None:
    """All three ports answer, and nothing has gone wrong inside."""
    assert plane.get("/ready") == "ready\n"
    assert plane.sign(plane.place.tokens.token())
    with grpc.insecure_channel(f"127.0.0.1:{plane.ports['xds']}") as channel:
        proxy = Proxy(channel, None)
        assert proxy.hear().type_url == CLUSTER
        proxy.close()
    assert "Traceback" not in plane.log.read_text()
