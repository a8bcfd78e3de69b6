"""Who is at the two ends of a request: our own workload, and what is believed of the one that calls.

A sidecar introduces its workload to the sidecar it calls by two headers, as Istio's does. Anybody can write headers:
they are taken off every request that comes in, and believed only of a peer that has proved its identity by mTLS, and
only as far as that identity bears them out (`pymesh.peer_metadata`). The app never sees them.
"""

from collections import OrderedDict
from functools import lru_cache
from typing import Final

from pymesh.names import BLACK_HOLE_CLUSTER, PASSTHROUGH_CLUSTER
from pymesh.peer_metadata import (
    HEADER,
    HEADER_ID,
    MAX_VALUE,
    UNKNOWN,
    UNKNOWN_VALUE,
    Peer,
    ServiceFacts,
    header_of,
    outsider,
    peer_of_header,
)
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.telemetry.record import RequestRecord

_HEADER: Final = HEADER.encode()
PEER_HEADERS: Final = frozenset({_HEADER, HEADER_ID.encode()})

# Introductions that are remembered, each as long as the longest (8 KiB): 4 MiB. Callers have some hundreds of bytes,
# and a service has tens of them.
MAX_KNOWN: Final = 512

# Routes of an outbound listener for hosts that no service has; Istio's names.
_CATCH_ALL: Final = {"allow_any": PASSTHROUGH_CLUSTER, "block_all": BLACK_HOLE_CLUSTER}


class Peers:
    """What this proxy knows of workloads.

    Attributes:
        own: the workload beside it; UNKNOWN outside a pod.
        principal: its SPIFFE identity.
        refused: introductions that were not believed.
    """

    def __init__(self) -> None:
        self.own = UNKNOWN
        self.principal = ""
        self.refused = 0
        self._sidecar = True
        self._introduction = b""
        self._known: OrderedDict[tuple[bytes | None, str], Peer] = OrderedDict()

    def introduce(self, own: Peer, *, pod: str, node_id: str, principal: str, sidecar: bool) -> None:
        """Say who we are, as soon as that is known."""
        self.own = own
        self.principal = principal
        self._sidecar = sidecar
        lines = f"{HEADER_ID}: {node_id}\r\n{HEADER}: {header_of(own, pod)}\r\n"
        self._introduction = lines.encode("ascii") if node_id.isascii() and node_id.isprintable() else b""

    def introduction(self, record: RequestRecord) -> bytes:
        """The header lines for a request that goes to a workload of the mesh; none where it came to us from one."""
        return b"" if record.facts.direction == "inbound" else self._introduction

    def meet(self, record: RequestRecord, request: Head) -> None:
        """Note who calls and whom, as far as that is known yet, and take the introduction off the request."""
        facts = record.facts
        if facts.direction != "inbound":
            record.source = self.own
            if request.shape.has_any(PEER_HEADERS):  # the app's own words about itself
                request.remove_all(PEER_HEADERS)
            return
        record.destination = self.own
        value = request.get(_HEADER)
        record.source = self._known.get((value, facts.peer)) or self._make_out(value, facts.peer)
        if request.has_any(PEER_HEADERS):
            request.remove_all(PEER_HEADERS)

    def _make_out(self, value: bytes | None, identity: str) -> Peer:
        """Who says `value` with this identity; remembered, so that it is read once."""
        peer = outsider(identity)
        if value is not None:
            try:
                peer = peer_of_header(value, identity)
            except ValueError:
                self.refused += 1
                return peer
        self._known[value, identity] = peer
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return peer

    def accept(self, record: RequestRecord) -> None:
        """Note who is at the ends of an opaque connection, where no headers introduce anybody."""
        facts = record.facts
        if facts.direction == "inbound":
            record.source, record.destination = self._make_out(None, facts.peer), self.own
        else:
            record.source = self.own

    def settle(self, record: RequestRecord) -> None:
        """Note what a request was for that did not go to a service's cluster, in Istio's way.

        In the callee's pod that is the workload itself. A caller's sidecar says the host that was asked for; a gateway
        does not, since outsiders could ask for any.
        """
        if record.service.host == UNKNOWN_VALUE:
            record.service = self._service(record)

    def _service(self, record: RequestRecord) -> ServiceFacts:
        # `record.matched` and `said`, since to ask for texts of them costs a request without a service 1 us more.
        name = record.service.name
        if record.matched is not None:
            name = _CATCH_ALL.get(record.matched.name, name)
        if record.facts.direction == "inbound":
            return _service_facts(self.own.canonical_service, name, self.own.namespace)
        authority = record.said[1]
        host = authority.decode("latin-1") if self._sidecar and len(authority) <= MAX_VALUE else ""
        return _service_facts(host, name, record.destination.namespace)


@lru_cache(maxsize=MAX_KNOWN)
def _service_facts(host: str, name: str, namespace: str) -> ServiceFacts:
    host = host.lower() or UNKNOWN_VALUE
    return ServiceFacts(host, host if name == UNKNOWN_VALUE else name, namespace)
