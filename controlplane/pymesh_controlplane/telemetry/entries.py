"""What one access log entry says, as far as the collector counts and sorts by it. Pure.

An entry comes from a pymesh-proxy, whose tags (`pymesh.telemetry_tags`) say everything that its record has, or from an
Envoy, which has the standard fields only: what is missing there is read from the names of its clusters and from its
certificates, or stays unknown. The entry itself is kept as it came; `records` makes the whole record of it when
somebody asks for one, which few ever do.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias

from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from pymesh import names, telemetry_tags
from pymesh.peer_metadata import MAX_VALUE, NO_SERVICE, Peer, ServiceFacts, outsider, peer_of_header
from pymesh_controlplane.telemetry.reporter import Reporter

Entry: TypeAlias = "accesslog_pb2.HTTPAccessLogEntry | accesslog_pb2.TCPAccessLogEntry"
Side: TypeAlias = Literal["source", "destination"]
Security: TypeAlias = Literal["mutual_tls", "none", "unknown"]

# Bytes of an entry. Its strings are a path (8 KiB at most in a sidecar's head), names and sentences.
MAX_ENTRY: Final = 64 * 1024
# Tags of an entry; ours has about thirty.
MAX_TAGS: Final = 96
# Peers and services that are remembered, so that a thousand entries of one workload share their strings.
MAX_KNOWN: Final = 10_000

# Seconds: no request begins after the year 2200, and none lasts as long as from 1970 to then.
MAX_TIME: Final = 230 * 365 * 86_400

# Flags of an answer that is broken, whatever status was sent before it broke: the upstream, or the way to it, failed.
BROKEN: Final = frozenset({
    "UH", "UF", "UT", "LR", "UR", "UC", "UO", "URX", "SI", "UPE", "UMSDR", "DT", "NC", "DF", "OM",
})  # fmt: skip
# The methods that Envoy has a number for, and 0 for any other: the enum is open, and only these have names.
_METHODS: Final = frozenset(base_pb2.RequestMethod.values())
# gRPC's status codes that are the server's failure: unknown, deadline exceeded, unimplemented, internal, unavailable,
# data loss (grpc/doc/statuscodes.md).
_GRPC_STATUSES: Final = frozenset(map(str, range(17)))
_GRPC_FAILED: Final = frozenset({"2", "4", "12", "13", "14", "15"})

# The fields of envoy.data.accesslog.v3.ResponseFlags, in short as Envoy's text log has them.
FLAGS: Final = {
    "failed_local_healthcheck": "LH", "no_healthy_upstream": "UH", "upstream_request_timeout": "UT",
    "local_reset": "LR", "upstream_remote_reset": "UR", "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC", "upstream_overflow": "UO", "no_route_found": "NR",
    "delay_injected": "DI", "fault_injected": "FI", "rate_limited": "RL", "unauthorized_details": "UAEX",
    "rate_limit_service_error": "RLSE", "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX", "stream_idle_timeout": "SI", "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE", "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF", "no_filter_config_found": "NFCF", "duration_timeout": "DT",
    "upstream_protocol_error": "UPE", "no_cluster_found": "NC", "overload_manager": "OM",
    "dns_resolution_failure": "DF", "downstream_remote_reset": "DR",
}  # fmt: skip

_KNOWN_FLAGS: Final = frozenset(FLAGS.values())
# Flags that pymesh-proxy gives a request: why it ended, and why it was not tried again.
MAX_FLAGS: Final = 2

_SOURCE: Final = tuple(f"{telemetry_tags.SOURCE_PREFIX}{field}" for field in Peer._fields)
_DESTINATION: Final = tuple(f"{telemetry_tags.DESTINATION_PREFIX}{field}" for field in Peer._fields)
_SERVICE: Final = tuple(f"{telemetry_tags.SERVICE_PREFIX}{field}" for field in ServiceFacts._fields)


def entries_of(message: als_pb2.StreamAccessLogsMessage) -> list[Entry]:
    """The entries of `message`, which has one kind of them."""
    return [*message.http_logs.log_entry, *message.tcp_logs.log_entry]


class EntryError(ValueError):
    """An entry that cannot be true; the text is the word that it is counted under."""


class Flight:
    """One request, or one connection of opaque bytes, as one proxy reports it.

    Attributes:
        entry: the message as it came, of the kind that `protocol` tells.
        reporter, side: who reports, and from which end of the edge: `source` for what a pod sends and a gateway passes
            on, `destination` for what arrives at a pod.
        direction: `outbound`, `inbound` or `gateway`.
        request_id: x-request-id; empty for connections of opaque bytes.
        source, destination: the workloads at both ends; the reporter's own end is what it has proved.
        source_principal, destination_principal: their SPIFFE identities, empty where nothing was proved.
        service, subset: what was asked for, and the subset that the route chose.
        security: Istio's connection_security_policy; unknown at the source, which leaves it to the destination.
        protocol: `http`, `grpc` or `tcp`.
        status, flag, grpc_status: the answer; 0 without one, `-` without a flag (two: `URX,UF`), empty without gRPC.
        milliseconds: from the first byte to the last.
        received, sent: bytes of bodies, from and to the downstream.
        number: of the flight in the collector, in the order in which they came.
    """

    __slots__ = (
        "destination", "destination_principal", "direction", "entry", "flag", "grpc_status", "milliseconds", "number",
        "protocol", "received", "reporter", "request_id", "security", "sent", "service", "side", "source",
        "source_principal", "status", "subset",
    )  # fmt: skip

    entry: bytes
    reporter: Reporter
    side: Side
    direction: str
    request_id: str
    source: Peer
    destination: Peer
    source_principal: str
    destination_principal: str
    service: ServiceFacts
    subset: str
    security: Security
    protocol: Literal["http", "grpc", "tcp"]
    status: int
    flag: str
    grpc_status: str
    milliseconds: float
    received: int
    sent: int
    number: int

    @property
    def mtls(self) -> bool:
        """Whether both ends have proved to each other who they are."""
        return self.security == "mutual_tls" or (self.side == "source" and bool(self.destination_principal))

    @property
    def failed(self) -> bool:
        """Whether it is an error: the server's, or one on the way to it; what the client did wrong is none."""
        if self.status >= 500 or self.flag in BROKEN or self.grpc_status in _GRPC_FAILED:
            return True
        return "," in self.flag and not BROKEN.isdisjoint(self.flag.split(","))


class Reader:
    """Reads entries, and remembers the peers and services that it has read."""

    def __init__(self) -> None:
        self._peers: dict[tuple[str, ...], Peer] = {}
        self._services: dict[tuple[str, ...], ServiceFacts] = {}

    def read(self, entries: Iterable[Entry], reporter: Reporter, refused: Counter[str]) -> list[Flight]:
        """What `entries` from `reporter` say; what cannot be true is counted in `refused`, by reason.

        What is reported of a connection that is still open counts as `intermediate`: its end will come.
        """
        flights = []
        for entry in entries:
            if entry.common_properties.intermediate_log_entry:
                refused["intermediate"] += 1
                continue
            try:
                flights.append(self.flight(entry, reporter))
            except EntryError as error:
                refused[str(error)] += 1
        return flights

    def flight(self, entry: Entry, reporter: Reporter) -> Flight:
        """What `entry` says.

        Raises:
            EntryError: it is too long, or a value cannot be.
        """
        common = entry.common_properties
        tags = dict(common.custom_tags)
        flight = Flight()
        flight.entry = entry.SerializeToString()
        if len(flight.entry) > MAX_ENTRY or len(tags) > MAX_TAGS:
            raise EntryError("too long")
        flight.reporter = reporter
        flight.direction = _direction(tags, common.upstream_cluster, reporter)
        flight.side = "destination" if flight.direction == "inbound" else "source"
        flight.flag = _flag(tags, common)
        flight.milliseconds = _milliseconds(common)
        flight.number = 0
        if isinstance(entry, accesslog_pb2.HTTPAccessLogEntry):
            _http(flight, entry)
        else:
            _tcp(flight, entry)
        self._ends(flight, common, tags)
        return flight

    def _ends(self, flight: Flight, common: accesslog_pb2.AccessLogCommon, tags: Mapping[str, str]) -> None:
        reporter = flight.reporter
        cluster = names.ClusterName.parse(common.upstream_cluster)
        caller = _principal(common.tls_properties.peer_certificate_properties)
        flight.subset = cluster.subset if cluster and flight.side == "source" else ""
        flight.service = self._service(tags, cluster)
        flight.security = _security(tags, flight.side, caller)
        if flight.side == "source":
            flight.source, flight.source_principal = reporter.peer, reporter.principal
            flight.destination = self._peer(tags, _DESTINATION) or Peer()
            flight.destination_principal = _checked(tags.get(telemetry_tags.UPSTREAM_PEER, ""))
        else:
            flight.source = self._peer(tags, _SOURCE) or _introduced(tags, caller)
            flight.source_principal = caller
            flight.destination, flight.destination_principal = reporter.peer, reporter.principal

    def _peer(self, tags: Mapping[str, str], keys: tuple[str, ...]) -> Peer | None:
        values = tuple(tags.get(key, "") for key in keys)
        if not any(values):
            return None
        found = self._peers.get(values)
        if found is None:
            if len(self._peers) >= MAX_KNOWN:
                self._peers.clear()
            found = Peer(*(_checked(value) or default for value, default in zip(values, Peer(), strict=True)))
            self._peers[values] = found
        return found

    def _service(self, tags: Mapping[str, str], cluster: names.ClusterName | None) -> ServiceFacts:
        values = tuple(tags.get(key, "") for key in _SERVICE)
        if not any(values):
            # An Envoy's entry; its inbound clusters have no host.
            values = (cluster.host, "", "") if cluster and cluster.host else values
        found = self._services.get(values)
        if found is None:
            if len(self._services) >= MAX_KNOWN:
                self._services.clear()
            found = self._services[values] = _service_of(*(_checked(value) for value in values))
        return found


def _service_of(host: str, name: str, namespace: str) -> ServiceFacts:
    if not host and not name:
        return NO_SERVICE
    unknown = NO_SERVICE.name
    labels = host.split(".")
    in_cluster = labels[2:3] == ["svc"]
    return ServiceFacts(
        host or unknown,
        name or (labels[0] if in_cluster else host) or unknown,
        namespace or (labels[1] if in_cluster else unknown),
    )


def _introduced(tags: Mapping[str, str], caller: str) -> Peer:
    """The caller of an Envoy, by the header that it sent, where that agrees with the identity that it has proved."""
    try:
        return peer_of_header(tags[telemetry_tags.PEER_METADATA].encode(), caller)
    except (KeyError, ValueError):
        return outsider(caller)


def _http(flight: Flight, entry: accesslog_pb2.HTTPAccessLogEntry) -> None:
    request, response = entry.request, entry.response
    status = response.response_code.value
    if status > 999:
        raise EntryError("status")
    if request.request_method not in _METHODS:
        raise EntryError("method")
    flight.request_id = request.request_id
    flight.status = status
    flight.received, flight.sent = request.request_body_bytes, response.response_body_bytes
    # Only where the Envoy is told to report these; a pymesh-proxy passes gRPC on as opaque bytes.
    is_grpc = request.request_headers.get("content-type", "").startswith("application/grpc")
    flight.protocol = "grpc" if is_grpc else "http"
    grpc_status = response.response_trailers.get("grpc-status", "") if is_grpc else ""
    flight.grpc_status = grpc_status if grpc_status in _GRPC_STATUSES else ""


def _tcp(flight: Flight, entry: accesslog_pb2.TCPAccessLogEntry) -> None:
    flight.request_id, flight.status = "", 0
    flight.received = entry.connection_properties.received_bytes
    flight.sent = entry.connection_properties.sent_bytes
    flight.protocol, flight.grpc_status = "tcp", ""


def _direction(tags: Mapping[str, str], cluster: str, reporter: Reporter) -> str:
    said = tags.get(telemetry_tags.DIRECTION, "")
    if said:
        if said not in {"inbound", "outbound", "gateway"}:
            raise EntryError("direction")
        return said
    if reporter.kind == "router":
        return "gateway"
    return "inbound" if cluster.startswith("inbound|") or cluster == names.INBOUND_PASSTHROUGH_CLUSTER else "outbound"


def _security(tags: Mapping[str, str], side: Side, caller: str) -> Security:
    said = tags.get(telemetry_tags.SECURITY, "")
    if said == "mutual_tls" or (not said and caller and side == "destination"):
        return "mutual_tls"
    if said == "none" or (not said and side == "destination"):
        return "none"
    if said:
        raise EntryError("security")
    return "unknown"  # an Envoy does not say how it reached its upstream


def _principal(certificate: accesslog_pb2.TLSProperties.CertificateProperties) -> str:
    return next((_checked(name.uri) for name in certificate.subject_alt_name if name.uri), "")


def _flag(tags: Mapping[str, str], common: accesslog_pb2.AccessLogCommon) -> str:
    said = tags.get(telemetry_tags.FLAG, "")
    if said:
        # Several make a label of a metric, too: of a proxy, only the few that it can have at a time are taken.
        several = said.split(",", maxsplit=MAX_FLAGS)
        if len(several) > MAX_FLAGS or not _KNOWN_FLAGS.issuperset(several):
            raise EntryError("flag")
        return said
    if not common.HasField("response_flags"):
        return "-"
    fields = [field.name for field, _ in common.response_flags.ListFields()]
    return ",".join(FLAGS[name] for name in fields if name in FLAGS) or "-"


def _milliseconds(common: accesslog_pb2.AccessLogCommon) -> float:
    if not 0 <= common.start_time.seconds < MAX_TIME:
        raise EntryError("start")
    duration = common.duration if common.HasField("duration") else common.time_to_last_downstream_tx_byte
    milliseconds = duration.seconds * 1000 + duration.nanos / 1e6
    if not 0 <= milliseconds < MAX_TIME * 1000:
        raise EntryError("duration")
    return milliseconds


def _checked(value: str) -> str:
    if len(value) > MAX_VALUE:
        raise EntryError("name too long")
    return value
