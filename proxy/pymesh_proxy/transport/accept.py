"""Listening sockets: opened, accepted from, paused when the process has no more file descriptors."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeAlias

from pymesh.errors import MeshError

log = logging.getLogger("pymesh.listener")

BACKLOG: Final = 4096  # Envoy's; the kernel caps it at net.core.somaxconn
# Connections taken at one wake-up before others get their turn.
ACCEPT_BATCH: Final = 32
# How long to leave the queue alone after EMFILE: closing something takes a moment.
EXHAUSTED_PAUSE: Final = 0.5
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# What the socket module calls the other end: host and port, and of IPv6 two numbers more.
PeerName: TypeAlias = "tuple[str, int] | tuple[str, int, int, int]"


def listen(host: str, port: int, *, transparent: bool = False) -> socket.socket:
    """A listening socket on `host` ("" for every address, IPv6 included where there is any).

    Raises:
        MeshError: the address cannot be listened on; the text says why and what to do.
    """
    family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if not host or transparent else 1)
        sock.bind((host or ("::" if family == socket.AF_INET6 else "0.0.0.0"), port))  # noqa: S104 - a redirect arrives on any address of the pod
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        where = f"{host or '*'}:{port}"
        if error.errno == errno.EADDRINUSE:
            raise MeshError(
                f"port {where} is in use: stop what listens there (`ss -ltnp`), or choose another"
            ) from error
        if error.errno == errno.EACCES:
            raise MeshError(f"no right to listen on {where}: ports below 1024 need CAP_NET_BIND_SERVICE") from error
        raise MeshError(f"cannot listen on {where}: {error.strerror}") from error
    return sock


def attach(loop: asyncio.AbstractEventLoop, sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol]) -> None:
    """Give the accepted `sock` a transport and `factory`'s protocol, which is told in the loop's next turn.

    The loop's coroutine for it only waits for that turn: it is worth a callback, but no task.

    Raises:
        OSError: the connection broke. The socket is still open.
    """
    adopting = loop.connect_accepted_socket(factory, sock)
    told: asyncio.Future[None] = adopting.send(None)
    told.add_done_callback(partial(_attached, adopting))


def _attached(adopting: Coroutine[Any, Any, object], _: object) -> None:
    try:
        adopting.send(None)
    except StopIteration:
        return
    raise RuntimeError("connect_accepted_socket waits for more than its protocol")


class Accepted(socket.socket):
    """An accepted socket that tells its family and type as numbers.

    The socket module makes an enum of them whenever somebody asks, which loops do for every connection.
    """

    __slots__ = ()
    family = socket.SocketType.family  # type: ignore[assignment]  # typeshed knows the enums only
    type = socket.SocketType.type  # type: ignore[assignment]  # the same


class Acceptor:
    """Accepts from one listening socket and hands every connection on, non-blocking, with the name of its other end."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, serve: Callable[[socket.socket, PeerName], None]
    ) -> None:
        self.sock = sock
        self.exhausted = 0
        self._kind = int(sock.family), int(sock.type), sock.proto
        self._loop = loop
        self._serve = serve
        self._resume: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to accept."""
        self._resume = None
        self._loop.add_reader(self.sock, self._accept)

    def close(self) -> None:
        """Accept no more, and give the port back."""
        if self._resume is not None:
            self._resume.cancel()
        if self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock)
            self.sock.close()

    def _accept(self) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                descriptor, peer = self.sock._accept()  # type: ignore[attr-defined]  # `accept` makes enums
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                return
            accepted = Accepted(*self._kind, fileno=descriptor)
            accepted.setblocking(False)
            self._serve(accepted, peer)

    def _pause(self, error: OSError) -> None:
        """Out of file descriptors or memory: an acceptor that goes on would only burn CPU."""
        self.exhausted += 1
        log.error("cannot accept: %s; trying again in %g s (raise `ulimit -n`?)", error.strerror, EXHAUSTED_PAUSE)
        self._loop.remove_reader(self.sock)
        self._resume = self._loop.call_later(EXHAUSTED_PAUSE, self.start)
