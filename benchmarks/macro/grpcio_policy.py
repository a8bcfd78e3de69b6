"""The policy service's handlers in a server of plain grpcio, which does TLS itself: to compare its own port with.

python -m benchmarks.macro.grpcio_policy --port PORT --certificates FOLDER --config-dir FOLDER
"""

import argparse
import asyncio
import time
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
import uvloop

from pymesh.identity import Identity
from pymesh_controlplane.pilot.server import Origin, ServerContext
from pymesh_controlplane.policy.service import PolicyService
from pymesh_controlplane.running import GRPC_OPTIONS
from pymesh_controlplane.sources.directory import DirectorySource

_NAMES: Final = "x509_subject_alternative_name"


async def serve(port: int, certificates: Path, config: Path) -> None:
    """Until cancelled."""
    service = PolicyService(DirectorySource(config), time.monotonic)
    chain, key, root = ((certificates / name).read_bytes() for name in ("server.pem", "server.key", "root.pem"))
    server = grpc.aio.server(options=GRPC_OPTIONS)
    server.add_generic_rpc_handlers(service.handlers(_proved))
    credentials = grpc.ssl_server_credentials([(key, chain)], root, require_client_auth=True)
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(service.run())
        await server.start()


async def _proved(context: ServerContext) -> Origin:
    """Whom grpcio has seen a certificate of."""
    names = context.auth_context().get(_NAMES, ())
    [uri] = [name.decode() for name in names if name.startswith(b"spiffe://")]
    return Origin(context.peer(), Identity.parse(uri))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificates", type=Path, required=True)
    parser.add_argument("--config-dir", type=Path, required=True)
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.certificates, given.config_dir))
