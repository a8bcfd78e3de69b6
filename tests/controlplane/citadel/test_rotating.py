"""A root is replaced under traffic: the real control plane, what real sidecars and components follow it with, and
handshakes all the time, of which none may fail.
"""

import asyncio
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from pymesh.identity import Identity
from pymesh_controlplane import options
from pymesh_controlplane.app import start_on_one_machine
from pymesh_controlplane.citadel import client
from pymesh_controlplane.citadel.authority import Authority, Issued
from pymesh_controlplane.citadel.client import Certificate, Credentials, of_citadel
from pymesh_controlplane.citadel.following import Roots as FollowedRoots
from pymesh_controlplane.citadel.frontend import load_certificate, server_context
from pymesh_controlplane.local.http import fetch
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.running import Running
from pymesh_proxy.config.model import PeerValidation, SdsName, TlsClient, TlsServer
from pymesh_proxy.control import certificates
from pymesh_proxy.control.certificates import CertificateClient
from pymesh_proxy.control.channel import Channel
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.roots import RootsClient, TrustedRoots
from pymesh_proxy.control.secrets import Roots, SecretStore
from pymesh_proxy.control.target import ServerTls, Target, bearer_token
from pymesh_proxy.transport.tls import TlsContexts, verify_san
from tests.controlplane.citadel.support import Tokens
from tests.support.waiting import eventually

VALIDATION = PeerValidation(SdsName("ROOTCA"))
SERVER = TlsServer(SdsName("default"), VALIDATION, require_client_certificate=True)
CLIENT = TlsClient(SdsName("default"), VALIDATION)

# Makes the context of one side of one connection, as of now.
MakeContext = Callable[[], ssl.SSLContext]


@dataclass
class Mesh:
    """A control plane, and where pods find it."""

    folder: Path
    running: Running
    tokens: Tokens

    @property
    def roots(self) -> Path:
        """The file that pods mount."""
        return self.folder / "root-cert.pem"

    def token(self, pod: str) -> Path:
        """The token of a pod whose account has its name."""
        path = self.folder / f"{pod}.token"
        account = {"namespace": "default", "pod": {"name": pod}, "serviceaccount": {"name": pod}}
        identity = Identity("cluster.local", "default", pod)
        path.write_text(self.tokens.token(identity, **{"kubernetes.io": account}))
        return path

    async def ask(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """A page of the control plane."""
        address = ("127.0.0.1", self.running.ports.http or 0)
        sock = socket.socket()
        sock.setblocking(False)
        answer = await fetch(sock, address, path, limit=1024 * 1024, method=method)
        return answer.status, json.loads(answer.body)

    async def followed(self, by: int) -> None:
        """Wait until so many pods have said what they trust."""

        async def known() -> bool:
            _, said = await self.ask("GET", "/ca")
            return sum(item["trusts"] == said["version"] for item in said["workloads"]) == by

        await eventually(known, what=f"{by} followers", timeout=30)

    async def step(self, name: str) -> None:
        """Take a step as soon as that may be."""

        async def taken() -> bool:
            status, self.last = await self.ask("POST", f"/ca/{name}")
            return status == 200

        await eventually(taken, what=f"the step {name}", timeout=30)

    last: dict[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def mesh(folder: Path) -> AsyncIterator[Mesh]:
    """Citadel, composed as on one machine."""
    tokens = Tokens(folder)
    tokens.publish()
    given = options.parse(
        [
            "--components", "citadel", "--listen", "127.0.0.1", "--tls-port", "0", "--http-port", "0",
            "--ca-dir", str(folder / "ca"), "--jwks", str(tokens.jwks),
            "--root-cert-out", str(folder / "root-cert.pem"),
        ],
        {},
    )  # fmt: skip
    async with AsyncExitStack() as resources, asyncio.TaskGroup() as tasks:
        running = Running(given, tasks, resources)
        await start_on_one_machine(given, running)
        running.complete()
        try:
            yield Mesh(folder, running, tokens)
        finally:
            running.end()


class Sidecar:
    """The clients of a sidecar, put together as the proxy does, and its TLS contexts."""

    def __init__(self, mesh: Mesh, pod: str) -> None:
        self.store = SecretStore()
        self.contexts = TlsContexts(self.store)
        self.pod = pod
        node = Node(pod, "default", "10.0.0.7", pod, pod)
        roots = TrustedRoots(self.store, mesh.roots)
        tls = ServerTls(mesh.roots, "pilot.pymesh-system.svc", roots.pushed)
        target = Target("127.0.0.1", mesh.running.ports.tls or 0, tls=tls)
        self.channel = Channel(target, metadata=bearer_token(mesh.token(pod)))
        self.certificates = CertificateClient(
            self.channel, node, self.store, roots=roots, rng=random.Random(1), clock=_unix
        )
        self.roots = RootsClient(self.channel, node, self.store, roots, rng=random.Random(2))

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.certificates.run())
                group.create_task(self.roots.run())
        finally:
            await self.channel.close()

    def serves(self) -> ssl.SSLContext:
        return self.contexts.server(SERVER)

    def calls(self) -> ssl.SSLContext:
        return self.contexts.client(CLIENT, "endpoint")


class Component:
    """A part of the control plane in a pod of its own, as policy and telemetry are."""

    def __init__(self, mesh: Mesh, pod: str) -> None:
        target, token = f"localhost:{mesh.running.ports.tls}", mesh.token(pod)
        self.roots = FollowedRoots(target, token, mesh.roots, random.Random(3))
        obtain = of_citadel(target, token, self.roots.current)
        self.certificate = Certificate(obtain, Metrics(), source=target, clock=lambda: datetime.now(UTC))
        self.context: ssl.SSLContext | None = None

    def use(self, credentials: Credentials) -> None:
        self.context = server_context(credentials.roots, demand=True)
        load_certificate(self.context, credentials.chain, credentials.key)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.certificate.run(self.use))
            group.create_task(self.roots.follow(self.certificate))

    def serves(self) -> ssl.SSLContext:
        assert self.context is not None
        return self.context


def _unix() -> float:
    return datetime.now(UTC).timestamp()


class Connection:
    """mTLS between two sides in memory; the network between them takes its time."""

    def __init__(self) -> None:
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()

    async def open(self, calls: MakeContext, serves: MakeContext, rng: random.Random) -> str:
        """Who is at the other end, once each has shown the other a certificate that it trusts."""
        client = calls().wrap_bio(self.to_client, self.to_server, server_side=False)
        _advance(client)
        await asyncio.sleep(rng.uniform(0, 0.01))
        # As an accepted connection has it: the context is taken when the first bytes are there.
        server = serves().wrap_bio(self.to_server, self.to_client, server_side=True)
        while not (_advance(server) & _advance(client)):
            await asyncio.sleep(rng.uniform(0, 0.005))
        self.client, self.server = client, server
        assert self.echo(b"hello") == b"hello"
        assert verify_san(server, VALIDATION)
        return verify_san(client, VALIDATION)

    def echo(self, data: bytes) -> bytes:
        """There and back."""
        self.client.write(data)
        self.server.write(self.server.read(100))
        return self.client.read(100)


def _advance(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "ROTATION_SPREAD", 0.3)
    monkeypatch.setattr("pymesh_controlplane.app.SETTLE_ON_ONE_MACHINE", 0.0)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.05)
    issue = Authority.issue_server

    def issue_server(authority: Authority, names: tuple[str, ...], **given: Any) -> tuple[Issued, str]:
        return issue(authority, (*names, "localhost"), **given)

    # grpcio resolves the name that it holds the certificate against, and no resolver here knows `pilot`.
    monkeypatch.setattr(Authority, "issue_server", issue_server)


async def test_a_root_is_replaced_under_traffic_without_one_failed_handshake(tmp_path: Path) -> None:
    """Between sidecars both ways, and from a sidecar to a component; a connection from before lives through it all."""
    rng = random.Random(7)
    async with mesh(tmp_path) as there, asyncio.TaskGroup() as group:
        reviews, ratings, policy = Sidecar(there, "reviews"), Sidecar(there, "ratings"), Component(there, "policy")
        parts = [group.create_task(part.run()) for part in (reviews, ratings, policy)]
        await eventually(lambda: all(s.certificates.ready for s in (reviews, ratings)) and policy.context, timeout=30)
        pairs = [
            (reviews.calls, ratings.serves, "ratings"),
            (ratings.calls, reviews.serves, "reviews"),
            (reviews.calls, policy.serves, "policy"),
        ]
        await there.followed(by=3)
        old = Connection()
        await old.open(reviews.calls, ratings.serves, rng)
        before = (there.folder / "root-cert.pem").read_bytes()
        made = 0

        async def traffic() -> None:
            nonlocal made
            while True:
                calls, serves, name = rng.choice(pairs)
                assert (await Connection().open(calls, serves, rng)).endswith(f"/sa/{name}")
                assert old.echo(b"still") == b"still"
                made += 1

        callers = [group.create_task(traffic()) for _ in range(4)]
        counted = []
        for step in ("distribute", "sign", "retire"):
            await there.step(step)
            counted.append(made)
        await eventually(lambda: made > counted[-1] + 20, what="traffic after the last step")
        late = Sidecar(there, "late")
        parts.append(group.create_task(late.run()))
        await eventually(lambda: late.certificates.ready, what="a pod that starts with the new root alone", timeout=30)
        await Connection().open(late.calls, reviews.serves, rng)
        for task in (*callers, *parts):
            task.cancel()
    assert counted[0] < counted[1] < counted[2], "there was traffic at each step"
    after = there.roots.read_bytes()
    assert before not in after
    assert reviews.store.get("ROOTCA") == ratings.store.get("ROOTCA") == Roots(after)


async def test_a_step_waits_for_who_has_not_taken_the_one_before(tmp_path: Path) -> None:
    """A sidecar whose certificate cannot be renewed holds `retire` up, and is named."""
    async with mesh(tmp_path) as there, asyncio.TaskGroup() as group:
        sidecar = Sidecar(there, "reviews")
        renewing = group.create_task(sidecar.certificates.run())
        following = group.create_task(sidecar.roots.run())
        await eventually(lambda: sidecar.certificates.ready, timeout=30)
        await there.followed(by=1)
        await there.step("distribute")
        assert (await there.ask("POST", "/ca/distribute"))[0] == 409
        renewing.cancel()
        await there.step("sign")
        status, said = await there.ask("POST", "/ca/retire")
        assert (status, said["error"]) == (
            409,
            "1 of 1 workloads does not show a certificate of the new root yet: reviews.default",
        )
        renewing = group.create_task(sidecar.certificates.run())
        await there.step("retire")
        for task in (renewing, following):
            task.cancel()


async def test_who_comes_back_after_a_restart_of_citadel_says_what_it_has(tmp_path: Path) -> None:
    """Nothing is remembered of workloads: they say it themselves."""
    async with AsyncExitStack() as outer:
        sidecar: Sidecar | None = None
        async with mesh(tmp_path) as there, asyncio.TaskGroup() as group:
            sidecar = Sidecar(there, "reviews")
            running = group.create_task(sidecar.run())
            await eventually(lambda: sidecar.certificates.ready, timeout=30)
            await there.followed(by=1)
            await there.step("distribute")
            await there.step("sign")
            running.cancel()
        there = await outer.enter_async_context(mesh(tmp_path))
        there.token("reviews")  # its issuer is a new one as well
        status, said = await there.ask("GET", "/ca")
        assert (status, said["step"], said["workloads"]) == (200, "sign", [])
        target = sidecar.channel.target
        sidecar.channel.target = Target(target.host, there.running.ports.tls or 0, tls=target.tls)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(sidecar.roots.run())

            async def known() -> bool:
                _, said = await there.ask("GET", "/ca")
                return [item["pod"] for item in said["workloads"] if item["trusts"] == said["version"]] == [
                    "reviews.default"
                ]

            await eventually(known, what="the sidecar's word")
            following.cancel()
        await sidecar.channel.close()


async def test_roots_are_pushed_to_pods_alone(tmp_path: Path) -> None:
    """No token, a token of nobody, and another secret: refused."""
    async with mesh(tmp_path) as there:
        credentials = grpc.ssl_channel_credentials(there.roots.read_bytes())
        unbound = {"namespace": "default", "serviceaccount": {"name": "reviews"}}
        tokens = {
            grpc.StatusCode.UNAUTHENTICATED: "x.y.z",
            grpc.StatusCode.PERMISSION_DENIED: there.tokens.token(**{"kubernetes.io": unbound}),
            grpc.StatusCode.INVALID_ARGUMENT: there.token("reviews").read_text(),
        }
        async with grpc.aio.secure_channel(f"localhost:{there.running.ports.tls}", credentials) as channel:
            call = channel.stream_stream("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets")
            for code, token in tokens.items():
                stream = call(metadata=(("authorization", f"Bearer {token}"),))
                await stream.write(b"")
                assert await stream.code() is code
