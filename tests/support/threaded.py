"""Servers of the standard library, in a thread of their own for as long as a block lasts."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

# Seconds between two looks of a server at whether it is to end: as long a test waits for that.
LOOK: Final = 0.02


class Served(NamedTuple):
    """A server that serves."""

    port: int


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[Served]:
    """Let `server` serve; at the end its socket is closed."""
    thread = threading.Thread(target=server.serve_forever, args=(LOOK,), daemon=True)
    thread.start()
    try:
        yield Served(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
