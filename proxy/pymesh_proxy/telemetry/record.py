"""One record per request: the only source of its metrics, its log line and its explanation.

Times are seconds of the loop's monotonic clock, 0.0 where a phase was not reached; `wall` is the start in Unix time.
"""

from collections.abc import Mapping

from pymesh_proxy.errors import Flag


class RequestRecord:
    """What is known of one request, filled in as it passes through the phases of `exchange`.

    Attributes:
        request_id: x-request-id, as sent upstream.
        direction: "inbound", "outbound" or "gateway".
        method, authority, path, protocol: as the client sent them (`path` before any rewrite).
        downstream_remote, downstream_local, original_destination: "ip:port".
        peer, own: SPIFFE identities on the downstream connection; empty on plaintext.
        sni: server name the client asked for; empty without TLS.
        t_start .. t_end: request head read; route chosen; policy and other filters passed; upstream connection in hand;
            first byte of the response; last byte of the response passed on.
        route, virtual_host, route_source: what matched, and the resource that it was written in.
        cluster, endpoint, endpoint_labels, upstream_local, upstream_peer: where it went and who answered there.
        attempts: how often it was sent, 1 without a retry.
        reused: whether the upstream connection was a pooled one.
        status, flag, details: the answer, and why where the proxy gave it.
        bytes_received, bytes_sent: of bodies, framing included.
        notes: what filters want to say, as in {"policy": "allowed by …"}; empty for most requests.
    """

    __slots__ = (
        "attempts", "authority", "bytes_received", "bytes_sent", "cluster", "details", "direction", "downstream_local",
        "downstream_remote", "endpoint", "endpoint_labels", "flag", "method", "notes", "original_destination", "own",
        "path", "peer", "protocol", "request_id", "reused", "route", "route_source", "sni", "status", "t_connected",
        "t_end", "t_filtered", "t_first_byte", "t_routed", "t_start", "upstream_local", "upstream_peer",
        "virtual_host", "wall",
    )  # fmt: skip

    def __init__(self, direction: str, wall: float, now: float) -> None:
        self.direction = direction
        self.wall = wall
        self.t_start = now
        self.t_routed = self.t_filtered = self.t_connected = self.t_first_byte = self.t_end = 0.0
        self.request_id = self.method = self.authority = self.path = ""
        self.protocol = "HTTP/1.1"
        self.downstream_remote = self.downstream_local = self.original_destination = ""
        self.peer = self.own = self.sni = ""
        self.route = self.virtual_host = self.route_source = ""
        self.cluster = self.endpoint = self.upstream_local = self.upstream_peer = ""
        self.endpoint_labels: Mapping[str, str] = {}
        self.attempts = 0
        self.reused = False
        self.status = 0
        self.flag = Flag.NONE
        self.details = ""
        self.bytes_received = self.bytes_sent = 0
        self.notes: dict[str, str] = {}
