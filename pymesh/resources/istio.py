"""Istio's kinds: every public field is known here, and what the mesh cannot honour yet is marked `NotYet`.

Source: istio.io/docs/reference/config/networking and .../security, release 1.27 (v1, v1beta1 and v1alpha3 of these
kinds have the same fields).
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pymesh.resources.fields import Block, Count, Duration, Loose, Name, NotYet, ObjectMeta, Port, Weight

Labels = dict[str, str]
Hosts = Annotated[list[str], Meta(min_length=1, description="a list with at least one host")]


class StringMatch(Block, frozen=True):
    """One of exact, prefix, regex (RE2, whole value)."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


# --- VirtualService ------------------------------------------------------------------------------------------------


class HTTPMatchRequest(Block, frozen=True):
    """Clauses that must all hold for a request."""

    name: str = ""
    uri: StringMatch | None = None
    scheme: NotYet = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: dict[str, StringMatch] = {}
    without_headers: dict[str, StringMatch] = {}
    query_params: dict[str, StringMatch] = {}
    port: Port | None = None
    source_labels: Labels = {}
    source_namespace: str = ""
    gateways: list[str] = []
    ignore_uri_case: bool = False
    stat_prefix: NotYet = None


class PortSelector(Block, frozen=True):
    """A port by number."""

    number: Port


class Destination(Block, frozen=True):
    """Where requests go: a service of the registry, perhaps a subset of it."""

    host: str
    subset: str = ""
    port: PortSelector | None = None


class HeaderOperations(Block, frozen=True):
    """Headers to set, add and remove."""

    set: dict[str, str] = {}
    add: dict[str, str] = {}
    remove: list[str] = []


class Headers(Block, frozen=True):
    """Changes to request and response headers."""

    request: HeaderOperations = HeaderOperations()
    response: HeaderOperations = HeaderOperations()


class HTTPRouteDestination(Block, frozen=True):
    """One destination and its share."""

    destination: Destination
    weight: Weight = 0
    headers: Headers | None = None


class HTTPRedirect(Block, frozen=True):
    """Answer with a redirect."""

    uri: str | None = None
    authority: str | None = None
    port: Port | None = None
    derive_port: NotYet = None
    scheme: Literal["http", "https"] | None = None
    redirect_code: Literal[301, 302, 303, 307, 308] = 301


class HTTPBody(Block, frozen=True):
    """The body of an answer: text, or base64."""

    string: str | None = None
    bytes: str | None = None


class HTTPDirectResponse(Block, frozen=True):
    """Answer with a fixed response."""

    status: Annotated[int, Meta(ge=200, le=599, description="a status between 200 and 599")]
    body: HTTPBody | None = None


class RegexRewrite(Block, frozen=True):
    """Replace what `match` (RE2) finds in the path by `rewrite`."""

    match: str
    rewrite: str


class HTTPRewrite(Block, frozen=True):
    """Change path and authority before the request is sent on."""

    uri: str | None = None
    authority: str | None = None
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRetry(Block, frozen=True):
    """When and how often to try again."""

    attempts: Annotated[int, Meta(ge=0, le=100, description="a number between 0 and 100")]
    per_try_timeout: Duration | None = None
    retry_on: str | None = None
    retry_remote_localities: NotYet = None
    retry_ignore_previous_hosts: bool | None = None
    backoff: Duration | None = None


class HTTPRoute(Block, frozen=True):
    """What happens to the requests that one of `match` describes; no match describes all."""

    name: str = ""
    match: list[HTTPMatchRequest] = []
    route: list[HTTPRouteDestination] = []
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    rewrite: HTTPRewrite | None = None
    timeout: Duration | None = None
    retries: HTTPRetry | None = None
    headers: Headers | None = None
    delegate: NotYet = None
    fault: NotYet = None
    mirror: NotYet = None
    mirrors: NotYet = None
    mirror_percent: NotYet = msgspec.field(default=None, name="mirror_percent")
    mirror_percentage: NotYet = None
    cors_policy: NotYet = None


class RouteDestination(Block, frozen=True):
    """One destination of opaque connections and its share."""

    destination: Destination
    weight: Weight = 0


class TLSMatchAttributes(Block, frozen=True):
    """Clauses that must all hold for a TLS connection, which stays closed."""

    sni_hosts: Annotated[list[str], Meta(min_length=1, description="a list with at least one server name")]
    destination_subnets: list[str] = []
    port: Port | None = None
    source_labels: Labels = {}
    source_namespace: str = ""
    gateways: list[str] = []


class TLSRoute(Block, frozen=True):
    """What happens to the TLS connections that one of `match` describes."""

    match: Annotated[list[TLSMatchAttributes], Meta(min_length=1, description="a list with at least one match")]
    route: list[RouteDestination] = []


class L4MatchAttributes(Block, frozen=True):
    """Clauses that must all hold for a connection of which nothing but its ends is known."""

    destination_subnets: list[str] = []
    port: Port | None = None
    source_labels: Labels = {}
    source_namespace: str = ""
    source_subnet: NotYet = None
    gateways: list[str] = []


class TCPRoute(Block, frozen=True):
    """What happens to the connections that one of `match` describes; no match describes all."""

    match: list[L4MatchAttributes] = []
    route: list[RouteDestination] = []


class VirtualServiceSpec(Block, frozen=True):
    """networking.istio.io VirtualService."""

    hosts: Hosts
    gateways: list[str] = []
    http: list[HTTPRoute] = []
    tls: list[TLSRoute] = []
    tcp: list[TCPRoute] = []
    export_to: list[str] = []

    def routes(self) -> Iterator[tuple[str, HTTPRoute | TLSRoute | TCPRoute]]:
        """Every route of every kind, with its field path."""
        kinds: dict[str, Sequence[HTTPRoute | TLSRoute | TCPRoute]]
        kinds = {"http": self.http, "tls": self.tls, "tcp": self.tcp}
        for kind, routes in kinds.items():
            for index, route in enumerate(routes):
                yield f"spec.{kind}[{index}]", route

    def destinations(self) -> Iterator[tuple[str, Destination]]:
        """Every destination of every route, with its field path."""
        for path, route in self.routes():
            items: Sequence[HTTPRouteDestination | RouteDestination] = route.route
            for index, item in enumerate(items):
                yield f"{path}.route[{index}].destination", item.destination

    def matches(self) -> Iterator[tuple[str, HTTPMatchRequest | TLSMatchAttributes | L4MatchAttributes]]:
        """Every match of every route, with its field path."""
        for path, route in self.routes():
            matches: Sequence[HTTPMatchRequest | TLSMatchAttributes | L4MatchAttributes] = route.match
            for index, match in enumerate(matches):
                yield f"{path}.match[{index}]", match


class VirtualService(Block, frozen=True):
    """How requests to a set of hosts are routed."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: VirtualServiceSpec
    status: object | None = None


# --- DestinationRule -----------------------------------------------------------------------------------------------

LoadBalancing = Literal["UNSPECIFIED", "LEAST_REQUEST", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN"]


class HTTPCookieAttribute(Block, frozen=True):
    """An attribute of a cookie that a proxy sets, as in `SameSite: Strict`."""

    name: str
    value: str = ""


class HTTPCookie(Block, frozen=True):
    """A cookie whose value picks the endpoint; where it is missing and has a `ttl`, the proxy sets it."""

    name: Annotated[str, Meta(min_length=1, description="the name of a cookie")]
    path: str = ""
    ttl: Duration | None = None
    attributes: list[HTTPCookieAttribute] = []


class RingHash(Block, frozen=True):
    """The ring of hashes that a key is looked up on."""

    minimum_ring_size: Count | None = None


class ConsistentHashLB(Block, frozen=True):
    """What of a request picks the endpoint, so that the same value leads to the same one: exactly one of four."""

    http_header_name: str | None = None
    http_cookie: HTTPCookie | None = None
    use_source_ip: bool | None = None
    http_query_parameter_name: str | None = None
    ring_hash: RingHash | None = None
    minimum_ring_size: Count | None = None
    maglev: NotYet = None


class LocalityDistribute(Block, frozen=True):
    """Where callers in `from` send their traffic: percent by locality."""

    from_: str = msgspec.field(name="from")
    to: dict[str, Annotated[int, Meta(ge=0, le=100, description="a percentage between 0 and 100")]]


class LocalityFailover(Block, frozen=True):
    """To which region callers in `from` turn first when their own fails."""

    from_: str = msgspec.field(name="from")
    to: str


class LocalityLoadBalancerSetting(Block, frozen=True):
    """Which localities callers prefer: `distribute` or, with outlier detection, `failover`."""

    distribute: list[LocalityDistribute] = []
    failover: list[LocalityFailover] = []
    enabled: bool | None = None
    failover_priority: NotYet = None


class LoadBalancerSettings(Block, frozen=True):
    """How an endpoint is picked."""

    simple: LoadBalancing | None = None
    consistent_hash: ConsistentHashLB | None = None
    locality_lb_setting: LocalityLoadBalancerSetting | None = None
    warmup: NotYet = None
    warmup_duration_secs: NotYet = None


class TCPSettings(Block, frozen=True):
    """Limits of connections of any protocol."""

    max_connections: Count | None = None
    connect_timeout: Duration | None = None
    idle_timeout: Duration | None = None
    tcp_keepalive: NotYet = None
    max_connection_duration: NotYet = None


class HTTPSettings(Block, frozen=True):
    """Limits of HTTP connections."""

    http1_max_pending_requests: Count | None = None
    http2_max_requests: Count | None = None
    max_requests_per_connection: Count | None = None
    max_retries: Count | None = None
    idle_timeout: Duration | None = None
    h2_upgrade_policy: NotYet = None
    use_client_protocol: NotYet = None
    max_concurrent_streams: NotYet = None


class ConnectionPoolSettings(Block, frozen=True):
    """Limits of connections to a service."""

    tcp: TCPSettings | None = None
    http: HTTPSettings | None = None


Percent = Annotated[int, Meta(ge=0, le=100, description="a percentage between 0 and 100")]


class OutlierDetection(Block, frozen=True):
    """When an endpoint that fails while others do not is left out, and for how long."""

    consecutive_5xx_errors: Count | None = msgspec.field(default=None, name="consecutive5xxErrors")
    consecutive_gateway_errors: Count | None = None
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: Count | None = None
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: Percent | None = None
    min_health_percent: Percent = 0
    consecutive_errors: NotYet = None


class RetryBudget(Block, frozen=True):
    """How many requests may be tried again at once: a share of those in flight, and always a few."""

    percent: Annotated[float, Meta(ge=0, le=100, description="a percentage between 0 and 100")] | None = None
    min_retry_concurrency: Count | None = None


class ClientTLSSettings(Block, frozen=True):
    """How connections to a service are secured; certificates are files of the sidecar's container."""

    mode: Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]
    client_certificate: str | None = None
    private_key: str | None = None
    ca_certificates: str | None = None
    subject_alt_names: list[str] = []
    sni: str | None = None
    credential_name: NotYet = None
    insecure_skip_verify: NotYet = None
    ca_crl: NotYet = None


class PortTrafficPolicy(Block, frozen=True):
    """Overrides for one port of the service."""

    port: PortSelector
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    tls: ClientTLSSettings | None = None
    outlier_detection: OutlierDetection | None = None


class TrafficPolicy(Block, frozen=True):
    """What holds for connections to the service."""

    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    tls: ClientTLSSettings | None = None
    port_level_settings: list[PortTrafficPolicy] = []
    outlier_detection: OutlierDetection | None = None
    tunnel: NotYet = None
    retry_budget: RetryBudget | None = None
    proxy_protocol: NotYet = None


SubsetName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\Z",
        max_length=63,
        description="a name of letters, digits, '-', '_' and '.'",
    ),
]


class Subset(Block, frozen=True):
    """A part of the service's endpoints, by their labels."""

    name: SubsetName
    labels: Labels = {}
    traffic_policy: TrafficPolicy | None = None


class WorkloadSelector(Block, frozen=True):
    """The workloads that have all of these labels."""

    match_labels: Labels = {}


class DestinationRuleSpec(Block, frozen=True):
    """networking.istio.io DestinationRule."""

    host: str
    traffic_policy: TrafficPolicy | None = None
    subsets: list[Subset] = []
    export_to: list[str] = []
    workload_selector: NotYet = None


class DestinationRule(Block, frozen=True):
    """What holds for requests once they are routed to a service."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: DestinationRuleSpec
    status: object | None = None


# --- ServiceEntry --------------------------------------------------------------------------------------------------

EntryProtocol = Literal["HTTP", "HTTPS", "GRPC", "GRPC-Web", "HTTP2", "MONGO", "TCP", "TLS"]


class EntryPort(Block, frozen=True):
    """A port of a service entry."""

    number: Port
    name: str
    protocol: EntryProtocol | None = None
    target_port: Port | None = None


class WorkloadEntrySpec(Block, frozen=True):
    """An endpoint of a service entry."""

    address: str | None = None
    ports: dict[str, Port] = {}
    labels: Labels = {}
    weight: Weight | None = None
    service_account: NotYet = None
    network: NotYet = None
    locality: NotYet = None


class ServiceEntrySpec(Block, frozen=True):
    """networking.istio.io ServiceEntry."""

    hosts: Hosts
    addresses: list[str] = []
    ports: list[EntryPort] = []
    location: Literal["MESH_EXTERNAL", "MESH_INTERNAL"] = "MESH_EXTERNAL"
    resolution: Literal["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"] = "NONE"
    endpoints: list[WorkloadEntrySpec] = []
    export_to: list[str] = []
    subject_alt_names: NotYet = None
    workload_selector: NotYet = None

    def hosts_without_address(self) -> list[str]:
        """The hosts for which an address can be allocated, in lower case.

        A wildcard stands for too many, and an entry with resolution NONE goes where the caller dials, which has to be
        an address that there is (istio.io/docs/ops/configuration/traffic-management/dns-proxy).
        """
        if self.addresses or self.resolution == "NONE":
            return []
        return list(dict.fromkeys(host.lower() for host in self.hosts if "*" not in host))


class EntryAddress(Loose, frozen=True):
    """An address that was allocated for a host."""

    value: str
    host: str = ""


class ServiceEntryStatus(Loose, frozen=True):
    """What a runtime says of a service entry."""

    addresses: list[EntryAddress] = []


class ServiceEntry(Block, frozen=True):
    """A service that Kubernetes does not know of."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: ServiceEntrySpec
    status: ServiceEntryStatus | None = None

    def addresses(self) -> list[EntryAddress]:
        """The addresses that were allocated for hosts of it that may have one."""
        hosts = self.spec.hosts_without_address()
        return [item for item in (self.status.addresses if self.status else []) if item.host.lower() in hosts]


# --- Gateway -------------------------------------------------------------------------------------------------------


class GatewayPort(Block, frozen=True):
    """A port that a gateway listens on."""

    number: Port
    name: str
    protocol: EntryProtocol
    target_port: NotYet = None


GatewayTLSMode = Literal["PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"]
TLSProtocol = Literal["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"]


class ServerTLSSettings(Block, frozen=True):
    """How connections to a gateway are secured. The certificate is in a Secret of the gateway pods' namespace."""

    mode: GatewayTLSMode | None = None
    https_redirect: bool = False
    credential_name: Name | None = None
    subject_alt_names: list[str] = []
    min_protocol_version: TLSProtocol = "TLS_AUTO"
    max_protocol_version: TLSProtocol = "TLS_AUTO"
    credential_names: NotYet = None
    server_certificate: NotYet = None
    private_key: NotYet = None
    ca_certificates: NotYet = None
    ca_crl: NotYet = None
    ca_cert_credential_name: NotYet = None
    tls_certificates: NotYet = None
    verify_certificate_spki: NotYet = None
    verify_certificate_hash: NotYet = None
    cipher_suites: NotYet = None


class Server(Block, frozen=True):
    """A port of a gateway and the hosts that it serves."""

    port: GatewayPort
    hosts: Hosts
    tls: ServerTLSSettings | None = None
    bind: NotYet = None
    default_endpoint: NotYet = None
    name: str = ""


class GatewaySpec(Block, frozen=True):
    """networking.istio.io Gateway."""

    servers: list[Server] = []
    selector: Labels = {}


class Gateway(Block, frozen=True):
    """A load balancer at the edge of the mesh."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: GatewaySpec
    status: object | None = None


# --- PeerAuthentication --------------------------------------------------------------------------------------------


class MutualTLS(Block, frozen=True):
    """Whether the sidecar demands mutual TLS."""

    mode: Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"] = "UNSET"


class PeerAuthenticationSpec(Block, frozen=True):
    """security.istio.io PeerAuthentication. The ports are those of the workload, not of its services."""

    selector: WorkloadSelector | None = None
    mtls: MutualTLS | None = None
    port_level_mtls: dict[Port, MutualTLS] = {}


class PeerAuthentication(Block, frozen=True):
    """Which connections a workload accepts."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
    status: object | None = None
