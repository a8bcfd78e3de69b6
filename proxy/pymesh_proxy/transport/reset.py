"""Ending a connection so that the peer sees it was cut."""

import asyncio
import contextlib
import socket
import struct
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
