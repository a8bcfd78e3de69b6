"""Where a redirected connection was going before the redirect, as the kernel's connection tracking remembers it."""

import errno
import socket
import struct
from ipaddress import IPv6Address

# linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h: both are 80, each at the level of its own protocol.
SO_ORIGINAL_DST = 80
IP6T_SO_ORIGINAL_DST = 80

# struct sockaddr_in: family, port, address, and padding to 16 bytes.
_SOCKADDR_IN = struct.Struct("!2xH4s8x")
# struct sockaddr_in6: family, port, flow label, address, scope.
_SOCKADDR_IN6 = struct.Struct("!2xH4x16s4x")

# What getsockopt says when connection tracking does not know the connection, or is not there at all.
_UNTRACKED = frozenset({errno.ENOENT, errno.ENOPROTOOPT})


def original_destination(sock: socket.socket, local: str | None = None) -> tuple[str, int] | None:
    """Host and port that the peer of the accepted `sock` dialled; None if the kernel has no record of it.

    A connection that is tracked but was never redirected has its local address as its original destination. Over a
    dual-stack socket an IPv4 destination comes back in IPv4 form. `local` is the socket's own host, of who knows it.

    Raises:
        OSError: the socket is no longer connected, or not an IP socket.
    """
    try:
        if local is None:
            local = sock.getsockname()[0] if sock.family == socket.AF_INET6 else ""
        if ":" in local and not _is_mapped(local):
            data = sock.getsockopt(socket.IPPROTO_IPV6, IP6T_SO_ORIGINAL_DST, _SOCKADDR_IN6.size)
            port, packed = _SOCKADDR_IN6.unpack(data)
            return str(IPv6Address(packed)), port
        data = sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, _SOCKADDR_IN.size)
        port, packed = _SOCKADDR_IN.unpack(data)
        return socket.inet_ntoa(packed), port
    except OSError as error:
        if error.errno in _UNTRACKED:
            return None
        raise


def _is_mapped(host: str) -> bool:
    """Whether `host`, as getsockname gives it, is an IPv4 address in IPv6 clothes (RFC 4291 section 2.5.5.2)."""
    return host.startswith("::ffff:") and "." in host
