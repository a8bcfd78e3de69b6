"""A real pymesh-controlplane on loopback, and the clients that talk to it."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from pymesh import istio_ca
from tests.controlplane.citadel.support import Tokens, csr_for, key_pem, new_key
from tests.support.waiting import eventually_sync

SERVER_NAME = "pilot.pymesh-system.svc"


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
