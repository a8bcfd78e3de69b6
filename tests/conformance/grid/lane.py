"""One client, one listener of a proxy, one upstream of our own: a message goes in, and what came of it is kept.

Nothing here waits for a time where there is something to wait for: a row is over when what was expected is there and
nothing moves any more, or, where something else happened or nothing is expected, when nothing has moved for a while.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

from tests.conformance.grid import reading
from tests.conformance.grid.reading import Message

# What an upstream says to a part of a request that it has got: bytes, and whether the connection ends with them.
Reply: TypeAlias = Callable[[bytes], tuple[bytes, bool] | None]

ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
# Seconds without a byte: behind what was expected, and where nothing is expected.
SETTLED: Final = 0.01
SILENT: Final = 0.15


@dataclass(slots=True)
class Outcome:
    """What became of one message: every byte that reached client and upstream.

    Attributes:
        answer: what the client got.
        ended: the proxy has ended the client's connection.
        forwarded: what each connection to the upstream got.
        reused: the proxy used a connection to the upstream that had served an earlier message.
    """

    answer: bytes = b""
    ended: bool = False
    forwarded: dict[object, bytes] = field(default_factory=dict)
    reused: bool = False

    def requests(self) -> tuple[Message, ...]:
        """The requests that the upstream got, in order."""
        return tuple(message for data in self.forwarded.values() for message in reading.requests(data))


class Lane:
    """The client and the upstream of one listener. `port` is the upstream's, `listener` the proxy's."""

    def __init__(self) -> None:
        self.port = 0
        self.listener = 0
        self.reply: Reply  # set before anything is sent
        self._outcome = Outcome()
        self._moved = asyncio.Event()
        self.upstreams: set[_Upstream] = set()
        self._server: asyncio.Server

    async def start(self) -> None:
        """Listen as the upstream."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Upstream(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more."""
        self._server.close()
        await self._server.wait_closed()

    async def send(
        self, data: bytes, settled: Callable[[Outcome], bool], silence: float, *, leave: bool = False
    ) -> Outcome:
        """Send `data` on a new connection; what became of it when it is `settled`, or nothing moved for `silence`.

        `leave` leaves the connections to the upstream to the proxy, which may use them for the next.
        """
        outcome = self._outcome = Outcome()
        self._moved.clear()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: _Client(self, outcome), "127.0.0.1", self.listener)
        transport.write(data)
        something = False
        while True:
            patience = (SETTLED if something else SILENT) if settled(outcome) else silence
            try:
                async with asyncio.timeout(patience):
                    await self._moved.wait()
            except TimeoutError:
                break
            self._moved.clear()
            something = True
        transport.abort()
        if not leave:
            for upstream in tuple(self.upstreams):
                upstream.transport.abort()
            await asyncio.sleep(0)
        return outcome

    def forwarded(self, upstream: "_Upstream", data: bytes) -> None:
        """`data` has come to `upstream`, for the message that is being sent."""
        outcome = self._outcome
        outcome.reused = outcome.reused or (upstream.used and upstream not in outcome.forwarded)
        outcome.forwarded[upstream] = outcome.forwarded.get(upstream, b"") + data
        upstream.used = True
        self.moved()

    def moved(self) -> None:
        """Something came, or ended."""
        self._moved.set()


class _Client(asyncio.Protocol):
    def __init__(self, lane: Lane, outcome: Outcome) -> None:
        self._lane = lane
        self._outcome = outcome

    def data_received(self, data: bytes) -> None:
        self._outcome.answer += data
        self._lane.moved()

    def eof_received(self) -> bool:
        self._outcome.ended = True
        self._lane.moved()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._outcome.ended = self._outcome.ended or exc is not None
        self._lane.moved()


class _Upstream(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, lane: Lane) -> None:
        self.used = False
        self._lane = lane
        self._asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._lane.upstreams.add(self)

    def data_received(self, data: bytes) -> None:
        self._lane.forwarded(self, data)
        self._asked += data
        if (reply := self._lane.reply(self._asked)) is not None:
            self._asked = b""
            self.transport.write(reply[0])
            if reply[1]:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lane.upstreams.discard(self)
        self._lane.moved()
