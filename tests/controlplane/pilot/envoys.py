"""A real Envoy that takes everything from pilot, what it leads to, and who asks it."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.controlplane.pilot.serving import NODE_ID

ENVOY = Path(__file__).parents[3] / ".venv-envoy" / "bin" / "envoy"

DELTA = pytest.mark.parametrize("api", ["GRPC", "DELTA_GRPC"], ids=["sotw", "delta"])


async def free_port() -> int:
    """A port below those that the kernel gives to clients, that nobody listens on."""
    while True:
        port = random.randrange(20_000, 30_000)
        try:
            server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", port)
        except OSError:
            continue
        server.close()
        await server.wait_closed()
        return port


@asynccontextmanager
async def backend(name: str) -> AsyncIterator[int]:
    """An HTTP server that answers its name."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len(name)}\r\n\r\n{name}".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def get(port: int) -> str:
    """Body of an answer; empty if it was not 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return body.decode() if b" 200 " in head.split(b"\r\n")[0] else ""
    finally:
        writer.close()
        await writer.wait_closed()


def bootstrap(port: int, api: str) -> dict[str, object]:
    """Envoy's: everything from pilot."""
    ads = {"resource_api_version": "V3", "ads": {}}
    http2 = {"explicit_http_config": {"http2_protocol_options": {}}}
    return {
        "node": {
            "id": NODE_ID,
            "cluster": "reviews-v1.default",
            "metadata": {"NAMESPACE": "default", "SERVICE_ACCOUNT": "reviews"},
        },
        "dynamic_resources": {
            "cds_config": ads,
            "lds_config": ads,
            "ads_config": {
                "api_type": api,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "pilot"}}],
            },
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "pilot",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            **http2,
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "pilot",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {
                                        "endpoint": {
                                            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}
                                        }
                                    }
                                ]
                            }
                        ],
                    },
                }
            ]
        },
    }


@asynccontextmanager
async def envoy(folder: Path, port: int, api: str) -> AsyncIterator[None]:
    """A real Envoy that takes everything from pilot."""
    config = folder / "envoy.json"
    config.write_text(json.dumps(bootstrap(port, api)))
    async with running(config):
        yield


@asynccontextmanager
async def running(config: Path) -> AsyncIterator[None]:
    """A real Envoy with this bootstrap."""
    with config.with_suffix(".log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            ENVOY, "-c", config, "--disable-hot-restart", "--concurrency", "1", stdout=log, stderr=log
        )
        try:
            yield
        finally:
            process.kill()
            await process.wait()
