"""Requests at a fixed rate, of four kinds: GET and POST, each on connections that are kept and on a new one each time.

Open loop: a request that is slow makes no other wait. Whatever is not a success is lost: nothing is sent twice.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

# Seconds for one request.
TIMEOUT = 10.0
KINDS = ("GET kept", "POST kept", "GET new", "POST new")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class SteadyLoad:
    """Sends `rate` requests a second of each kind to `address`, until `ending` is set.

    Attributes:
        answered: how many requests of each kind were answered with a status below 300.
        lost: the others, by kind and what became of them.
        closed: how many answers ended a connection that was to be kept.
    """

    def __init__(self, address: tuple[str, int], rate: float) -> None:
        self.ending = False
        self.answered: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.closed = 0
        self._address = address
        self._rate = rate
        self._idle: dict[str, list[Streams]] = {kind: [] for kind in KINDS}

    def served(self) -> int:
        """Successes of the kind that has fewest."""
        return min(self.answered[kind] for kind in KINDS)

    async def run(self) -> None:
        """Send until told."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in count():
                if self.ending:
                    break
                await asyncio.sleep(max(0.0, begun + number / self._rate - loop.time()))
                for kind in KINDS:
                    group.create_task(self._one(kind, number))
        for streams in self._idle.values():
            for _, writer in streams:
                writer.close()

    async def _one(self, kind: str, number: int) -> None:
        method, how = kind.split()
        body = f"{kind} {number}".encode() if method == "POST" else b""
        try:
            async with asyncio.timeout(TIMEOUT):
                status, said = await self._ask(kind, method, body, keep=how == "kept")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, StopIteration) as error:
            self.lost[f"{kind}: {error!r}"] += 1
            return
        if 200 <= status < 300 and said.endswith(body):
            self.answered[kind] += 1
        else:
            self.lost[f"{kind}: {status} {said[:200]!r}"] += 1

    async def _ask(self, kind: str, method: str, body: bytes, *, keep: bool) -> tuple[int, bytes]:
        reader, writer = await self._connection(kind)
        with _closed_on_error(writer):
            lines = [f"{method} / HTTP/1.1", "host: steady.example", f"content-length: {len(body)}"]
            lines += [] if keep else ["connection: close"]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            said = await reader.readexactly(int(fields[b"content-length"]))
        if keep and fields.get(b"connection") != b"close":
            self._idle[kind].append((reader, writer))
        else:
            self.closed += keep
            writer.close()
        return int(head.split(b" ", 2)[1]), said

    async def _connection(self, kind: str) -> Streams:
        """One that is kept and still stands, or a new one."""
        while self._idle[kind]:
            reader, writer = self._idle[kind].pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._address)


@contextmanager
def _closed_on_error(writer: asyncio.StreamWriter) -> Iterator[None]:
    try:
        yield
    except BaseException:
        writer.close()
        raise
