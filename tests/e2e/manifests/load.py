"""Requests at a fixed rate to a URL, whatever becomes of them, until SIGTERM: then one line of JSON for each.

Open loop: a request that is slow makes no other wait. Each line has the second it was due, its status (0: it was lost),
what answered, and how many seconds it took from when it was due.
"""

import asyncio
import json
import signal
import sys
import time
from urllib.parse import urlsplit

TIMEOUT = 10.0  # seconds for one request


class Load:
    """Keeps connections, and results."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname or "", parts.port or 80)
        self.request = f"GET {parts.path or '/'} HTTP/1.1\r\nhost: {parts.hostname}\r\n\r\n".encode()
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.results: list[tuple[float, int, str, float]] = []

    async def one(self, due: float) -> None:
        """One request."""
        status, said = 0, ""
        try:
            async with asyncio.timeout(TIMEOUT):
                status, said = await self._ask()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            said = repr(error)
        self.results.append((due, status, said, time.time() - due))

    async def _ask(self) -> tuple[int, str]:
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(*self.address)
        try:
            writer.write(self.request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:"))
            body = await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        if "connection: close" in head:
            writer.close()
        else:
            self.idle.append((reader, writer))
        return int(head.split(" ", 2)[1]), body.decode(errors="replace")


async def main(url: str, rate: float) -> None:
    """Send until told."""
    load, ended = Load(url), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    began, sent = time.time(), 0
    async with asyncio.TaskGroup() as tasks:
        while not ended.is_set():
            due = began + sent / rate
            await asyncio.sleep(max(0.0, due - time.time()))
            tasks.create_task(load.one(due))
            sent += 1
    for result in load.results:
        print(json.dumps(result))


asyncio.run(main(sys.argv[1], float(sys.argv[2])))
