"""Port 9091: who calls is what the connection has proved, whatever is said over it; and how it closes."""

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from pymesh.identity import Identity
from pymesh_controlplane import grpc_callers, mesh_port
from pymesh_controlplane.grpc_server import GrpcServer
from tests.controlplane.citadel.support import csr_for, key_pem, new_key
from tests.controlplane.pilot.worlds import BOOKINFO
from tests.controlplane.policy import harness
from tests.controlplane.policy.harness import (
    AUTHORITY,
    CHECK,
    LIMITS,
    RATE,
    RATINGS,
    REVIEWS,
    Lease,
    ask,
    refused,
    serving,
)
from tests.support.waiting import eventually

# Nobody comes back from before: nobody is waited for.
at_once = harness.at_once


async def test_nobody_speaks_by_another_connection(tmp_path: Path) -> None:
    """Behind the TLS port all connections come from loopback; which one it is is not for a header to say."""
    async with serving(BOOKINFO + LIMITS) as running, running.channel(REVIEWS) as channel:
        await ask(channel, RATE)
        assert running.mesh._frontend is not None
        (victim,) = running.mesh._frontend._peers
        said = victim.removeprefix("ipv4:")
        assert await status(running.port, RATINGS, tmp_path, f"x-forwarded-for: {said}") == 503
        assert running.service.counts.refused == {"identity": 1}
        assert await status(running.port, REVIEWS, tmp_path, "x-forwarded-for: 10.0.0.9") == 200


async def test_an_address_is_that_of_the_client_and_not_of_what_is_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the TLS port all have one; what is bounded by address is so by theirs."""
    monkeypatch.setattr(grpc_callers, "SHARE", 10**9)
    async with serving(BOOKINFO + LIMITS) as running, running.channel(REVIEWS) as channel:
        code, sentence = await refused(ask(channel, RATE))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert sentence == "too many calls of 127.0.0.1: 0 at once are the most of one address"


SLOW = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pymesh, namespace: pymesh-system}
data:
  a.py: |
    import time
    from pymesh.checks import allow, check
    @check
    def slow(request):
        time.sleep(0.2)
        return allow()
---
apiVersion: policy.pymesh.io/v1alpha1
kind: Check
metadata: {name: reviews, namespace: default}
spec: {targetRefs: [{name: reviews}], function: slow, timeout: 5s}
"""


async def test_a_question_under_way_is_answered_when_the_port_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through TLS, by a check in Python, which has to be there as long."""
    servers: list[GrpcServer] = []

    def remembered(*arguments: Any) -> GrpcServer:
        servers.append(GrpcServer(*arguments))
        return servers[-1]

    monkeypatch.setattr(mesh_port, "GrpcServer", remembered)
    async with serving(BOOKINFO + SLOW) as running, running.channel(REVIEWS) as channel:
        await eventually(lambda: running.service.questions.python.names)
        asked = asyncio.get_running_loop().create_task(ask(channel, CHECK))
        await eventually(lambda: servers[0].callers.calls == 1)
        running.task.cancel()
        assert (await asked).HasField("ok_response")
        assert running.service.counts.checks == {(CHECK, "allowed"): 1}
        await asyncio.wait([running.task])


async def test_who_holds_leases_is_told_that_the_service_ends() -> None:
    async with serving(BOOKINFO + LIMITS) as running, running.channel(REVIEWS) as channel:
        lease = Lease(channel)
        await lease.say(wanted=1)
        running.task.cancel()
        assert await lease.ended() == (grpc.StatusCode.UNAVAILABLE, "the service ends")


async def status(port: int, identity: Identity, folder: Path, header: str) -> int:
    """What is answered to a check by HTTP of a workload of this identity."""
    key = new_key()
    issued = AUTHORITY.issue_workload(csr_for(key), identity, now=datetime.now(UTC))
    shown = folder / "shown.pem"
    shown.write_bytes(key_pem(key) + "".join(issued.chain).encode())
    context = ssl.create_default_context(cadata=AUTHORITY.root_pem)
    context.load_cert_chain(shown)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="policy")
    try:
        writer.write(
            f"GET /check/ HTTP/1.1\r\nhost: reviews\r\nx-pymesh-rules: {RATE}\r\n{header}\r\n"
            "connection: close\r\n\r\n".encode()
        )
        async with asyncio.timeout(5):
            return int((await reader.read()).split()[1])
    finally:
        writer.close()
        await writer.wait_closed()
