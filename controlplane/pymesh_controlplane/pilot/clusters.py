"""World → clusters: every port of every service, every subset of it, and the ones that every proxy has. Pure."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.core.v3 import address_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from pymesh import names
from pymesh.peer_metadata import ServiceFacts
from pymesh.resources.fields import seconds
from pymesh.resources.istio.destination_rule import (
    ConnectionPoolSettings,
    DestinationRule,
    HTTPSettings,
    TCPSettings,
)
from pymesh.resources.resource import Resource
from pymesh_controlplane.pilot import endpoints, localities, resilience, tls
from pymesh_controlplane.pilot.endpoints import Behind
from pymesh_controlplane.pilot.messages import ads, duration, packed, services_metadata, socket_address, struct
from pymesh_controlplane.pilot.model import NOWHERE, Endpoint, Locality, Protocol, Resolution, Service
from pymesh_controlplane.pilot.policies import Policy, parts_of, policy_for

CONNECT_TIMEOUT: Final = 10.0  # seconds; Istio's default
# Limits that nobody asked for are none: Envoy's own 1024 would cap a busy service without anyone having said so.
UNLIMITED: Final = 2**32 - 1
ALPN_HTTP2: Final = ("h2",)
HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

_Cluster = cluster_pb2.Cluster
_BALANCING: Final = {
    "ROUND_ROBIN": _Cluster.ROUND_ROBIN,
    "RANDOM": _Cluster.RANDOM,
    "PASSTHROUGH": _Cluster.CLUSTER_PROVIDED,
}


def opaque_cluster(port: int, host: str, subset: str = "") -> str:
    """Name of the cluster for opaque connections to a port of which nobody said what is spoken there.

    The far sidecar learns by ALPN whether requests or opaque bytes come. Where both may, there are two clusters with
    the same endpoints.
    """
    return str(names.ClusterName("outbound-tcp", port, subset, host))


def everywhere() -> list[_Cluster]:
    """The clusters that every sidecar has, whatever the world."""
    passthrough = _original(names.PASSTHROUGH_CLUSTER)
    inbound = _original(names.INBOUND_PASSTHROUGH_CLUSTER)
    inbound.upstream_bind_config.CopyFrom(_from_us())
    black_hole = _Cluster(
        name=names.BLACK_HOLE_CLUSTER, type=_Cluster.STATIC, connect_timeout=duration(CONNECT_TIMEOUT)
    )
    for cluster in (passthrough, inbound):
        _limits(cluster, None)
    return [black_hole, inbound, passthrough]


def inbound(port: int, services: Iterable[ServiceFacts]) -> _Cluster:
    """The app's own port, dialled at the address that the caller dialled, from an address that the redirect knows.

    `services` are those whose port it is.
    """
    cluster = _original(names.inbound_cluster(port))
    cluster.upstream_bind_config.CopyFrom(_from_us())
    cluster.metadata.CopyFrom(services_metadata(services))
    _limits(cluster, None)
    return cluster


class Variant(NamedTuple):
    """A port of a service, whole or narrowed to a subset: what clusters and endpoint assignments are made for."""

    name: names.ClusterName
    http: bool  # requests are routed to it one by one
    opaque: bool  # nobody said what is spoken there, so it has a second cluster for what turns out to be no HTTP
    policy: Policy
    members: list[Endpoint]


def variants(service: Service, rule: Resource[DestinationRule] | None, behind: Behind) -> Iterator[Variant]:
    """What there is of `service` for callers who follow `rule`: per port, whole and by subset."""
    for port, everyone in zip(service.ports, behind, strict=True):
        for subset in parts_of(rule):
            yield Variant(
                names.ClusterName("outbound", port.port, subset.name if subset else "", service.host),
                port.protocol.may_be_http,
                port.protocol is Protocol.AUTO,
                policy_for(rule, port.port, subset),
                endpoints.members(everyone, subset),
            )


class Viewpoint(NamedTuple):
    """Who calls, as far as that makes a difference for the way to a service."""

    gateway: bool = False
    locality: Locality = NOWHERE


ANYWHERE: Final = Viewpoint()


def outbound(
    service: Service, rule: Resource[DestinationRule] | None, behind: Behind, viewpoint: Viewpoint = ANYWHERE
) -> Iterator[_Cluster]:
    """The clusters of `service` for callers who follow `rule`."""
    for variant in variants(service, rule, behind):
        name, found_by = variant.name, _resolution(service, variant.policy, viewpoint.gateway)
        clusters = [_cluster(str(name), service, variant, found_by, http=variant.http)]
        if variant.opaque:
            twin = opaque_cluster(name.port, name.host, name.subset)
            clusters.append(_cluster(twin, service, variant, found_by, http=False))
        for cluster in clusters:
            resilience.put_into(cluster, variant.policy)
            localities.arrange(cluster.load_assignment, viewpoint.locality, variant.policy)
            yield cluster


def assignments(
    service: Service, rule: Resource[DestinationRule] | None, behind: Behind, viewpoint: Viewpoint = ANYWHERE
) -> Iterator[endpoint_pb2.ClusterLoadAssignment]:
    """The endpoint assignments that those clusters ask for; a cluster and its opaque twin share one."""
    for variant in variants(service, rule, behind):
        if _resolution(service, variant.policy, viewpoint.gateway) is Resolution.ENDPOINTS:
            assignment = endpoints.assignment(str(variant.name), variant.members)
            localities.arrange(assignment, viewpoint.locality, variant.policy)
            yield assignment


def _balancing(policy: Policy) -> str:
    return (policy.load_balancer.simple if policy.load_balancer else None) or "LEAST_REQUEST"


def _resolution(service: Service, policy: Policy, gateway: bool) -> Resolution:
    if gateway and service.headless:
        return Resolution.ENDPOINTS  # what its clients dialled is the gateway itself
    return Resolution.ORIGINAL if _balancing(policy) == "PASSTHROUGH" else service.resolution


def _cluster(name: str, service: Service, variant: Variant, resolution: Resolution, *, http: bool) -> _Cluster:
    policy = variant.policy
    cluster = _Cluster(
        name=name,
        connect_timeout=duration(CONNECT_TIMEOUT),
        lb_policy=_BALANCING.get(_balancing(policy), _Cluster.LEAST_REQUEST),
        metadata=services_metadata((service.facts,)),
    )
    if resolution is Resolution.ORIGINAL:
        cluster.type = _Cluster.ORIGINAL_DST
        cluster.lb_policy = _Cluster.CLUSTER_PROVIDED
    elif resolution is Resolution.ENDPOINTS:
        cluster.type = _Cluster.EDS
        cluster.eds_cluster_config.eds_config.CopyFrom(ads())
        cluster.eds_cluster_config.service_name = str(variant.name)
    else:
        cluster.type = _Cluster.STRICT_DNS if resolution is Resolution.DNS else _Cluster.LOGICAL_DNS
        cluster.dns_lookup_family = _Cluster.V4_ONLY
        cluster.load_assignment.CopyFrom(endpoints.assignment(name, variant.members))
    _limits(cluster, policy.connection_pool)
    if _is_grpc(service, variant.name.port):
        _speak_http2(cluster)
    else:
        _http_options(cluster, policy.connection_pool)
    _secure(cluster, service, variant, http=http)
    return cluster


def _secure(cluster: _Cluster, service: Service, variant: Variant, *, http: bool) -> None:
    alpn: tuple[str, ...] = names.ALPN_MESH_HTTP1 if http else names.ALPN_MESH_TCP
    if _is_system_grpc(service, variant.name.port):
        alpn = ALPN_HTTP2
    sni, settings = names.service_sni(variant.name), variant.policy.tls
    if settings is not None:
        if settings.mode == "ISTIO_MUTUAL":
            accounts = settings.subject_alt_names or service.accounts
            cluster.transport_socket.CopyFrom(tls.mesh_client(settings.sni or sni, accounts, alpn))
        elif settings.mode != "DISABLE":
            cluster.transport_socket.CopyFrom(tls.client(settings, service.host))
        return
    if service.external:
        return
    mesh = tls.mesh_client(sni, service.accounts, alpn)
    if cluster.type == _Cluster.EDS:
        cluster.transport_socket_matches.add(
            name="tlsMode-istio", match=struct({"tlsMode": "istio"}), transport_socket=mesh
        )
        cluster.transport_socket_matches.add(name="tlsMode-disabled", match=struct({}), transport_socket=tls.raw())
    elif (
        cluster.type == _Cluster.ORIGINAL_DST and variant.members and all(endpoint.mesh for endpoint in variant.members)
    ):
        # Which pod was dialled is known only per connection, and its metadata is not: all or nothing.
        cluster.transport_socket.CopyFrom(mesh)


def _original(name: str) -> _Cluster:
    cluster = _Cluster(
        name=name,
        type=_Cluster.ORIGINAL_DST,
        lb_policy=_Cluster.CLUSTER_PROVIDED,
        connect_timeout=duration(CONNECT_TIMEOUT),
    )
    _limits(cluster, None)
    return cluster


def _from_us() -> address_pb2.BindConfig:
    return address_pb2.BindConfig(source_address=socket_address(names.INBOUND_SOURCE_V4, 0).socket_address)


def _limits(cluster: _Cluster, pool: ConnectionPoolSettings | None) -> None:
    tcp = (pool.tcp if pool else None) or TCPSettings()
    http = (pool.http if pool else None) or HTTPSettings()
    cluster.circuit_breakers.thresholds.append(
        circuit_breaker_pb2.CircuitBreakers.Thresholds(
            max_connections=_limit(tcp.max_connections),
            max_pending_requests=_limit(http.http1_max_pending_requests),
            max_requests=_limit(http.http2_max_requests),
            max_retries=_limit(http.max_retries),
        )
    )
    if tcp.connect_timeout is not None:
        cluster.connect_timeout.CopyFrom(duration(seconds(tcp.connect_timeout)))


def _limit(value: int | None) -> UInt32Value:
    return UInt32Value(value=value or UNLIMITED)  # 0 means "no limit", as in Istio


def _is_grpc(service: Service, number: int) -> bool:
    """Whether gRPC is spoken there: by apps, whose bytes pass opaque, or by proxies, as to a collector of traces."""
    port = service.port(number)
    return port is not None and port.protocol is Protocol.TCP and port.name.startswith("grpc")


def _is_system_grpc(service: Service, number: int) -> bool:
    """Whether it is a gRPC service of the mesh itself: proxies call it, and carry nobody's requests to it."""
    return service.namespace == names.SYSTEM_NAMESPACE and _is_grpc(service, number)


def _speak_http2(cluster: _Cluster) -> None:
    options = http_protocol_options_pb2.HttpProtocolOptions(
        explicit_http_config=http_protocol_options_pb2.HttpProtocolOptions.ExplicitHttpConfig(
            http2_protocol_options=protocol_pb2.Http2ProtocolOptions()
        ),
    )
    cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(packed(options))


def _http_options(cluster: _Cluster, pool: ConnectionPoolSettings | None) -> None:
    http = pool.http if pool else None
    if http is None or (http.idle_timeout is None and not http.max_requests_per_connection):
        return
    common = protocol_pb2.HttpProtocolOptions()
    if http.idle_timeout is not None:
        common.idle_timeout.CopyFrom(duration(seconds(http.idle_timeout)))
    if http.max_requests_per_connection:
        common.max_requests_per_connection.value = http.max_requests_per_connection
    options = http_protocol_options_pb2.HttpProtocolOptions(
        common_http_protocol_options=common,
        explicit_http_config=http_protocol_options_pb2.HttpProtocolOptions.ExplicitHttpConfig(
            http_protocol_options=protocol_pb2.Http1ProtocolOptions()
        ),
    )
    cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(packed(options))
