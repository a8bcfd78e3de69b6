"""One record per request: the only source of its metrics, its log line and its explanation.

Times are seconds of the loop's monotonic clock, 0.0 where a phase was not reached; `wall` is the start in Unix time.

A request costs only what it notes: what most requests never change stands in the class, and what few ask for (text of
the head, names of the route) is made when somebody does, of objects that are noted as they are.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from pymesh.peer_metadata import NO_SERVICE, UNKNOWN, UNKNOWN_VALUE, Peer, ServiceFacts
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag
from pymesh_proxy.routing import Route
from pymesh_proxy.telemetry.trace_context import SpanContext
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.upstream.endpoint import Endpoint

T = TypeVar("T")

_NO_FLAG: Final = Flag.NONE  # (an attribute of an enumeration costs 40 ns)
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class _Asked(Generic[T]):
    """An attribute that is made of others whenever somebody asks for it, unless it was set."""

    def __init__(self, make: "Callable[[RequestRecord], T]") -> None:
        self._make = make

    def __get__(self, record: "RequestRecord", owner: type) -> T:
        return self._make(record)

    if TYPE_CHECKING:  # there is none, so that what is set in a record is found before this

        def __set__(self, record: "RequestRecord", value: T) -> None: ...


def _notes(record: "RequestRecord") -> dict[str, str]:
    found: dict[str, str] = {}
    record.notes = found
    return found


def _metadata(record: "RequestRecord") -> dict[str, Mapping[str, object]]:
    found: dict[str, Mapping[str, object]] = {}
    record.metadata = found
    return found


class RequestRecord:
    """What is known of one request, filled in as it passes through the phases of `exchange`.

    Attributes:
        request_id: x-request-id, as sent upstream.
        said: method, authority and path in bytes, as the client sent them (before any rewrite).
        method, authority, path, protocol: the same as text.
        facts: the downstream connection: addresses, original destination, TLS, identities.
        headers, response_headers: the heads themselves, for what an access log format asks for; None before they came.
        t_start .. t_end: request head read; filters passed (policy among them); upstream connection in hand and request
            sent; first byte of the response; last byte of the response passed on.
        matched: the route.
        route, virtual_host, route_source: its names, and the resource that it was written in.
        cluster: where it went.
        picked: the endpoint of the last attempt.
        endpoint, endpoint_labels, upstream_local, upstream_peer: its address, and who answered there.
        source, destination: the workloads at both ends.
        service: what the request was for.
        attempts: how often it was sent, 1 without a retry.
        reused: whether the upstream connection was a pooled one.
        status, flag, details: the answer, and why where the proxy gave it.
        gave_up: why no other attempt was made of a request that was worth one: retries used up, or too many of them.
        bytes_received, bytes_sent: of bodies, framing included.
        span: where it stands in its trace; None where requests are not traced.
        notes: what filters want to say, as in {"policy": "allowed by …"}; empty for most requests.
        metadata: what filters tell those behind them: objects of JSON by the filter's name; Envoy's dynamic metadata.
    """

    request_id = cluster = upstream_local = upstream_peer = details = ""
    said: tuple[bytes, bytes, bytes] = (b"", b"", b"")
    protocol = "HTTP/1.1"
    matched: Route | None = None
    picked: Endpoint | None = None
    t_filtered = t_connected = t_first_byte = t_end = 0.0
    status = 0
    reused = False
    span: SpanContext | None = None
    headers: Head | None = None
    response_headers: Head | None = None

    method = _Asked(lambda record: record.said[0].decode("latin-1"))
    authority = _Asked(lambda record: record.said[1].decode("latin-1"))
    path = _Asked(lambda record: record.said[2].decode("latin-1"))
    route = _Asked(lambda record: "" if record.matched is None else record.matched.name)
    virtual_host = _Asked(lambda record: "" if record.matched is None else record.matched.virtual_host)
    route_source = _Asked(lambda record: "" if record.matched is None else record.matched.source)
    endpoint = _Asked(lambda record: "" if record.picked is None else record.picked.address)
    endpoint_labels = _Asked(lambda record: _NOTHING if record.picked is None else record.picked.labels)
    notes = _Asked(_notes)
    metadata = _Asked(_metadata)

    def __init__(self, facts: Facts, wall: float, now: float, head: Head | None = None) -> None:
        """`wall`, `now`: the start, in Unix time and monotonic; `head`: of the request, None for opaque bytes."""
        self.facts = facts
        self.wall = wall
        self.t_start = now
        # What every request asks for: reading it from the class costs ten times as much.
        self.source: Peer = UNKNOWN
        self.destination: Peer = UNKNOWN
        self.service: ServiceFacts = NO_SERVICE
        self.flag = self.gave_up = _NO_FLAG
        self.attempts = self.bytes_received = self.bytes_sent = 0
        if head is not None:
            self.headers = head
            self.said = head.method, head.authority, head.path
            if head.minor == 0:
                self.protocol = "HTTP/1.0"

    def goes_to(self, endpoint: Endpoint) -> None:
        """Note another attempt, and whom it is made at."""
        self.attempts += 1
        self.picked = endpoint
        if self.facts.direction != "inbound":  # there it is our own workload, as is known from the start
            self.destination = endpoint.peer

    @property
    def flags(self) -> str:
        """The response flags as in an access log, in the order in which they came: `URX,UF`; `-` without one."""
        flag, gave_up = self.flag, self.gave_up
        if gave_up is _NO_FLAG or gave_up is flag:
            return flag.value
        return gave_up.value if flag is _NO_FLAG else f"{gave_up.value},{flag.value}"

    @property
    def security(self) -> str:
        """Istio's `connection_security_policy` of the downstream connection: `mutual_tls` or `none` where it came in
        from another pod. The sidecar of the caller leaves it to the other one: `unknown`.
        """
        if self.facts.direction != "inbound":
            return UNKNOWN_VALUE
        return "mutual_tls" if self.facts.peer else "none"
