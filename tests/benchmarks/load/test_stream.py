"""Opaque bytes, and what looks at them on their return: real sockets, within the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.load.plans import Stream
from benchmarks.load.stream import BLOCK_BYTES, Echo, measure
from pymesh.errors import MeshError
from tests.support.proxy_process import free_port


@asynccontextmanager
async def listening(protocol: Callable[[], Echo]) -> AsyncIterator[int]:
    made: list[Echo] = []

    def make() -> Echo:
        made.append(protocol())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for each in made:
            each.abort()
        await asyncio.sleep(0)  # they close in the next turn


async def test_every_byte_comes_back() -> None:
    async with listening(Echo) as port:
        found = await measure(Stream("127.0.0.1", port, 3, 0.2))
    assert found.errors == {}
    assert found.received == found.sent
    assert found.sent % BLOCK_BYTES == 0
    assert found.moved == 2 * found.sent > 6 * BLOCK_BYTES


class Corrupting(Echo):
    """Changes one byte somewhere behind the first block."""

    seen = 0

    def data_received(self, data: bytes) -> None:
        if self.seen <= 100_000 < self.seen + len(data):
            changed = bytearray(data)
            changed[100_000 - self.seen] ^= 1
            data = bytes(changed)
        self.seen += len(data)
        super().data_received(data)


class Swallowing(Echo):
    """Loses one whole block: the rest is right, only not where it belongs."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data[BLOCK_BYTES:] if len(data) > BLOCK_BYTES else data[1:])
        self.data_received = super().data_received  # type: ignore[method-assign]


class Closing(Echo):
    """Has enough after the first bytes."""

    def data_received(self, data: bytes) -> None:
        self._transport.close()


class Silent(Echo):
    """Takes everything and gives nothing."""

    def data_received(self, data: bytes) -> None:
        pass

    def eof_received(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("protocol", "kinds"),
    [
        (Corrupting, {"corrupted"}),
        (Swallowing, {"corrupted", "closed"}),
        (Closing, {"closed", "reset"}),
        (Silent, {"timeout"}),
    ],
)
async def test_whatever_is_missing_is_an_error(protocol: type[Echo], kinds: set[str]) -> None:
    async with listening(protocol) as port:
        found = await measure(Stream("127.0.0.1", port, 1, 0.1, timeout=0.3))
    assert set(found.errors) <= kinds
    assert sum(found.errors.values()) == 1


async def test_nobody_listens() -> None:
    with pytest.raises(MeshError, match="cannot connect to 127"):
        await measure(Stream("127.0.0.1", free_port(), 1, 0.1))
