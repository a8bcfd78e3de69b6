"""A policy service behind the mesh port, and grpcio clients that ask it and hold leases over mutual TLS."""

import asyncio
import gc
import socket
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from pymesh import policy_api
from pymesh.identity import Identity
from pymesh.policy_api import Demand, LeaseRequest, LeaseResponse
from pymesh_controlplane import grpc_server
from pymesh_controlplane.citadel.authority import self_signed
from pymesh_controlplane.citadel.client import Certificate, of_authority
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.mesh_port import MeshPort
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.parts import Part, serve
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.policy import desk
from pymesh_controlplane.policy.service import PolicyService
from tests.controlplane.citadel.support import csr_for, key_pem, new_key
from tests.controlplane.pilot.worlds import BOOKINFO, world_of
from tests.support.waiting import eventually

AUTHORITY = self_signed("cluster.local", now=datetime.now(UTC))
OTHERS = self_signed("cluster.local", now=datetime.now(UTC))
POLICY = Identity("cluster.local", "pymesh-system", "policy")
REVIEWS = Identity("cluster.local", "default", "reviews")
RATINGS = Identity("cluster.local", "default", "ratings")
NODE = "sidecar~10.244.0.11~reviews-v1.default~default.svc.cluster.local"
SECOND = "sidecar~10.244.0.12~reviews-v2.default~default.svc.cluster.local"
SLOTS, RATE = "ConcurrencyLimit default/reviews", "RateLimit default/reviews"
LIMITS = """
---
apiVersion: policy.pymesh.io/v1alpha1
kind: ConcurrencyLimit
metadata: {name: reviews, namespace: default}
spec: {targetRefs: [{name: reviews}], max: 10}
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: reviews, namespace: default}
spec: {targetRefs: [{name: reviews}], requests: 2, per: Hour, by: [source.principal]}
"""

CHECK = "Check default/reviews"
PYTHON = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pymesh, namespace: pymesh-system}
data:
  a.py: |
    from pymesh.checks import allow, check, deny
    @check
    def tenants(request):
        if request.claims["tenant"] == "a":
            return allow()
        return deny(403, "for tenant a")
---
apiVersion: policy.pymesh.io/v1alpha1
kind: Check
metadata: {name: reviews, namespace: default}
spec:
  targetRefs: [{name: reviews}]
  function: tenants
  timeout: 100ms
  remember: {for: 30s, by: ["request.auth.claims[tenant]"]}
"""

LEASED = "requests: 100, per: Second, burst: 25"


@dataclass
class Worlds:
    """A source that tells what it is given."""

    queue: "asyncio.Queue[World]" = field(default_factory=asyncio.Queue)

    async def watch(self) -> AsyncIterator[World]:
        while True:
            yield await self.queue.get()

    def put(self, text: str) -> None:
        self.queue.put_nowait(world_of(text))


@dataclass
class Serving:
    """A policy service that runs."""

    service: PolicyService
    mesh: MeshPort
    worlds: Worlds
    port: int
    task: "asyncio.Task[None]"

    @asynccontextmanager
    async def channel(
        self, identity: Identity | None = REVIEWS, authority: Any = AUTHORITY
    ) -> AsyncIterator[grpc.aio.Channel]:
        """For a workload of this identity."""
        key, chain = None, None
        if identity is not None:
            made = new_key()
            issued = authority.issue_workload(csr_for(made), identity, now=datetime.now(UTC))
            key, chain = key_pem(made), "".join(issued.chain).encode()
        credentials = grpc.ssl_channel_credentials(AUTHORITY.root_pem.encode(), key, chain)
        # grpcio knows names, not SPIFFE identities: who answers is checked in the sidecar's tests.
        options = [("grpc.ssl_target_name_override", "policy"), ("grpc.default_authority", "policy")]
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options) as channel:
            yield channel


async def ask(channel: grpc.aio.Channel, rules: str, principal: str = "", data: bytes | None = None) -> CheckResponse:
    request = CheckRequest()
    request.attributes.source.principal = principal
    request.attributes.context_extensions["pymesh.rules"] = rules
    call: Any = channel.unary_unary(policy_api.CHECK_PATH)
    return CheckResponse.FromString(await call(data or request.SerializeToString(), timeout=5))


class Lease:
    """One stream, as a sidecar has it."""

    def __init__(self, channel: grpc.aio.Channel, node: str = NODE) -> None:
        self.node = node
        self.call: Any = channel.stream_stream(policy_api.PATH)()
        self.last = LeaseResponse("")

    async def hello(self) -> None:
        """Open it and ask for nothing."""
        await self.call.write(policy_api.encode_request(LeaseRequest(self.node)))
        async with asyncio.timeout(5):
            self.last = policy_api.decode_response(await self.call.read())

    async def say(self, *, wanted: int = 0, held: int = 0, in_use: int = 0, rule: str = SLOTS) -> int:
        """Report, and read the answer; the slots granted."""
        demand = Demand(rule, held, in_use, wanted)
        await self.call.write(policy_api.encode_request(LeaseRequest(self.node, (demand,), self.last.nonce)))
        return await self.told()

    async def told(self) -> int:
        """The slots that the next response grants."""
        async with asyncio.timeout(5):
            self.last = policy_api.decode_response(await self.call.read())
        return self.last.grants[0].slots

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the service ends the stream."""
        async with asyncio.timeout(5):
            with suppress(grpc.aio.AioRpcError):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            return await self.call.code(), await self.call.details()


@asynccontextmanager
async def serving(text: str | None = BOOKINFO + LIMITS) -> AsyncIterator[Serving]:
    worlds, metrics = Worlds(), Metrics()
    service = PolicyService(worlds, monotonic)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    certificate = Certificate(server_certificate, metrics, source="test", clock=lambda: datetime.now(UTC))
    mesh = MeshPort(listener, certificate, "cluster.local", metrics)
    if text is not None:
        worlds.put(text)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(serve(mesh, [Part(service.handlers, service.run, http=service.http)]))
        try:
            await eventually(lambda: not mesh.waiting() and (text is None or not service.waiting()))
            yield Serving(service, mesh, worlds, listener.getsockname()[1], task)
        finally:
            task.cancel()
            await asyncio.wait([task])
            listener.close()
            # asyncio's TLS transports leave their sockets to the collector where the peer says no goodbye; the control
            # plane runs on uvloop, whose do not.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody comes back from before, and nobody has to hear that the service ends: nobody is waited for."""
    monkeypatch.setattr(desk, "SETTLE", 0.0)
    monkeypatch.setattr(grpc_server, "FAREWELL", 0.02)


async def server_certificate() -> Any:
    """As of citadel, but under a name that grpcio can check."""
    credentials = await of_authority(Trust(AUTHORITY), POLICY, lambda: datetime.now(UTC))()
    issued, key = AUTHORITY.issue_server(("policy",), now=datetime.now(UTC))
    return type(credentials)("".join(issued.chain[:-1]), key, AUTHORITY.root_pem, issued.expires)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""
