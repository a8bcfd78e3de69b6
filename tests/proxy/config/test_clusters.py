"""Clusters and load assignments."""

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from pymesh.errors import ConfigError
from pymesh.peer_metadata import Peer, ServiceFacts
from pymesh_proxy.config import resource
from pymesh_proxy.config.clusters import compile_cluster, compile_endpoints, resolved
from pymesh_proxy.config.model import CircuitLimits, Cluster, Discovery, DnsFamily
from pymesh_proxy.upstream.balancer import Balance, Policy
from pymesh_proxy.upstream.endpoint import Health
from pymesh_proxy.upstream.registry import EndpointSpec
from pymesh_proxy.upstream.ring import RingSettings
from tests.support.xds import message

HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def cluster(text: str) -> Cluster:
    return compile_cluster(message(ClusterMessage, text), "c").cluster


def endpoints(text: str) -> tuple[EndpointSpec, ...]:
    return compile_endpoints(message(ClusterLoadAssignment, text), "e")


def address(host: str, port: int = 80) -> str:
    return f"{{address: {{socket_address: {{address: '{host}', port_value: {port}}}}}}}"


def assigned(*hosts: str) -> str:
    members = ", ".join(f"{{endpoint: {address(host)}}}" for host in hosts)
    return f"load_assignment: {{cluster_name: x, endpoints: [{{lb_endpoints: [{members}]}}]}}"


def test_a_static_cluster_and_its_defaults() -> None:
    compiled = compile_cluster(message(ClusterMessage, f"{{name: a, {assigned('10.0.0.1', '::1')}}}"))
    found = compiled.cluster
    assert (found.name, found.discovery, found.balance) == ("a", Discovery.STATIC, Balance(Policy.ROUND_ROBIN))
    assert (found.connect_timeout, found.idle_timeout, found.balance.panic) == (5.0, 3600.0, 0.5)
    assert found.limits == CircuitLimits()
    assert [(spec.host, spec.port, spec.weight) for spec in compiled.static] == [("10.0.0.1", 80, 1), ("::1", 80, 1)]


def test_a_dns_cluster_has_targets_and_no_endpoints_yet() -> None:
    text = f"""
        name: a
        type: STRICT_DNS
        dns_refresh_rate: 30s
        dns_failure_refresh_rate: {{base_interval: 1s, max_interval: 10s}}
        dns_lookup_family: V4_ONLY
        {assigned("reviews", "ratings")}
    """
    found = cluster(text)
    assert found.dns_targets == (EndpointSpec("reviews", 80), EndpointSpec("ratings", 80))
    assert (found.dns_refresh, found.dns_failure_refresh, found.dns_family) == (30.0, (1.0, 10.0), DnsFamily.V4_ONLY)
    specs = resolved(found, {"reviews": ("10.0.0.1", "10.0.0.2")})
    assert [(spec.host, spec.hostname) for spec in specs] == [("10.0.0.1", "reviews"), ("10.0.0.2", "reviews")]


def test_a_logical_dns_cluster_uses_the_first_address() -> None:
    found = cluster(f"{{name: a, type: LOGICAL_DNS, {assigned('reviews')}}}")
    assert [spec.host for spec in resolved(found, {"reviews": ("10.0.0.1", "10.0.0.2")})] == ["10.0.0.1"]


def test_options() -> None:
    found = cluster(f"""
        name: a
        type: EDS
        lb_policy: LEAST_REQUEST
        eds_cluster_config: {{eds_config: {{ads: {{}}}}, service_name: other}}
        connect_timeout: 0.25s
        circuit_breakers:
          thresholds: [{{max_connections: 1, max_pending_requests: 2, max_requests: 3, max_retries: 4}}]
        upstream_bind_config:
          source_address: {{address: 127.0.0.6, port_value: 0}}
          extra_source_addresses: [{{address: {{address: "::6", port_value: 0}}}}]
        least_request_lb_config: {{choice_count: 5, active_request_bias: {{default_value: 0.5}}}}
        common_lb_config: {{healthy_panic_threshold: {{value: 0}}}}
        metadata: {{filter_metadata: {{istio: {{services: [{{host: a.b, name: a, namespace: b}}]}}}}}}
        typed_extension_protocol_options:
          {HTTP}:
            "@type": type.googleapis.com/{HTTP}
            common_http_protocol_options: {{idle_timeout: 0s, max_requests_per_connection: 9}}
            explicit_http_config: {{http_protocol_options: {{}}}}
    """)
    assert (found.eds_service_name, found.connect_timeout, found.bind_address) == ("other", 0.25, "127.0.0.6")
    assert found.extra_bind_address == "::6"
    assert found.limits == CircuitLimits(1, 2, 3, 4)
    assert found.balance == Balance(Policy.LEAST_REQUEST, choices=5, bias=0.5, panic=0.0)
    assert (found.idle_timeout, found.max_requests_per_connection) == (None, 9)
    assert found.service == ServiceFacts("a.b", "a", "b")


@pytest.mark.parametrize(
    ("said", "budget"),
    [("", None), ("{}", None), ("{retry_budget: {}}", 0.2)],
    ids=["nothing", "no threshold", "a budget"],
)
def test_limits_of_which_nothing_is_said_are_envoys(said: str, budget: float | None) -> None:
    found = cluster(f"{{name: a, circuit_breakers: {{thresholds: [{said}]}}}}").limits
    assert (found.max_connections, found.max_pending_requests, found.max_requests) == (1024, 1024, 1024)
    assert (found.max_retries, found.retry_budget, found.min_retries) == (3, budget, 3)


def test_how_traffic_is_spread() -> None:
    found = cluster("""
        name: a
        lb_policy: RING_HASH
        ring_hash_lb_config: {minimum_ring_size: 7, maximum_ring_size: 9, hash_function: MURMUR_HASH_2}
        common_lb_config:
          locality_weighted_lb_config: {}
          consistent_hashing_lb_config: {use_hostname_for_hashing: true}
    """)
    ring = RingSettings(minimum=7, maximum=9, hash="MURMUR_HASH_2", by_hostname=True)
    assert found.balance == Balance(Policy.RING_HASH, ring=ring, by_locality=True)


def test_http2_marks_the_clusters_of_the_proxys_own_grpc_clients() -> None:
    text = f"""
        name: a
        typed_extension_protocol_options:
          {HTTP}: {{"@type": type.googleapis.com/{HTTP}, explicit_http_config: {{PROTOCOL: {{}}}}}}
    """
    assert cluster(text.replace("PROTOCOL", "http2_protocol_options")).http2
    assert not cluster(text.replace("PROTOCOL", "http_protocol_options")).http2


def test_transport_matches() -> None:
    found = cluster("""
        name: a
        transport_socket_matches:
        - name: tlsMode-istio
          match: {tlsMode: istio, number: 5, yes: true}
          transport_socket:
            name: tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
              sni: outbound_.80
        - name: plain
          match: {}
          transport_socket:
            name: raw
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer
    """)
    tls, plain = found.transport_matches
    assert tls.metadata == {"tlsMode": "istio", "number": "5", "yes": "true"}
    assert tls.tls is not None
    assert tls.tls.sni == "outbound_.80"
    assert (plain.metadata, plain.tls) == ({}, None)


def test_endpoints_with_everything() -> None:
    found = endpoints("""
        endpoints:
        - priority: 1
          load_balancing_weight: 3
          locality: {region: x}
          lb_endpoints:
          - endpoint: {address: {socket_address: {address: '::0:1', port_value: 80}}, hostname: pod}
            load_balancing_weight: 7
            health_status: DRAINING
            metadata: {filter_metadata: {
              envoy.transport_socket_match: {tlsMode: istio},
              istio: {workload: 'reviews-v1;default;reviews;v1;c1'}, pymesh: {version: v1}}}
    """)
    assert found == (
        EndpointSpec(
            "::1", 80, weight=7, hostname="pod", metadata={"tlsMode": "istio"},
            labels={"workload": "reviews-v1", "namespace": "default", "canonical_service": "reviews",
                    "canonical_revision": "v1", "cluster": "c1", "version": "v1"},
            peer=Peer("reviews-v1", "default", "unknown", "v1", "reviews", "v1", "c1"),
            health=Health.EDS_STATUS_DRAINING, priority=1, locality=("x", "", ""), locality_weight=3,
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("{}", "c.name", "is required"),
        ("{name: a, connect_timeout: 0s}", "c.connect_timeout", "above 0"),
        ("{name: a, type: EDS}", "c.eds_cluster_config.eds_config", "`ads: {}` is required"),
        (f"{{name: a, type: EDS, {assigned('10.0.0.1')}}}", "c.load_assignment", "gets its endpoints elsewhere"),
        (f"{{name: a, {assigned('10.0.0.1', 'reviews')}}}",
         "c.load_assignment.endpoints[0].lb_endpoints[1].endpoint.address.socket_address.address",
         "'reviews' is not an IP address"),
        (f"{{name: a, type: LOGICAL_DNS, {assigned('x', 'y')}}}", "c.load_assignment", "exactly one"),
        ("{name: a, type: LOGICAL_DNS}", "c.load_assignment", "exactly one"),
        ("{name: a, type: ORIGINAL_DST}", "c.lb_policy", "CLUSTER_PROVIDED goes with"),
        ("{name: a, lb_policy: CLUSTER_PROVIDED}", "c.lb_policy", "CLUSTER_PROVIDED goes with"),
        ("{name: a, least_request_lb_config: {choice_count: 1}}", "c.least_request_lb_config.choice_count",
         "at least 2"),
        ("{name: a, common_lb_config: {healthy_panic_threshold: {value: 101}}}",
         "c.common_lb_config.healthy_panic_threshold.value", "0 to 100"),
        ("{name: a, upstream_bind_config: {source_address: {address: x}}}",
         "c.upstream_bind_config.source_address.address", "not an IP"),
        ("""{name: a, upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0},
             extra_source_addresses: [{address: {address: 127.0.0.7, port_value: 0}}]}}""",
         "c.upstream_bind_config.extra_source_addresses", "of the other address family"),
        ("{name: a, upstream_bind_config: {source_address: {address: 127.0.0.1, port_value: 5}}}",
         "c.upstream_bind_config.source_address.port_value", "fixed source port"),
        ("{name: a, transport_socket_matches: [{}]}", "c.transport_socket_matches[0].name", "is required"),
        ("{name: a, transport_socket_matches: [{name: m, match: {a: [1]}}]}", "c.transport_socket_matches[0].match",
         "only strings"),
        ("{name: a, transport_socket_matches: [{name: m}]}",
         "c.transport_socket_matches[0].transport_socket.typed_config", "the type '' is not supported"),
    ],
)  # fmt: skip
def test_clusters_that_are_refused(text: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        cluster(text)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("endpoint", "path", "problem"),
    [
        ("{}", ".endpoint.address", "one of these is required"),
        (f"{{endpoint: {address('')}}}", ".endpoint.address.socket_address.address", "is required"),
        (f"{{endpoint: {address('10.0.0.1', 0)}}}", ".endpoint.address.socket_address.port_value", "needs a port"),
        (f"{{endpoint: {address('10.0.0.1', 65536)}}}", ".endpoint.address.socket_address.port_value", "not a port"),
        (f"{{endpoint: {address('10.0.0.300')}}}", ".endpoint.address.socket_address.address", "not an IP address"),
        (f"{{endpoint: {address('10.0.0.1')}, load_balancing_weight: 0}}", ".load_balancing_weight", "at least 1"),
    ],
)
def test_endpoints_that_are_refused(endpoint: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        endpoints(f"{{endpoints: [{{lb_endpoints: [{endpoint}]}}]}}")
    assert caught.value.path == f"e.endpoints[0].lb_endpoints[0]{path}"


def test_a_priority_that_is_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 to 128") as caught:
        endpoints("{endpoints: [{priority: 129}]}")
    assert caught.value.path == "e.endpoints[0].priority"


def test_an_assignment_is_compiled_an_endpoint_a_step() -> None:
    assignment = ClusterLoadAssignment(cluster_name="c")
    group = assignment.endpoints.add()
    for number in range(20):
        address = group.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = f"10.0.0.{number}", 80
    assert sum(1 for _ in resource.endpoints(assignment.SerializeToString())) >= 20
