"""Listening sockets that whoever started this process has opened for it: systemd's protocol, sd_listen_fds(3)."""

import os
import socket
from collections.abc import Mapping
from typing import Final

from pymesh.errors import MeshError

# SD_LISTEN_FDS_START: the first inherited socket's file descriptor.
FIRST_SOCKET: Final = 3


def handed_in(environ: Mapping[str, str], pid: int) -> dict[int, socket.socket]:
    """The sockets, by the port that each of them stands for, which is its name in LISTEN_FDNAMES.

    Raises:
        MeshError: a name is not a port, or a descriptor is not a listening TCP socket.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return {}  # none, or meant for another process
    count, names = environ.get("LISTEN_FDS", ""), environ.get("LISTEN_FDNAMES", "").split(":")
    if not count.isdecimal() or int(count) != len(names):
        raise MeshError(f"LISTEN_FDS is {count!r}, and LISTEN_FDNAMES has {len(names)} names: each socket needs one")
    found: dict[int, socket.socket] = {}
    for fd, name in enumerate(names, FIRST_SOCKET):
        port = int(name) if name.isdecimal() else 0
        if not 1 <= port <= 65_535 or port in found:
            raise MeshError(f"LISTEN_FDNAMES: {name!r} is not the port of a listener, or is there twice")
        found[port] = _listening(fd, name)
    return found


def _listening(fd: int, name: str) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
        listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise MeshError(f"the socket for port {name} that was handed in as {fd} is none: {error.strerror}") from error
    if not listening:
        raise MeshError(f"the socket for port {name} that was handed in as {fd} does not listen for TCP")
    os.set_inheritable(fd, False)
    sock.setblocking(False)
    return sock
