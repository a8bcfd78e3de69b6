"""Ending a connection so that the peer sees it was cut, and knowing when it has what was sent before."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from typing import Final

_NO_LINGER: Final = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


def reset(transport: asyncio.WriteTransport) -> None:
    """Close at once with RST; what was not sent yet is dropped.

    A transport's own `abort` ends the stream with FIN, which a peer may take for a proper end.
    """
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # closed already: nothing to tell any more
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def unsent(transport: asyncio.WriteTransport) -> int:
    """Bytes that the peer's kernel has not acknowledged: what the transport queues and what our kernel does."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    queued = transport.get_write_buffer_size()
    if sock is None or sock.fileno() < 0:
        return queued
    with contextlib.suppress(OSError):  # the connection is gone: nothing is on its way
        # On a socket this is SIOCOUTQ (tcp(7)).
        queued += int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return queued
