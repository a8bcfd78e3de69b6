"""Looking at the first bytes without taking them, without spinning, and without leaving a trace on the socket."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from pymesh_proxy.codec.detect import MAX_PEEK, Protocol
from pymesh_proxy.transport import peek as module
from pymesh_proxy.transport.peek import peek
from tests.support.waiting import eventually

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, and the accepted socket, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        accepted.setblocking(False)
        with client, accepted:
            yield client, accepted


Pair = tuple[socket.socket, socket.socket]


async def test_what_is_looked_at_stays(pair: Pair) -> None:
    client, accepted = pair
    client.sendall(GET)
    found = await peek(asyncio.get_running_loop(), accepted, 5)
    assert found is not None
    assert found.protocol is Protocol.HTTP1
    assert accepted.recv(1000) == GET


async def test_every_cut_of_the_first_line(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """One look for each piece that came, not more: the low-water mark keeps the loop from spinning."""
    client, accepted = pair
    looks = 0
    readable = module.readable

    async def counted(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        nonlocal looks
        await readable(loop, sock)
        looks += 1

    monkeypatch.setattr(module, "readable", counted)
    looking = asyncio.get_running_loop().create_task(peek(asyncio.get_running_loop(), accepted, 5))
    line = b"GET / HTTP/1.1\r\n"
    for position in range(len(line)):
        client.sendall(line[position : position + 1])
        await eventually(lambda seen=position + 1: looks == seen, interval=0.001)
        for _ in range(50):
            await asyncio.sleep(0)
        assert looks == position + 1
    found = await looking
    assert found is not None
    assert found.protocol is Protocol.HTTP1
    assert accepted.recv(1000) == line
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"\x16\x03\x01"])
async def test_the_end_is_an_answer(pair: Pair, said: bytes) -> None:
    client, accepted = pair
    client.sendall(said)
    client.shutdown(socket.SHUT_WR)
    found = await peek(asyncio.get_running_loop(), accepted, 5)
    assert found is not None
    assert found.protocol is Protocol.OPAQUE
    assert accepted.recv(1000) == said


async def test_silence_is_none_and_half_a_word_is_opaque_when_the_time_is_over(pair: Pair) -> None:
    client, accepted = pair
    loop = asyncio.get_running_loop()
    assert await peek(loop, accepted, 0.01) is None
    client.sendall(b"GET /")
    found = await peek(loop, accepted, 0.01)
    assert found is not None
    assert found.protocol is Protocol.OPAQUE
    client.sendall(b" HTTP/1.1\r\n")  # the mark is gone: a reader sees every byte at once
    assert await loop.sock_recv(accepted, 1000) == b"GET / HTTP/1.1\r\n"


async def test_more_than_is_looked_at(pair: Pair) -> None:
    client, accepted = pair
    client.sendall(b"GET /" + b"a" * 2 * MAX_PEEK)
    found = await peek(asyncio.get_running_loop(), accepted, 5)
    assert found is not None
    assert found.protocol is Protocol.OPAQUE


async def test_a_broken_connection_is_an_error(pair: Pair) -> None:
    client, accepted = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    with pytest.raises(ConnectionResetError):
        await peek(asyncio.get_running_loop(), accepted, 5)


async def test_cancelled_it_leaves_the_socket_as_it_was(pair: Pair) -> None:
    client, accepted = pair
    loop = asyncio.get_running_loop()
    client.sendall(b"GET /")
    looking = loop.create_task(peek(loop, accepted, None))
    await asyncio.sleep(0.02)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    assert await loop.sock_recv(accepted, 100) == b"GET /"
