"""An API server of a few lines, for what a right one would never say, or only once in a year."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from lightkube import AsyncClient, KubeConfig
from lightkube.config.models import Cluster, User

# Takes what was asked for (path and query), and writes the answer.
Script = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[AsyncClient]:
    """A client of a server that answers by `script`; every answer ends its connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await script(head.split(b" ")[1].decode(), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = KubeConfig.from_one(cluster=Cluster(server=f"http://127.0.0.1:{port}"), user=User())
    client = AsyncClient(config=config)
    try:
        yield client
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


def answer(writer: asyncio.StreamWriter, value: object, status: str = "200 OK", more: str = "") -> None:
    """A whole answer."""
    body = json.dumps(value).encode()
    writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{more}\r\n".encode() + body)


def begin(writer: asyncio.StreamWriter) -> None:
    """The head of a watch's answer, which goes on until the connection ends."""
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")


def items(*names: str, version: str = "1", rest: str = "") -> dict[str, object]:
    """A list of ConfigMaps."""
    found = [{"metadata": {"name": name, "namespace": "default", "resourceVersion": version}} for name in names]
    return {"metadata": {"resourceVersion": version, "continue": rest}, "items": found}


def event(kind: str, name: str, version: str, **data: str) -> bytes:
    """A line of a watch."""
    metadata = {"name": name, "namespace": "default", "resourceVersion": version}
    return (
        json.dumps({"type": kind, "object": {"metadata": metadata, "data": data}}, ensure_ascii=False).encode() + b"\n"
    )
