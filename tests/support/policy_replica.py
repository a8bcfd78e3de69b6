"""A replica of the policy service as a process of its own, in plaintext: every caller is taken for one account.

python -m tests.support.policy_replica WORLD PORT [STORE]
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from typing import Final

import grpc.aio

from pymesh.identity import Identity
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.server import Origin, ServerContext
from pymesh_controlplane.policy.redis_store import RedisStore
from pymesh_controlplane.policy.service import PolicyService
from pymesh_controlplane.running import GRPC_OPTIONS
from tests.controlplane.pilot.worlds import world_of

ACCOUNT: Final = Identity("cluster.local", "default", "web")


class _Still:
    """A world that does not change."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def watch(self) -> AsyncIterator[World]:
        yield world_of(self._text)
        await asyncio.Event().wait()


async def _known(context: ServerContext) -> Origin:
    return Origin(context.peer(), ACCOUNT)


async def serve(text: str, port: int, store: str = "") -> None:
    """Until killed."""
    service = PolicyService(_Still(text), monotonic, RedisStore(store) if store else None)
    server = grpc.aio.server(options=GRPC_OPTIONS)
    server.add_generic_rpc_handlers(service.handlers(_known))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await service.run()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]).read_text(), int(sys.argv[2]), *sys.argv[3:]))
