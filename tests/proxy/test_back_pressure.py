"""A gigabyte that one side sends and the other does not take, and a thousand heads that do not end: the memory of a
real proxy process stays where it is. Asserted on bytes; a test goes on until they have stopped moving, not for a time.
"""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, cast

import pytest

from tests.support.inprocess import bootstrap, cluster, http_listener, route
from tests.support.proxy_process import ProxyProcess, free_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIGABYTE: Final = 1024 * MIB
# As many stalled transfers at once, so that what each costs stands out of the noise of a process.
TRANSFERS: Final = 16
# What the proxy may keep of one: what it reads at once (uvloop: 256 KiB), the high-water marks of both sides, and as
# much again for the allocator.
KEPT_OF_A_TRANSFER: Final = 1 * MIB
# What all of the kernel's buffers between the two ends may take of one: net.ipv4.tcp_wmem and tcp_rmem, twice each.
IN_THE_KERNEL: Final = 2 * (4 + 6) * MIB
# Bytes are taken to have stopped when so many looks, 20 ms apart, have found the same.
LOOKS: Final = 25
HEADS: Final = 1000
# A connection that has sent next to nothing, and one that has sent nearly all that a head may have (60 KiB).
KEPT_OF_A_CONNECTION: Final = 24 * KIB
KEPT_OF_A_LARGE_HEAD: Final = 160 * KIB


class Flood(asyncio.Protocol):
    """Sends zeros as fast as the other end takes them, a gigabyte in all, behind `first`; reads what comes, if at all.

    `asked`: wait for the end of a head before the first byte.
    """

    transport: asyncio.Transport

    def __init__(self, first: bytes, *, asked: bool) -> None:
        self._first = first
        self._asked = asked
        self._written = 0
        self._may_write = True

    @property
    def sent(self) -> int:
        """Bytes that have left this process."""
        return self._written - self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if not self._asked:
            self._begin()

    def data_received(self, data: bytes) -> None:
        if self._asked and data.endswith(b"\r\n\r\n"):
            self._begin()

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._write()

    def _begin(self) -> None:
        self.transport.write(self._first)
        self._write()

    def _write(self) -> None:
        while self._may_write and self._written < GIGABYTE:
            self.transport.write(bytes(64 * KIB))
            self._written += 64 * KIB


class Deaf(asyncio.Protocol):
    """Accepts and reads nothing."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        # Not at once: the loop begins to read behind this call, whatever was said in it.
        asyncio.get_running_loop().call_soon(self.transport.pause_reading)


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """A thousand connections need more descriptors than a shell allows by default; the proxy inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def proxy_before(folder: Path, made: Callable[[], asyncio.Protocol]) -> AsyncIterator[tuple[ProxyProcess, int]]:
    """A proxy that runs before an upstream of such protocols, and the port that it listens on."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(made, "127.0.0.1", 0, backlog=HEADS)
    port = free_port()
    listener = http_listener([route(timeout="0s", idle_timeout="0s")])
    listener["address"]["socket_address"]["port_value"] = port
    config = folder / "bootstrap.json"
    config.write_text(bootstrap([listener], [cluster("service", server.sockets[0].getsockname())]))
    process = ProxyProcess("--config", str(config))
    await asyncio.to_thread(process.__enter__)
    try:
        yield process, port
    finally:
        await asyncio.to_thread(process.__exit__, None, None, None)
        server.close()
        await server.wait_closed()


class Watched:
    """The memory of a proxy from now on, and the bound that ends a test at once, before the machine has none left."""

    def __init__(self, proxy: ProxyProcess, bound: int) -> None:
        self._proxy = proxy
        self._bound = bound
        self._before = proxy.memory()

    def grown(self) -> int:
        """Bytes more than at the start."""
        grown = self._proxy.memory() - self._before
        if grown >= self._bound:
            pytest.fail(f"the proxy has grown by {grown / MIB:.0f} MiB, more than {self._bound / MIB:.0f} MiB")
        return grown

    async def still(self, count: Callable[[], int]) -> int:
        """`count`, once it has stopped growing."""
        seen: list[int] = []

        def stopped() -> bool:
            self.grown()
            seen.append(count())
            return len(seen) > LOOKS and len(set(seen[-LOOKS:])) == 1

        await eventually(stopped, what="an end of the growth", timeout=60.0)
        return seen[-1]


def report(kept: int, sent: int) -> None:
    """Print what each transfer cost the proxy, and how much of it is somewhere on the way."""
    print(f"{kept / TRANSFERS / KIB:.0f} KiB in the proxy and {sent / TRANSFERS / MIB:.1f} MiB in all for each")


def reader(port: int) -> socket.socket:
    """A client that has asked for the gigabyte, with as small a window as the kernel gives."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
    sock.connect(("127.0.0.1", port))
    sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    sock.setblocking(False)
    return sock


async def test_clients_that_read_a_kilobyte_now_and_then_of_a_gigabyte(tmp_path: Path) -> None:
    floods: list[Flood] = []

    def upstream() -> Flood:
        floods.append(Flood(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % GIGABYTE, asked=True))
        return floods[-1]

    loop = asyncio.get_running_loop()
    async with proxy_before(tmp_path, upstream) as (proxy, port):
        memory = Watched(proxy, TRANSFERS * KEPT_OF_A_TRANSFER)
        readers = [await asyncio.to_thread(reader, port) for _ in range(TRANSFERS)]
        await eventually(lambda: len(floods) == TRANSFERS and all(flood.sent for flood in floods), what="all transfers")
        stalled = await memory.still(lambda: sum(flood.sent for flood in floods))
        for _ in range(4):
            for sock in readers:
                assert await loop.sock_recv(sock, KIB)
        moved = await memory.still(lambda: sum(flood.sent for flood in floods))
        report(memory.grown(), moved)
        assert stalled < TRANSFERS * (KEPT_OF_A_TRANSFER + IN_THE_KERNEL) < TRANSFERS * GIGABYTE / 16
        assert moved - stalled < TRANSFERS * KEPT_OF_A_TRANSFER
        for sock in readers:
            sock.close()
        await eventually(lambda: not proxy.in_flight(), what="nothing in flight", timeout=20.0)


async def test_an_upstream_that_reads_nothing_of_a_gigabyte(tmp_path: Path) -> None:
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % GIGABYTE
    loop = asyncio.get_running_loop()
    upstreams: list[Deaf] = []

    def upstream() -> Deaf:
        upstreams.append(Deaf())
        return upstreams[-1]

    async with proxy_before(tmp_path, upstream) as (proxy, port):
        memory = Watched(proxy, TRANSFERS * KEPT_OF_A_TRANSFER)
        floods = []
        for _ in range(TRANSFERS):
            _, flood = await loop.create_connection(lambda: Flood(head, asked=False), "127.0.0.1", port)
            floods.append(flood)
        sent = await memory.still(lambda: sum(flood.sent for flood in floods))
        report(memory.grown(), sent)
        assert sent < TRANSFERS * (KEPT_OF_A_TRANSFER + IN_THE_KERNEL) < TRANSFERS * GIGABYTE / 16
        assert len(upstreams) == TRANSFERS
        for end in (*floods, *upstreams):
            end.transport.abort()
        await eventually(lambda: not proxy.in_flight(), what="nothing in flight", timeout=20.0)


async def test_a_thousand_heads_that_do_not_end(tmp_path: Path) -> None:
    """Each is a few bytes first, then all that a head may have; meanwhile others are served."""
    loop = asyncio.get_running_loop()

    class Answers(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)

        def data_received(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with proxy_before(tmp_path, Answers) as (proxy, port):
        await served(port)
        memory = Watched(proxy, HEADS * KEPT_OF_A_LARGE_HEAD)
        clients = []
        for _ in range(HEADS):
            transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
            transport.write(b"GET / HTTP/1.1\r\nx-slow: ")
            clients.append(transport)
        await eventually(lambda: int(proxy.get("/connections").text) >= HEADS, what="all connections")
        await served(port)
        small = memory.grown()
        for transport in clients:
            transport.write(b"y" * (59 * KIB))
        await eventually(lambda: not any(transport.get_write_buffer_size() for transport in clients), what="all sent")
        large = await memory.still(memory.grown)
        await served(port)
        print(
            f"{small / HEADS / KIB:.0f} KiB for a head of a few bytes, {large / HEADS / KIB:.0f} KiB for one of 59 KiB"
        )
        assert small < HEADS * KEPT_OF_A_CONNECTION
        for transport in clients:  # a byte more than a head may have, and each is told so and let go
            transport.write(b"y" * (2 * KIB))
        await eventually(lambda: int(proxy.get("/connections").text) == 0, what="nobody left", timeout=20.0)


async def served(port: int) -> None:
    """A client in between gets its answer."""
    stream, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    answer = await stream.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok")
    writer.close()
    await writer.wait_closed()
