"""Servers that are up to no good, each in a thread of its own, on loopback."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

# Answers one request, given its number; what it returns is sent, and None resets the connection.
Answering = Callable[[int], bytes | None]

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
_LINGER_NOT = struct.pack("ii", 1, 0)


@contextmanager
def serving(answer: Answering, tls: ssl.SSLContext | None = None, *, keep: bool = True) -> Iterator[int]:
    """The port. Requests are numbered from 0 over all connections; without `keep` each connection has one."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    numbers = iter(range(1_000_000))
    lock = threading.Lock()
    open_ones: set[socket.socket] = set()

    def serve(plain: socket.socket) -> None:
        with suppress(OSError):
            connection = tls.wrap_socket(plain, server_side=True) if tls else plain
            open_ones.add(connection)
            with connection:
                while _read_request(connection):
                    with lock:
                        data = answer(next(numbers))
                    if data is None:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                        return
                    connection.sendall(data)
                    if not keep:
                        return

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for connection in list(open_ones):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def stalling(first: int, seconds: float) -> Answering:
    """Answers at once, but for one request at which the whole server stands still."""

    def answer(number: int) -> bytes:
        if number == first:
            time.sleep(seconds)
        return HELLO

    return answer


def _read_request(connection: socket.socket) -> bool:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        more = connection.recv(4096)
        if not more:
            return False
        data += more
    return True
