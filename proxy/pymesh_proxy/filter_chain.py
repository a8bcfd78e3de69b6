"""Which filter chain of a listener a connection belongs to. Pure.

The criteria are tried in a fixed order, destination port, destination address, server name, transport protocol,
application protocol; at each one the most specific match wins and the others are out, without going back.

Source: envoy.config.listener.v3.FilterChainMatch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from pymesh_proxy.codec.detect import OPAQUE, Detection, Protocol
from pymesh_proxy.config.model import FilterChain, HttpManager, Listener, TcpProxy

T = TypeVar("T")

# Destinations repeat: services and pods of a mesh, not the whole Internet. What was found is kept for each, up to this
# many, for as long as the listener is in force.
MAX_DESTINATIONS: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The chains that are left when only the destination is known; the default chain is not among them.

    Attributes:
        inspected: what the client says first decides between them, or against them all.
        found: the choice by what is spoken, where that is all that there is to know: TLS says more.
    """

    chains: tuple[FilterChain, ...]
    inspected: bool
    found: dict[Protocol, FilterChain | None] = field(default_factory=dict)


_candidates: Final[WeakKeyDictionary[Listener, dict[tuple[str, int], Candidates]]] = WeakKeyDictionary()


def find_chain(listener: Listener, destination: tuple[str, int], detection: Detection) -> FilterChain | None:
    """The chain for a connection to `destination` (ip, port) that began as `detection` says; None if there is none."""
    left = candidates(listener, destination)
    spoken = detection.protocol
    if spoken is Protocol.TLS:
        return _find(listener, left.chains, detection)
    if spoken not in left.found:
        left.found[spoken] = _find(listener, left.chains, detection)
    return left.found[spoken]


def _find(listener: Listener, chains: Sequence[FilterChain], detection: Detection) -> FilterChain | None:
    name = detection.server_name
    chains = _most_specific(chains, lambda chain: _server_name(chain.match.server_names, name))
    transport = "tls" if detection.protocol is Protocol.TLS else "raw_buffer"
    chains = _most_specific(chains, lambda chain: _exact(chain.match.transport_protocol, transport))
    spoken = detection.application_protocols
    chains = _most_specific(chains, lambda chain: _application(chain.match.application_protocols, spoken))
    return chains[0] if chains else listener.default_chain


def inspected(listener: Listener, detection: Detection) -> Detection:
    """What of `detection` the listener's inspectors would tell."""
    looked_for = listener.inspect_tls if detection.protocol is Protocol.TLS else listener.inspect_http
    return detection if looked_for else OPAQUE


def http_beside(listener: Listener, destination: tuple[str, int], chain: FilterChain) -> HttpManager | None:
    """Who reads the requests to a destination whose opaque bytes, over the same TLS, `chain` takes; None if nobody.

    Nobody has said what is spoken there, and only the client's ALPN told the one from the other.
    """
    if chain.tls is None or not isinstance(chain.handler, TcpProxy):
        return None
    for other in candidates(listener, destination).chains:
        same = other.tls is not None and other.match.server_names == chain.match.server_names
        if same and isinstance(other.handler, HttpManager):
            return other.handler
    return None


def candidates(listener: Listener, destination: tuple[str, int]) -> Candidates:
    """What is left to choose from for a connection to `destination` (ip, port)."""
    known = _candidates.get(listener)
    if known is None:
        known = _candidates[listener] = {}
    left = known.get(destination)
    if left is None:
        if len(known) >= MAX_DESTINATIONS:
            known.clear()
        chains = _by_destination(listener, *destination)
        matches = [chain.match for chain in chains]
        inspected = any(at.transport_protocol or at.application_protocols or at.server_names for at in matches)
        left = known[destination] = Candidates(chains, inspected)
    return left


def _by_destination(listener: Listener, host: str, port: int) -> tuple[FilterChain, ...]:
    chains = _most_specific(listener.chains, lambda chain: _exact(chain.match.destination_port, port))
    address = ip_address(host)

    def prefix(chain: FilterChain) -> int | None:
        ranges = chain.match.prefix_ranges
        if not ranges:
            return -1
        return max((net.prefixlen for net in ranges if net.version == address.version and address in net), default=None)

    return tuple(_most_specific(chains, prefix))


def _most_specific(chains: Sequence[FilterChain], score: Callable[[FilterChain], int | None]) -> list[FilterChain]:
    """The chains with the highest score; None is no match. -1 stands for "does not care"."""
    best: list[FilterChain] = []
    highest = -2
    for chain in chains:
        found = score(chain)
        if found is None or found < highest:
            continue
        if found > highest:
            highest, best = found, []
        best.append(chain)
    return best


def _exact(wanted: T | None, have: T) -> int | None:
    """A criterion that is one value: 0 for equal, -1 for not given."""
    if wanted is None or wanted == "":
        return -1
    return 0 if wanted == have else None


def _server_name(wanted: tuple[str, ...], have: str) -> int | None:
    """An exact name before the longest suffix wildcard (`*.example.com`)."""
    if not wanted:
        return -1
    scores = [
        len(name) + (1 << 16) if name == have else len(name)
        for name in wanted
        if name == have or (name.startswith("*.") and have.endswith(name[1:]))
    ]
    return max(scores, default=None)


def _application(wanted: tuple[str, ...], have: tuple[str, ...]) -> int | None:
    """The client's first choice before its second."""
    if not wanted:
        return -1
    return max((len(have) - place for place, name in enumerate(have) if name in wanted), default=None)
