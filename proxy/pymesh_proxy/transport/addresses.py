"""The addresses of this network namespace, loopback left out."""

import re
import socket
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from time import monotonic
from typing import Final

# How long an answer is good for. A pod's addresses change when the network plugin adds one, not between connections.
FRESH_SECONDS: Final = 1.0
_LOCAL_V4: Final = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")


def own_addresses(proc: Path = Path("/proc/net")) -> frozenset[str]:
    """Every address of the interfaces in this namespace, in canonical text form.

    IPv4 from the kernel's routing trie (`fib_trie`), whose LOCAL host entries are exactly the addresses that are ours;
    IPv6 from `if_inet6`, one address a line as 32 hexadecimal digits.
    """
    found = set(_LOCAL_V4.findall((proc / "fib_trie").read_text()))
    inet6 = proc / "if_inet6"
    if inet6.exists():
        found |= {str(IPv6Address(int(line.split()[0], 16))) for line in inet6.read_text().splitlines()}
    return frozenset(address for address in found if not ip_address(address).is_loopback)


def cached(read: Callable[[], frozenset[str]] = own_addresses) -> Callable[[], frozenset[str]]:
    """`read`, at most once in FRESH_SECONDS."""
    known: frozenset[str] = frozenset()
    until = 0.0

    def addresses() -> frozenset[str]:
        nonlocal known, until
        now = monotonic()
        if now >= until:
            known, until = read(), now + FRESH_SECONDS
        return known

    return addresses


def port_of(sock: socket.socket) -> int:
    """The port that `sock` is bound to."""
    return int(sock.getsockname()[1])
