"""What a listener, a filter chain and a cluster are once compiled: plain values, ready for the data path.

Nothing here knows protobuf: the other modules of this package make these from xDS; `connection`, `exchange` and
`relay` read them. Durations are seconds, sizes are bytes. Everything is immutable; what changes while traffic flows
(health, pools, counts in flight) lives in `upstream/endpoint.py` and survives a new snapshot.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, TypeAlias

from pymesh import names
from pymesh.peer_metadata import NO_SERVICE, ServiceFacts
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.filters.network_rbac import NetworkRbac
from pymesh_proxy.routing import RouteTable
from pymesh_proxy.telemetry.tracing import EVERY_REQUEST, Sampling
from pymesh_proxy.upstream.balancer import EVENLY, Balance
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.health import HealthCheck
from pymesh_proxy.upstream.outlier import OutlierSettings
from pymesh_proxy.upstream.registry import EndpointSpec


class Direction(enum.Enum):
    """Which way a listener's traffic flows, seen from the workload (envoy.config.core.v3.TrafficDirection)."""

    UNSPECIFIED = "unspecified"
    INBOUND = "inbound"
    OUTBOUND = "outbound"


# --- TLS -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SdsName:
    """A secret that arrives by name: from citadel (`default`, `ROOTCA`) or another secret service."""

    name: str


@dataclass(frozen=True, slots=True)
class InlineCertificate:
    """A certificate chain and its key, PEM."""

    chain: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class InlineRoots:
    """Trusted roots, PEM."""

    pem: bytes


@dataclass(frozen=True, slots=True)
class PeerValidation:
    """Whom to accept on the other end: a chain to `roots`, and one SAN that one of `san_matchers` accepts.

    No matchers means that any name under these roots will do.
    """

    roots: SdsName | InlineRoots
    san_matchers: tuple[Callable[[str], bool], ...] = ()


@dataclass(frozen=True, slots=True)
class TlsServer:
    """Downstream TLS (envoy DownstreamTlsContext)."""

    certificate: SdsName | InlineCertificate
    validation: PeerValidation | None = None
    require_client_certificate: bool = False
    alpn: tuple[str, ...] = ()
    minimum_version: str = "TLSv1_2"
    maximum_version: str = "TLSv1_3"


@dataclass(frozen=True, slots=True)
class TlsClient:
    """Upstream TLS (envoy UpstreamTlsContext)."""

    certificate: SdsName | InlineCertificate | None = None
    validation: PeerValidation | None = None
    sni: str = ""
    alpn: tuple[str, ...] = ()
    minimum_version: str = "TLSv1_2"
    maximum_version: str = "TLSv1_3"

    @property
    def to_mesh(self) -> bool:
        """Whether the other end is one of the mesh's workloads: the mesh's own root vouches for it."""
        return self.validation is not None and self.validation.roots == SdsName(names.SDS_ROOT)


# --- Listeners -----------------------------------------------------------------------------------------------------


class ServerHeader(enum.Enum):
    """What becomes of the `server` response header (HttpConnectionManager.ServerHeaderTransformation)."""

    OVERWRITE = "overwrite"
    APPEND_IF_ABSENT = "append_if_absent"
    PASS_THROUGH = "pass_through"


class ForwardClientCert(enum.Enum):
    """What becomes of `x-forwarded-client-cert` (HttpConnectionManager.ForwardClientCertDetails)."""

    SANITIZE = "sanitize"
    FORWARD_ONLY = "forward_only"
    APPEND_FORWARD = "append_forward"
    SANITIZE_SET = "sanitize_set"
    ALWAYS_FORWARD_ONLY = "always_forward_only"


class EscapedSlashes(enum.Enum):
    """What to do with %2F and %5C in a path (HttpConnectionManager.PathWithEscapedSlashesAction)."""

    KEEP = "keep"
    REJECT = "reject"
    UNESCAPE_REDIRECT = "unescape_redirect"
    UNESCAPE_FORWARD = "unescape_forward"


@dataclass(frozen=True, slots=True)
class AccessLogFile:
    """One file access log. `format` is Envoy's text format, or a mapping of keys to formats for JSON lines."""

    path: str
    format: str | Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GrpcAccessLog:
    """An access log that goes to an access log service (envoy.service.accesslog.v3), in batches.

    Attributes:
        kind: "http" for the entries of an HTTP manager, "tcp" for those of a TCP proxy.
        cluster: where the service is.
        log_name: by which the service tells logs apart.
        flush_interval, flush_bytes: a batch goes when it is so old (seconds), or so large.
        request_headers, response_headers: names, lower case, that are logged beside Envoy's usual ones.
    """

    kind: Literal["http", "tcp"]
    cluster: str
    log_name: str
    flush_interval: float = 1.0
    flush_bytes: int = 16 * 1024
    request_headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tracing:
    """How requests are traced, and where their spans go (HttpConnectionManager.Tracing, OpenTelemetryConfig).

    Attributes:
        cluster: where the collector is.
        service_name: the `service.name` of the spans; empty is the proxy's own service.
        sampling: which requests are traced.
    """

    cluster: str
    service_name: str = ""
    sampling: Sampling = EVERY_REQUEST


# Everything that is told of finished requests.
AccessLog: TypeAlias = AccessLogFile | GrpcAccessLog | Tracing


@dataclass(frozen=True, slots=True, eq=False)
class HttpManager:
    """An HTTP connection manager: how requests on a connection are read, routed and logged."""

    stat_prefix: str
    routes: RouteTable | None  # given inline ...
    rds: str  # ... or by name, in Snapshot.routes; empty when inline
    filters: tuple[HttpFilter, ...] = ()
    server_name: str = "envoy"
    server_header: ServerHeader = ServerHeader.OVERWRITE
    via: bytes = b""  # appended to Via of requests and responses; empty: nothing is
    use_remote_address: bool = False
    xff_num_trusted_hops: int = 0
    # Whoever calls straight from there may ask for retries, timeouts and the like (trust.py).
    internal_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    skip_xff_append: bool = False
    generate_request_id: bool = True
    preserve_external_request_id: bool = False
    always_set_request_id_in_response: bool = False
    forward_client_cert: ForwardClientCert = ForwardClientCert.SANITIZE
    # Which of "subject", "uri", "dns" are added besides By and Hash.
    client_cert_details: frozenset[str] = frozenset()
    idle_timeout: float | None = 3600.0
    stream_idle_timeout: float | None = 300.0
    request_timeout: float | None = None
    request_headers_timeout: float | None = None
    max_connection_duration: float | None = None
    max_requests_per_connection: int | None = None
    # A connection older than max_connection_duration still waits this long for a request that is on its way.
    drain_timeout: float = 5.0
    max_request_headers_bytes: int = 60 * 1024
    max_headers_count: int = 100
    accept_http_10: bool = False
    default_host_for_http_10: str = ""
    normalize_path: bool = False
    merge_slashes: bool = False
    escaped_slashes: EscapedSlashes = EscapedSlashes.KEEP
    strip_matching_host_port: bool = False
    upgrades: frozenset[str] = frozenset()  # lower case: "websocket"
    access_logs: tuple[AccessLog, ...] = ()
    tracing: Tracing | None = None  # one of access_logs, too


@dataclass(frozen=True, slots=True, eq=False)
class TcpProxy:
    """A TCP proxy filter: bytes to one of `clusters`, chosen by weight once per connection."""

    stat_prefix: str
    clusters: tuple[tuple[str, int], ...]
    idle_timeout: float | None = 3600.0
    max_connect_attempts: int = 1
    hash_source: bool = False  # the client's address is the key for consistent hashing
    rules: tuple[NetworkRbac, ...] = ()  # who may connect at all
    access_logs: tuple[AccessLog, ...] = ()


@dataclass(frozen=True, slots=True)
class FilterChainMatch:
    """When a filter chain applies. An empty criterion matches anything (envoy FilterChainMatch)."""

    destination_port: int | None = None
    prefix_ranges: tuple[IPv4Network | IPv6Network, ...] = ()
    server_names: tuple[str, ...] = ()
    transport_protocol: str = ""  # "tls" or "raw_buffer"
    application_protocols: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class FilterChain:
    """What is done with a connection once it is known to belong here.

    Attributes:
        key: of the message that it was compiled from. Where a listener changes, a chain that does not stays the same
            object, and its connections go on.
    """

    name: str
    match: FilterChainMatch
    handler: HttpManager | TcpProxy
    tls: TlsServer | None = None
    handshake_timeout: float = 15.0
    key: bytes = b""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Listener:
    """A listener. pymesh-proxy may bind it elsewhere than `address`: see `--listen`."""

    name: str
    address: str
    port: int
    direction: Direction
    bind_to_port: bool
    use_original_dst: bool
    inspect_tls: bool
    inspect_http: bool
    # None waits for as long as it takes; the detection then never gives up on a silent client.
    inspect_timeout: float | None
    inspect_timeout_continues: bool
    chains: tuple[FilterChain, ...]
    default_chain: FilterChain | None

    def all_chains(self) -> tuple[FilterChain, ...]:
        """The default one last, if there is one."""
        return self.chains if self.default_chain is None else (*self.chains, self.default_chain)


# --- Clusters ------------------------------------------------------------------------------------------------------


class Discovery(enum.Enum):
    """Where a cluster's endpoints come from (envoy Cluster.DiscoveryType)."""

    STATIC = "static"
    EDS = "eds"
    STRICT_DNS = "strict_dns"
    LOGICAL_DNS = "logical_dns"
    ORIGINAL_DST = "original_dst"


class DnsFamily(enum.Enum):
    """Which addresses of a name are used (envoy Cluster.DnsLookupFamily)."""

    AUTO = "auto"  # IPv6 where there is any, else IPv4
    V4_ONLY = "v4_only"
    V6_ONLY = "v6_only"
    V4_PREFERRED = "v4_preferred"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class TransportMatch:
    """A transport for the endpoints whose `envoy.transport_socket_match` metadata has all of `metadata`."""

    name: str
    metadata: Mapping[str, str]
    tls: TlsClient | None


@dataclass(frozen=True, slots=True)
class CircuitLimits:
    """Ceilings of one cluster (envoy CircuitBreakers.Thresholds, DEFAULT priority).

    With a `retry_budget`, a share of the requests in flight, and at least `min_retries`, may be retries; `max_retries`
    then does not count.
    """

    max_connections: int = 1024
    max_pending_requests: int = 1024
    max_requests: int = 1024
    max_retries: int = 3
    retry_budget: float | None = None
    min_retries: int = 3


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """A cluster and the endpoints it had when the snapshot was made.

    `endpoints` holds those of all priorities, in a stable order. For ORIGINAL_DST it is empty: the endpoint is the
    connection's original destination.
    """

    name: str
    discovery: Discovery
    balance: Balance = EVENLY
    endpoints: tuple[Endpoint, ...] = ()
    connect_timeout: float = 5.0
    tls: TlsClient | None = None
    transport_matches: tuple[TransportMatch, ...] = ()
    limits: CircuitLimits = CircuitLimits()
    bind_address: str = ""  # source address of upstream connections; empty lets the kernel choose
    extra_bind_address: str = ""  # the same for endpoints of the other address family
    idle_timeout: float | None = 3600.0
    max_requests_per_connection: int | None = None
    outlier: OutlierSettings | None = None
    health_check: HealthCheck | None = None
    # Names to resolve; each of their addresses becomes an endpoint like this.
    dns_targets: tuple[EndpointSpec, ...] = ()
    dns_refresh: float = 5.0
    # After a failed lookup: first and longest pause.
    dns_failure_refresh: tuple[float, float] = (5.0, 5.0)
    dns_family: DnsFamily = DnsFamily.AUTO
    eds_service_name: str = ""
    # Its endpoints speak HTTP/2 (http2_protocol_options): for the proxy's own gRPC clients, not for requests.
    http2: bool = False
    # Set by pilot: the service that the cluster stands for, for metrics and explanations.
    service: ServiceFacts = NO_SERVICE


# --- The whole -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Snapshot:
    """All configuration in force at one moment. A request reads one of these from its first byte to its last."""

    version: int
    listeners: Mapping[str, Listener]
    routes: Mapping[str, RouteTable]
    clusters: Mapping[str, Cluster]
