"""Raw TCP peers for tests that are about bytes: a client and an upstream whose every word the test says itself.

    async with RawUpstream() as upstream:
        client = await connect(proxy_address)
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        served = await upstream.accept()
        head = await served.head()
        served.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 200")

Whatever waits gives up after DEADLINE, so a peer that never speaks fails the test instead of hanging it.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

# Seconds: only ever spent by a test that fails.
DEADLINE = 10.0

Address = tuple[str, int]


class Peer:
    """One end of a TCP connection, at the level of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def local(self) -> str:
        """`ip:port` of this end."""
        host, port = self.writer.get_extra_info("sockname")[:2]
        return f"{host}:{port}"

    def send(self, data: bytes) -> None:
        """Write; nothing waits for it to arrive."""
        self.writer.write(data)

    async def drain(self) -> None:
        """Wait until the kernel has taken nearly all of what was sent."""
        async with asyncio.timeout(DEADLINE):
            await self.writer.drain()

    async def until(self, end: bytes) -> bytes:
        """Everything up to and including `end`."""
        async with asyncio.timeout(DEADLINE):
            return await self.reader.readuntil(end)

    async def head(self) -> bytes:
        """The next message head, with its empty line."""
        return await self.until(b"\r\n\r\n")

    async def exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        async with asyncio.timeout(DEADLINE):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """Everything until the other side ends its half.

        Raises:
            ConnectionResetError: it ended with a reset.
        """
        async with asyncio.timeout(DEADLINE):
            return await self.reader.read(-1)

    async def message(self) -> tuple[bytes, bytes]:
        """The next message with a fixed length, as (head, body); no Content-Length is no body."""
        head = await self.head()
        for line in head.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name == b"content-length":
                return head, await self.exactly(int(value))
        return head, b""

    async def ended(self) -> bool:
        """Wait for the end of the connection, whatever its manner; False if there were bytes before it."""
        try:
            return await self.rest() == b""
        except ConnectionError:
            return True

    def end(self) -> None:
        """Say no more (FIN), and go on reading."""
        self.writer.write_eof()

    def cut(self) -> None:
        """End TCP (FIN) and not TLS: what has been sent arrives, but no close_notify."""
        with socket.fromfd(self.writer.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close in order: FIN once everything is sent."""
        self.writer.close()

    def reset(self) -> None:
        """Close without order: RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def connect(address: Address, *, receive_buffer: int = 0, tls: ssl.SSLContext | None = None) -> Peer:
    """A client of `address`, `localhost` to `tls`. A small `receive_buffer` makes it one that soon takes no more."""
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    sock.setblocking(False)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    async with asyncio.timeout(DEADLINE):
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        # A reader of a few bytes stops reading from the socket soon; what is asked for is still delivered.
        name = None if tls is None else "localhost"
        reader, writer = await asyncio.open_connection(
            sock=sock, limit=receive_buffer or 1 << 20, ssl=tls, server_hostname=name
        )
    return Peer(reader, writer)


class RawUpstream:
    """A listening socket whose connections the test takes one by one."""

    def __init__(self, *, receive_buffer: int = 0, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._sock.bind(("127.0.0.1", port))
        self.address: Address = self._sock.getsockname()
        self._limit = receive_buffer or 1 << 20
        self._accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self._peers: list[Peer] = []
        self.connections = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, sock=self._sock, limit=self._limit, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for peer in self._peers:
            peer.writer.transport.abort()
        await asyncio.sleep(0)

    def close(self) -> None:
        """Listen no more: the next connection is refused."""
        assert self._server is not None
        self._server.close()

    @property
    def waiting(self) -> int:
        """Connections that were made and not yet taken."""
        return self._accepted.qsize()

    async def accept(self) -> Peer:
        """The next connection."""
        async with asyncio.timeout(DEADLINE):
            return await self._accepted.get()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        peer = Peer(reader, writer)
        self._peers.append(peer)
        self._accepted.put_nowait(peer)


@contextlib.asynccontextmanager
async def client(
    address: Address, *, receive_buffer: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Peer]:
    """`connect`, and gone afterwards."""
    peer = await connect(address, receive_buffer=receive_buffer, tls=tls)
    try:
        yield peer
    finally:
        peer.writer.transport.abort()
        await asyncio.sleep(0)
