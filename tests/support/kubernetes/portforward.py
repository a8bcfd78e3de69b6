"""`pods/portforward` over a WebSocket (`v4.channel.k8s.io`): a connection of each port, to where the test has it lead.

Source: k8s.io/cri-streaming, portforward/websocket.go.
"""

import asyncio
import contextlib
import struct

from starlette.types import Receive, Scope, Send

from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import Object

PROTOCOL = "v4.channel.k8s.io"
# Bytes of a message, as kubelet reads them from the pod.
_CHUNK = 32 * 1024
_CONNECTING = 5.0


async def serve(cluster: Cluster, pod: Object, ports: list[int], receive: Receive, send: Send) -> None:
    """Accept the WebSocket, and relay until either side ends."""
    await send({"type": "websocket.accept", "subprotocol": PROTOCOL})
    for index, port in enumerate(ports):
        for channel in (2 * index, 2 * index + 1):
            await _message(send, channel, struct.pack("<H", port))
    meta = pod["metadata"]
    writers: dict[int, asyncio.StreamWriter] = {}
    try:
        async with asyncio.TaskGroup() as group:
            readers = []
            for index, port in enumerate(ports):
                there = cluster.forwards.get((meta["namespace"], meta["name"], port))
                opened = await _open(there, port, meta)
                if isinstance(opened, str):
                    await _message(send, 2 * index + 1, opened.encode())
                    continue
                reader, writers[2 * index] = opened
                readers.append(group.create_task(_from_pod(reader, 2 * index, send)))
            if readers:
                upward = group.create_task(_to_pod(receive, writers))
                await asyncio.wait([*readers, upward], return_when=asyncio.FIRST_COMPLETED)
                for task in (*readers, upward):
                    task.cancel()
    finally:
        for writer in writers.values():
            writer.close()
    await _close(send)


async def _open(
    there: tuple[str, int] | None, port: int, meta: Object
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | str:
    """A connection to a pod's port, or kubelet's sentence about it."""
    said = f"error forwarding port {port} to pod {meta['name']}, uid {meta['uid']}: failed to execute portforward: "
    if there is None:
        return f"{said}dial tcp4 127.0.0.1:{port}: connect: connection refused"
    try:
        async with asyncio.timeout(_CONNECTING):
            return await asyncio.open_connection(*there)
    except (OSError, TimeoutError) as error:
        return f"{said}{error}"


async def _from_pod(reader: asyncio.StreamReader, channel: int, send: Send) -> None:
    while data := await reader.read(_CHUNK):
        await _message(send, channel, data)


async def _to_pod(receive: Receive, writers: dict[int, asyncio.StreamWriter]) -> None:
    while (event := await receive())["type"] != "websocket.disconnect":
        message = event.get("bytes") or b""
        if message and (writer := writers.get(message[0])):
            writer.write(message[1:])
            await writer.drain()


async def _message(send: Send, channel: int, data: bytes) -> None:
    await send({"type": "websocket.send", "bytes": bytes((channel,)) + data})


async def _close(send: Send) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # the client was first
        await send({"type": "websocket.close", "code": 1000})


def offered(scope: Scope) -> bool:
    """Whether the client speaks our protocol."""
    return PROTOCOL in scope.get("subprotocols", ())
