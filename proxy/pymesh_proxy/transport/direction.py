"""Which way an accepted connection goes, and which connections are none of the proxy's business.

One listening port serves both directions, so each connection must tell its own. The kernel gives a trustworthy sign: a
redirect in OUTPUT (the pod's own processes) turns the destination into loopback, a redirect in PREROUTING (everything
from outside) into an address of the interface it came in by. So the *local address of the accepted socket* decides.
The original destination alone must not: it is whatever the sender wrote. A neighbour that routes foreign packets
through this pod would pass for the pod's own app, and go out under the pod's identity.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from pymesh_proxy.config.model import Direction

Address = tuple[str, int]

# Hosts repeat: the pod's own addresses, and the services and pods that it calls. What they are is kept for this many.
MAX_HOSTS: Final = 4096


@dataclass(frozen=True, slots=True)
class Refused:
    """The connection is closed unserved. `reason` is a sentence for the log and the record."""

    reason: str


def classify(
    local: Address,
    peer: Address,
    original_destination: Address | None,
    own_addresses: frozenset[str],
    listener_ports: Collection[int],
) -> Direction | Refused:
    """INBOUND, OUTBOUND, or why the connection is refused.

    Args:
        local: local address of the accepted socket.
        peer: its remote address; only for the sentence.
        original_destination: what `original_dst.original_destination` says about it.
        own_addresses: the pod's own addresses in canonical text form, without loopback.
        listener_ports: the ports that the proxy accepts redirected connections on.

    Hosts are IP addresses as the socket module gives them; an IPv4-mapped IPv6 address counts as the IPv4 address.

    Raises:
        ValueError: a host is not an IP address.
    """
    local_ip, from_inside = _read(local[0])
    if original_destination is None:
        return Refused(
            f"{_text(peer)} connected to {_text(local)} itself: no original destination is known, so the connection "
            "was not redirected"
        )
    (target_ip, to_loopback), target_port = _read(original_destination[0]), original_destination[1]
    is_own = target_ip in own_addresses

    untouched = (target_ip, target_port) == (local_ip, local[1])
    if untouched or (target_port in listener_ports and (is_own or to_loopback)):
        return Refused(
            f"{_text(peer)} connected to the proxy's own listener {_text(original_destination)}: the connection was "
            "not redirected, and serving it would make the proxy call itself"
        )
    if not from_inside:  # through PREROUTING: from outside the pod
        if is_own:
            return Direction.INBOUND
        return Refused(
            f"{_text(peer)} sent a connection for {_text(original_destination)} through this pod, which does not own "
            "that address: it would go on under this pod's identity"
        )
    # Through OUTPUT: from inside the pod, either to itself or to the world.
    return Direction.INBOUND if is_own else Direction.OUTBOUND


@lru_cache(maxsize=MAX_HOSTS)
def _read(host: str) -> tuple[str, bool]:
    """The address in canonical text form, and whether it is a loopback one."""
    address = _plain(host)
    return str(address), address.is_loopback


def _plain(host: str) -> IPv4Address | IPv6Address:
    """The address without scope, and as IPv4 where it is one."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _text(address: Address) -> str:
    host = _plain(address[0])
    return f"[{host}]:{address[1]}" if host.version == 6 else f"{host}:{address[1]}"
