"""The TCP ports of the control plane: sockets, and what is wrong when one cannot be had."""

import errno
import socket
from dataclasses import dataclass
from typing import Final

from pymesh.errors import ConfigError

# Of the listening sockets; a mesh that starts connects all at once.
BACKLOG: Final = 1024


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that are served; None: not by this process."""

    http: int | None = None
    xds: int | None = None
    tls: int | None = None
    mesh: int | None = None  # bound; it listens once there is a certificate
    webhooks: int | None = None


def listen(address: str, port: int, flag: str) -> socket.socket:
    """A listening TCP socket.

    Raises:
        ConfigError: the address is none of this machine's, or the port is taken or not allowed.
    """
    listener = bind(address, port, flag)
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _not_ours(address, port, flag, error) from error
    return listener


def bind(address: str, port: int, flag: str) -> socket.socket:
    """A TCP socket with its address, which does not listen yet.

    Raises:
        ConfigError: as in `listen`.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise _not_ours(address, port, flag, error) from error
    return listener


def port_of(listener: socket.socket) -> int:
    """The port it is bound to."""
    return int(listener.getsockname()[1])


def _not_ours(address: str, port: int, flag: str, error: OSError) -> ConfigError:
    sentence = f"cannot listen on {address} port {port}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        sentence += f"; is another control plane running? {flag} takes another port"
    return ConfigError(sentence)
