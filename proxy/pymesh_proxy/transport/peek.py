"""The first bytes of an accepted connection, read without taking them.

`MSG_PEEK` before any transport exists: whoever serves the connection then still finds every byte in the socket. While a
ClientHello is incomplete, SO_RCVLOWAT keeps the socket from being readable until there is more: the loop does not spin.
"""

import asyncio
import socket
from typing import Final

from pymesh_proxy.codec.detect import MAX_PEEK, OPAQUE, Detection, detect

# SO_RCVLOWAT may not exceed half of the receive buffer; asking for one byte more than is there never does.
_NO_LOW_WATER: Final = 1


def look(sock: socket.socket, *, wary: bool = False) -> Detection | None:
    """What the client speaks, if that can be told from what has come by now; the bytes stay in `sock` (non-blocking).

    Raises:
        OSError: the connection broke.
    """
    try:
        data = sock.recv(MAX_PEEK, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    return detect(data, ended=not data, wary=wary)


async def peek(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    timeout: float | None,  # noqa: ASYNC109 - None waits for ever, which asyncio.timeout says less clearly
    *,
    wary: bool = False,
) -> Detection | None:
    """What the client speaks, told from bytes that stay in `sock` (non-blocking); None if it sent nothing in time.

    A client that began to speak and stopped half way is opaque once the time is over. `wary` as in `detect`.

    Raises:
        OSError: the connection broke.
    """
    seen = b""
    try:
        async with asyncio.timeout(timeout):
            while True:
                await readable(loop, sock)
                data = sock.recv(MAX_PEEK, socket.MSG_PEEK)
                ended = len(data) == len(seen) or len(data) == MAX_PEEK
                detection = detect(data, ended=ended, wary=wary)
                if detection is not None:
                    return detection
                seen = data
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(data) + 1)
    except TimeoutError:
        return OPAQUE if seen else None
    finally:
        if seen:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _NO_LOW_WATER)


async def readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Wait until there is something to read: bytes, the end of the stream, or an error."""
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await ready
    finally:
        loop.remove_reader(sock)
