"""Port 9091: who calls is what the connection has proved, whatever is said over it."""

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path

from pymesh.identity import Identity
from tests.controlplane.citadel.support import csr_for, key_pem, new_key
from tests.controlplane.pilot.worlds import BOOKINFO
from tests.controlplane.policy import test_service
from tests.controlplane.policy.test_service import AUTHORITY, LIMITS, RATE, RATINGS, REVIEWS, ask, serving

# Nobody comes back from before: nobody is waited for.
at_once = test_service.at_once


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
