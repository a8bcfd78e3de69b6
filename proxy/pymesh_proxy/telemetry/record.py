"""One record per request: the only source of its metrics, its log line and its explanation.

Times are seconds of the loop's monotonic clock, 0.0 where a phase was not reached; `wall` is the start in Unix time.
"""

from collections.abc import Mapping

from pymesh.peer_metadata import NO_SERVICE, UNKNOWN, UNKNOWN_VALUE, Peer, ServiceFacts
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag
from pymesh_proxy.routing import Route
from pymesh_proxy.telemetry.trace_context import SpanContext
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.upstream.endpoint import Endpoint


class RequestRecord:
    """What is known of one request, filled in as it passes through the phases of `exchange`.

    Attributes:
        request_id: x-request-id, as sent upstream.
        method, authority, path, protocol: as the client sent them (`path` before any rewrite).
        facts: the downstream connection: addresses, original destination, TLS, identities.
        headers, response_headers: the heads themselves, for what an access log format asks for; None before they came.
        t_start .. t_end: request head read; filters passed (policy among them); upstream connection in hand and request
            sent; first byte of the response; last byte of the response passed on.
        route, virtual_host, route_source: what matched, and the resource that it was written in.
        cluster, endpoint, endpoint_labels, upstream_local, upstream_peer: where it went and who answered there.
        source, destination: the workloads at both ends.
        service: what the request was for.
        attempts: how often it was sent, 1 without a retry.
        reused: whether the upstream connection was a pooled one.
        status, flag, details: the answer, and why where the proxy gave it.
        bytes_received, bytes_sent: of bodies, framing included.
        span: where it stands in its trace; None where requests are not traced.
        notes: what filters want to say, as in {"policy": "allowed by …"}; empty for most requests.
    """

    __slots__ = (
        "attempts", "authority", "bytes_received", "bytes_sent", "cluster", "destination", "details", "endpoint",
        "endpoint_labels", "facts", "flag", "headers", "method", "notes", "path", "protocol", "request_id",
        "response_headers", "reused", "route", "route_source", "service", "source", "span", "status", "t_connected",
        "t_end", "t_filtered", "t_first_byte", "t_start", "upstream_local", "upstream_peer", "virtual_host", "wall",
    )  # fmt: skip

    def __init__(self, facts: Facts, wall: float, now: float) -> None:
        self.facts = facts
        self.wall = wall
        self.t_start = now
        self.t_filtered = self.t_connected = self.t_first_byte = self.t_end = 0.0
        self.request_id = self.method = self.authority = self.path = ""
        self.protocol = "HTTP/1.1"
        self.route = self.virtual_host = self.route_source = ""
        self.cluster = self.endpoint = self.upstream_local = self.upstream_peer = ""
        self.endpoint_labels: Mapping[str, str] = {}
        self.source: Peer = UNKNOWN
        self.destination: Peer = UNKNOWN
        self.service: ServiceFacts = NO_SERVICE
        self.attempts = 0
        self.reused = False
        self.status = 0
        self.flag = Flag.NONE
        self.details = ""
        self.bytes_received = self.bytes_sent = 0
        self.notes: dict[str, str] = {}
        self.span: SpanContext | None = None
        self.headers: Head | None = None
        self.response_headers: Head | None = None

    def read(self, head: Head) -> None:
        """Note what the request's head says."""
        self.headers = head
        self.method = head.method.decode("latin-1")
        self.path = head.path.decode("latin-1")
        self.authority = head.authority.decode("latin-1")
        if head.minor == 0:
            self.protocol = "HTTP/1.0"

    def follows(self, route: Route) -> None:
        """Note the route that matched."""
        self.route, self.virtual_host, self.route_source = route.name, route.virtual_host, route.source

    def goes_to(self, endpoint: Endpoint) -> None:
        """Note another attempt, and whom it is made at."""
        self.attempts += 1
        self.endpoint, self.endpoint_labels = endpoint.address, endpoint.labels
        if self.facts.direction != "inbound":  # there it is our own workload, as is known from the start
            self.destination = endpoint.peer

    @property
    def security(self) -> str:
        """Istio's `connection_security_policy` of the downstream connection: `mutual_tls` or `none` where it came in
        from another pod. The sidecar of the caller leaves it to the other one: `unknown`.
        """
        if self.facts.direction != "inbound":
            return UNKNOWN_VALUE
        return "mutual_tls" if self.facts.peer else "none"
