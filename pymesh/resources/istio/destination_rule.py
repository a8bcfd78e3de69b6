"""Istio's DestinationRule: what holds for requests once they are routed to a service.

Source: istio.io/docs/reference/config/networking/destination-rule, release 1.27.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pymesh.resources.fields import Block, Count, Duration, NotYet, ObjectMeta, Percent, WholePercent
from pymesh.resources.istio.common import Labels, PortSelector

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
    to: dict[str, WholePercent]


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


class OutlierDetection(Block, frozen=True):
    """When an endpoint that fails while others do not is left out, and for how long."""

    consecutive_5xx_errors: Count | None = msgspec.field(default=None, name="consecutive5xxErrors")
    consecutive_gateway_errors: Count | None = None
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: Count | None = None
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: WholePercent | None = None
    min_health_percent: WholePercent = 0
    consecutive_errors: NotYet = None


class RetryBudget(Block, frozen=True):
    """How many requests may be tried again at once: a share of those in flight, and always a few."""

    percent: Percent | None = None
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
