"""An app that keeps account of the requests it sees at once, on five ports.

GET /hold       answered when somebody asks for /release
GET /release    lets all of them go, and whatever comes later
GET /seen       {"now", "spans"}: how many are held, and from when to when each was (seconds, one clock for all pods)
GET /anything   answered at once
"""

import asyncio
import json
import time

PORTS = (8080, 8081, 8082, 8083, 8084)

spans: list[tuple[float, float]] = []
held: set[asyncio.Task[None]] = set()
released = asyncio.Event()


async def answer(path: str) -> object:
    if path == "/release":
        released.set()
    if path == "/seen":
        return {"now": len(held), "spans": spans}
    if path == "/hold":
        task, begun = asyncio.current_task(), time.monotonic()
        assert task is not None
        held.add(task)
        await released.wait()
        held.discard(task)
        spans.append((begun, time.monotonic()))
    return {}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            body = json.dumps(await answer(head.split()[1].decode())).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    servers = [await asyncio.start_server(serve, "0.0.0.0", port, backlog=512) for port in PORTS]
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
