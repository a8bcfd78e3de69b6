"""envoy Cluster and ClusterLoadAssignment → Cluster and the specs of its endpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage
from envoy.config.core.v3.address_pb2 import SocketAddress
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from pymesh.errors import ConfigError
from pymesh.names import BLACK_HOLE_CLUSTER, INBOUND_PASSTHROUGH_CLUSTER, PASSTHROUGH_CLUSTER
from pymesh.peer_metadata import NO_SERVICE, UNKNOWN_VALUE, Peer, ServiceFacts, peer_of_endpoint
from pymesh.steps import Steps, whole
from pymesh.xds.check import join, unpack
from pymesh_proxy.config import tls
from pymesh_proxy.config.balancing import balance
from pymesh_proxy.config.fields import (
    ip,
    metadata,
    number,
    positive,
    required,
    scalars,
    socket_address,
    timeout,
)
from pymesh_proxy.config.health import health_check, outlier_detection
from pymesh_proxy.config.model import CircuitLimits, Cluster, Discovery, DnsFamily, TransportMatch
from pymesh_proxy.upstream.endpoint import Health
from pymesh_proxy.upstream.registry import EndpointSpec

_DISCOVERY: Final = {
    ClusterMessage.STATIC: Discovery.STATIC,
    ClusterMessage.EDS: Discovery.EDS,
    ClusterMessage.STRICT_DNS: Discovery.STRICT_DNS,
    ClusterMessage.LOGICAL_DNS: Discovery.LOGICAL_DNS,
    ClusterMessage.ORIGINAL_DST: Discovery.ORIGINAL_DST,
}
_DNS_FAMILY: Final = {
    ClusterMessage.AUTO: DnsFamily.AUTO,
    ClusterMessage.V4_ONLY: DnsFamily.V4_ONLY,
    ClusterMessage.V6_ONLY: DnsFamily.V6_ONLY,
    ClusterMessage.V4_PREFERRED: DnsFamily.V4_PREFERRED,
    ClusterMessage.ALL: DnsFamily.ALL,
}
# What a health status sets; UNKNOWN and HEALTHY set nothing.
_HEALTH: Final = {
    HealthStatus.UNHEALTHY: Health.FAILED_EDS_HEALTH,
    HealthStatus.TIMEOUT: Health.FAILED_EDS_HEALTH,
    HealthStatus.DRAINING: Health.EDS_STATUS_DRAINING,
    HealthStatus.DEGRADED: Health.DEGRADED_EDS_HEALTH,
}

HTTP_OPTIONS_KEY: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TRANSPORT_MATCH: Final = "envoy.transport_socket_match"
# Clusters that stand for no service: metrics show their own names.
_CATCH_ALL: Final = (PASSTHROUGH_CLUSTER, BLACK_HOLE_CLUSTER, INBOUND_PASSTHROUGH_CLUSTER)
_DNS: Final = (Discovery.STRICT_DNS, Discovery.LOGICAL_DNS)
# Envoy's limit for priorities.
MAX_PRIORITY: Final = 128


@dataclass(frozen=True, slots=True)
class CompiledCluster:
    """A cluster without its endpoints, and those that stand in the cluster itself (type STATIC)."""

    cluster: Cluster
    static: tuple[EndpointSpec, ...] = ()


def compile_cluster(message: ClusterMessage, path: str = "") -> CompiledCluster:
    """The cluster at `path`.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    name = required(message.name, join(path, "name"))
    discovery = _DISCOVERY[message.type]
    here = join(path, "load_assignment")
    if message.HasField("load_assignment") and discovery in {Discovery.EDS, Discovery.ORIGINAL_DST}:
        raise ConfigError(f"a cluster of type {discovery.name} gets its endpoints elsewhere", path=here)
    specs = compile_endpoints(message.load_assignment, here, names=discovery in _DNS)
    if discovery is Discovery.LOGICAL_DNS and len(specs) != 1:
        raise ConfigError("LOGICAL_DNS takes exactly one endpoint", path=here)
    idle_timeout, max_requests, http2 = _http_options(message, path)
    refresh = positive(message, "dns_refresh_rate", 5.0, path)
    base = positive(message.dns_failure_refresh_rate, "base_interval", refresh, join(path, "dns_failure_refresh_rate"))
    longest = positive(
        message.dns_failure_refresh_rate, "max_interval", max(base, refresh), join(path, "dns_failure_refresh_rate")
    )
    bind_address, extra_bind_address = _bind_addresses(message, path)
    cluster = Cluster(
        name=name,
        discovery=discovery,
        balance=balance(message, path),
        connect_timeout=positive(message, "connect_timeout", 5.0, path),
        tls=tls.client(message.transport_socket, join(path, "transport_socket"))
        if message.HasField("transport_socket")
        else None,
        transport_matches=_transport_matches(message, path),
        limits=_limits(message),
        bind_address=bind_address,
        extra_bind_address=extra_bind_address,
        idle_timeout=idle_timeout,
        max_requests_per_connection=max_requests,
        outlier=outlier_detection(message.outlier_detection, join(path, "outlier_detection"))
        if message.HasField("outlier_detection")
        else None,
        health_check=health_check(message.health_checks, join(path, "health_checks")),
        dns_targets=specs if discovery in _DNS else (),
        dns_refresh=refresh,
        dns_failure_refresh=(base, max(base, longest)),
        dns_family=_DNS_FAMILY[message.dns_lookup_family],
        eds_service_name=_eds_name(message, path) if discovery is Discovery.EDS else "",
        http2=http2,
        service=_service(name, message.metadata),
    )
    return CompiledCluster(cluster, specs if discovery is Discovery.STATIC else ())


def compile_endpoints(
    message: ClusterLoadAssignment, path: str = "", *, names: bool = False
) -> tuple[EndpointSpec, ...]:
    """See `compiling_endpoints`."""
    return whole(compiling_endpoints(message, path, names=names))


def compiling_endpoints(
    message: ClusterLoadAssignment, path: str = "", *, names: bool = False
) -> Steps[tuple[EndpointSpec, ...]]:
    """The endpoints of an assignment; `names` where their addresses are names to resolve.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    found = []
    for index, group in enumerate(message.endpoints):
        here = f"{path}.endpoints[{index}]" if path else f"endpoints[{index}]"
        if group.priority > MAX_PRIORITY:
            raise ConfigError(f"priorities go from 0 to {MAX_PRIORITY}", path=join(here, "priority"))
        locality = (group.locality.region, group.locality.zone, group.locality.sub_zone)
        weight = number(group, "load_balancing_weight", 0)
        for number_, endpoint in enumerate(group.lb_endpoints):
            spec = _endpoint(endpoint, f"{here}.lb_endpoints[{number_}]", names=names)
            found.append(replace(spec, priority=group.priority, locality=locality, locality_weight=weight))
            yield
    return tuple(found)


def resolved(cluster: Cluster, addresses: Mapping[str, tuple[str, ...]]) -> tuple[EndpointSpec, ...]:
    """The endpoints of a DNS cluster: every address of every name, or the first one for LOGICAL_DNS."""
    most = 1 if cluster.discovery is Discovery.LOGICAL_DNS else None
    return tuple(
        replace(target, host=host, hostname=target.host)
        for target in cluster.dns_targets
        for host in addresses.get(target.host, ())[:most]
    )


def _endpoint(message: LbEndpoint, path: str, *, names: bool) -> EndpointSpec:
    here = f"{path}.endpoint.address"
    host, port = socket_address(message.endpoint.address, here)
    if not port:
        raise ConfigError("an endpoint needs a port", path=f"{here}.socket_address.port_value")
    peer, labels = _labels(message.metadata)
    weight = number(message, "load_balancing_weight", 1)
    if not weight:
        raise ConfigError("must be at least 1", path=join(path, "load_balancing_weight"))
    check = message.endpoint.health_check_config
    if check.port_value > 65_535:
        raise ConfigError(
            f"{check.port_value} is not a port", path=join(path, "endpoint.health_check_config.port_value")
        )
    return EndpointSpec(
        host=host if names else ip(host, f"{here}.socket_address.address"),
        port=port,
        weight=weight,
        hostname=message.endpoint.hostname,
        metadata=metadata(message.metadata, _TRANSPORT_MATCH),
        labels=labels,
        peer=peer,
        health=_HEALTH.get(message.health_status, 0),
        check_host=check.hostname,
        check_port=check.port_value,
        checked=not check.disable_active_health_check,
    )


def _labels(message: Metadata) -> tuple[Peer, Mapping[str, str]]:
    """Who stands behind an endpoint: for metrics, and in the words of explanations."""
    ours = metadata(message, "pymesh")
    istio = metadata(message, "istio")
    peer = peer_of_endpoint(istio.get("workload", ""), ours)
    known = {key: value for key, value in peer._asdict().items() if value != UNKNOWN_VALUE}
    return peer, {**{key: value for key, value in istio.items() if key != "workload"}, **known, **ours}


def _service(name: str, message: Metadata) -> ServiceFacts:
    """The service behind the cluster `name`: the first of Istio's `services`."""
    if name in _CATCH_ALL:
        return NO_SERVICE._replace(name=name)
    fields = message.filter_metadata["istio"].fields if "istio" in message.filter_metadata else {}
    services = fields["services"].list_value.values if "services" in fields else ()
    found = scalars(services[0].struct_value) if services else {}
    host = found.get("host")
    if not host:
        return NO_SERVICE
    return ServiceFacts(host, found.get("name") or host.partition(".")[0], found.get("namespace") or UNKNOWN_VALUE)


def _eds_name(message: ClusterMessage, path: str) -> str:
    here = join(path, "eds_cluster_config")
    if not message.eds_cluster_config.eds_config.HasField("ads"):
        raise ConfigError("`ads: {}` is required", path=join(here, "eds_config"))
    return message.eds_cluster_config.service_name or message.name


def _limits(message: ClusterMessage) -> CircuitLimits:
    for thresholds in message.circuit_breakers.thresholds[:1]:
        budget = thresholds.retry_budget
        share = budget.budget_percent.value if budget.HasField("budget_percent") else 20.0
        return CircuitLimits(
            number(thresholds, "max_connections", 1024),
            number(thresholds, "max_pending_requests", 1024),
            number(thresholds, "max_requests", 1024),
            number(thresholds, "max_retries", 3),
            share / 100 if thresholds.HasField("retry_budget") else None,
            number(budget, "min_retry_concurrency", 3),
        )
    return CircuitLimits()


def _bind_addresses(message: ClusterMessage, path: str) -> tuple[str, str]:
    """Source address of upstream connections, and that for the other address family; empty where there is none."""
    if not message.HasField("upstream_bind_config"):
        return "", ""
    config, here = message.upstream_bind_config, join(path, "upstream_bind_config")
    address = _source_address(config.source_address, join(here, "source_address"))
    here = join(here, "extra_source_addresses")
    if not config.extra_source_addresses:
        return address, ""
    extra = _source_address(config.extra_source_addresses[0].address, f"{here}[0].address")
    if len(config.extra_source_addresses) > 1 or (":" in extra) == (":" in address):
        raise ConfigError("give at most one, of the other address family than source_address", path=here)
    return address, extra


def _source_address(source: SocketAddress, path: str) -> str:
    if source.port_value:
        raise ConfigError("a fixed source port is not supported; use 0", path=join(path, "port_value"))
    return ip(source.address, join(path, "address"))


def _transport_matches(message: ClusterMessage, path: str) -> tuple[TransportMatch, ...]:
    found = []
    names: set[str] = set()
    for index, match in enumerate(message.transport_socket_matches):
        here = f"{path}.transport_socket_matches[{index}]" if path else f"transport_socket_matches[{index}]"
        if required(match.name, join(here, "name")) in names:
            raise ConfigError(f"the match {match.name!r} is given twice", path=join(here, "name"))
        names.add(match.name)
        wanted = scalars(match.match)
        if len(wanted) != len(match.match.fields):
            raise ConfigError("only strings, numbers and booleans can be matched", path=join(here, "match"))
        found.append(
            TransportMatch(match.name, wanted, tls.client(match.transport_socket, join(here, "transport_socket")))
        )
    return tuple(found)


def _http_options(message: ClusterMessage, path: str) -> tuple[float | None, int | None, bool]:
    """Idle timeout and greatest number of requests of an upstream connection, and whether it speaks HTTP/2."""
    idle_timeout: float | None = 3600.0
    max_requests: int | None = None
    http2 = False
    for key, packed in message.typed_extension_protocol_options.items():
        here = f'{join(path, "typed_extension_protocol_options")}["{key}"]'
        options = unpack(packed, here)
        if key != HTTP_OPTIONS_KEY or not isinstance(options, HttpProtocolOptions):
            raise ConfigError(f"only {HTTP_OPTIONS_KEY} is supported", path=here)
        http2 = options.explicit_http_config.HasField("http2_protocol_options")
        common = options.common_http_protocol_options
        common_path = join(here, "common_http_protocol_options")
        idle_timeout = timeout(common, "idle_timeout", idle_timeout, common_path)
        max_requests = number(common, "max_requests_per_connection", 0) or None
        for name in ("max_connection_duration", "max_headers_count"):
            if common.HasField(name):
                raise ConfigError("is supported downstream only", path=join(common_path, name))
    return idle_timeout, max_requests, http2
