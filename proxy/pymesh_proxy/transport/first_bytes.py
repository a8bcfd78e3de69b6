"""What a client says first, held until somebody is chosen to serve it: for bytes that only a transport can give."""

import asyncio
from typing import cast

from pymesh_proxy.codec.detect import MAX_PEEK
from pymesh_proxy.transport.half import Half


class FirstBytes(asyncio.Protocol):
    """The protocol of a connection that has none yet. `ended` says that its client will say no more."""

    __slots__ = ("_news", "_transport", "data", "ended", "lost")

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self.data = b""
        self.ended = self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.data += data
        if len(self.data) >= MAX_PEEK:
            self._transport.pause_reading()
        self._news.set()

    def eof_received(self) -> bool:
        """See asyncio.Protocol."""
        self.ended = True
        self._news.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.ended = self.lost = True
        self._news.set()

    async def more(self) -> None:
        """Wait until there are more bytes than there were, or the end."""
        await self._news.wait()
        self._news.clear()

    def abort(self) -> None:
        """Nobody is going to serve it."""
        self._transport.abort()

    def hand_over(self, protocol: "asyncio.Protocol | Half") -> None:
        """From now on the connection is `protocol`'s, which is told of it from the beginning."""
        hand_over(self._transport, protocol, self.data, ended=self.ended)


def hand_over(
    transport: asyncio.Transport, protocol: "asyncio.Protocol | Half", data: bytes, *, ended: bool = False
) -> None:
    """From now on the connection is `protocol`'s, which is told of it from the beginning.

    `data` was read already, and with `ended` that was all. It is for whose the connection is then: `protocol` may have
    handed it over at once.
    """
    transport.set_protocol(protocol)
    transport.resume_reading()
    protocol.connection_made(transport)
    serving = cast("asyncio.Protocol | Half", transport.get_protocol())
    if data:
        serving.data_received(data)
    if ended and not serving.eof_received():
        transport.close()
