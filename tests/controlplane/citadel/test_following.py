"""The mesh's roots in a component's pod: what citadel pushes, and what it hears of it."""

import asyncio
import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
import pytest

from pymesh_controlplane.citadel.attestation import Caller
from pymesh_controlplane.citadel.authority import self_signed
from pymesh_controlplane.citadel.bundles import Bundles, ServerContext
from pymesh_controlplane.citadel.client import Certificate, Credentials
from pymesh_controlplane.citadel.following import Roots
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.metrics import Metrics
from tests.controlplane.citadel.support import REVIEWS
from tests.support.waiting import eventually

NOW = datetime.now(UTC)
AUTHORITY = self_signed("cluster.local", now=NOW)
OTHER = self_signed("cluster.local", now=NOW)


@dataclass(frozen=True)
class Rubbish:
    """An authority whose roots are none."""

    root_pem: str = "rubbish"


async def caller(_: ServerContext) -> Caller:
    return Caller(REVIEWS, "token", "client", "telemetry-0")


async def test_roots_that_are_none_are_refused_and_citadel_hears_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of before stay in force; the next ones that are good take the refusal back, also if they are those."""
    (tmp_path / "token").write_text("token")
    (tmp_path / "root.pem").write_text(AUTHORITY.root_pem)
    trust = Trust(AUTHORITY)
    bundles = Bundles(trust, caller, Metrics())
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((bundles.handler(),))
    issued, key = AUTHORITY.issue_server(("localhost",), now=NOW)
    pair = (key.encode(), "".join(issued.chain).encode())
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    roots = Roots(f"localhost:{port}", tmp_path / "token", tmp_path / "root.pem", random.Random(1))

    async def obtain() -> Credentials:
        return Credentials("", "", roots.current(), datetime.max.replace(tzinfo=UTC), AUTHORITY.root_pem)

    certificate = Certificate(obtain, Metrics(), source="test", clock=lambda: NOW)

    async def followed() -> bool:
        return any(holder.trusts for holder in bundles.holders())

    async def refused() -> bool:
        return any("no set of roots" in holder.problem for holder in bundles.holders())

    async def cleared() -> bool:
        return not any(holder.problem for holder in bundles.holders())

    async def taken() -> bool:
        return not any(holder.problem for holder in bundles.holders()) and roots.current() == both

    both = AUTHORITY.root_pem + OTHER.root_pem
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(certificate.run(lambda _: None)), tasks.create_task(roots.follow(certificate))]
            await eventually(followed, what="a follower")
            trust.use(Rubbish())  # type: ignore[arg-type]  # no citadel would
            await eventually(refused, what="the refusal")
            assert roots.current() == AUTHORITY.root_pem
            assert "what citadel has pushed is not taken" in caplog.text
            trust.use(AUTHORITY)
            await eventually(cleared, what="the roots of before")
            trust.use(Rubbish())  # type: ignore[arg-type]  # no citadel would
            await eventually(refused, what="the second refusal")
            trust.use(replace(AUTHORITY, roots=(*AUTHORITY.roots, *OTHER.roots)))
            await eventually(taken, what="good roots")
            for task in running:
                task.cancel()
    finally:
        await server.stop(0)
