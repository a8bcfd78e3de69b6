"""Clusters and endpoints: how a service is reached, by whom it is answered, and how that is secured."""

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from pymesh.xds import types
from tests.controlplane.pilot.worlds import (
    BOOKINFO,
    EVERYTHING,
    pod,
    resources_for,
    service,
    sidecar,
    slice_of,
    world_of,
)

RATINGS = "ratings.default.svc.cluster.local"
REVIEWS = "reviews.default.svc.cluster.local"


def cluster(name: str, text: str = EVERYTHING) -> Cluster:
    found = resources_for(sidecar(), world_of(text))[types.CLUSTER][name]
    assert isinstance(found, Cluster)
    return found


def assignment(name: str, text: str = EVERYTHING) -> ClusterLoadAssignment:
    found = resources_for(sidecar(), world_of(text))[types.ENDPOINT][name]
    assert isinstance(found, ClusterLoadAssignment)
    return found


def addresses(found: ClusterLoadAssignment) -> list[str]:
    sockets = [item.endpoint.address.socket_address for place in found.endpoints for item in place.lb_endpoints]
    return [f"{socket.address}:{socket.port_value}" for socket in sockets]


def rule(policy: str, host: str = "ratings") -> str:
    return f"""{BOOKINFO}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: more, namespace: default}}
spec: {{host: {host}, trafficPolicy: {policy}}}
"""


def tls_of(found: Cluster) -> UpstreamTlsContext:
    return UpstreamTlsContext.FromString(found.transport_socket.typed_config.value)


# --- Mutual TLS ---


def test_endpoints_with_a_sidecar_get_mutual_tls_and_the_others_plaintext() -> None:
    found = cluster(f"outbound|9080||{REVIEWS}")
    istio, disabled = found.transport_socket_matches
    assert (dict(istio.match), dict(disabled.match)) == ({"tlsMode": "istio"}, {})
    context = UpstreamTlsContext.FromString(istio.transport_socket.typed_config.value)
    assert context.sni == f"outbound_.9080_._.{REVIEWS}"
    validation = context.common_tls_context.combined_validation_context.default_validation_context
    names = [(item.san_type, item.matcher.exact) for item in validation.match_typed_subject_alt_names]
    assert names == [(3, "spiffe://cluster.local/ns/default/sa/reviews")]
    assert list(context.common_tls_context.alpn_protocols) == ["istio-http/1.1", "istio"]
    (place,) = assignment(f"outbound|9080||{REVIEWS}").endpoints
    modes = [item.metadata.filter_metadata["envoy.transport_socket_match"]["tlsMode"] for item in place.lb_endpoints]
    assert modes == ["istio"] * 3
    (place,) = assignment(f"outbound|9080||{RATINGS}").endpoints
    assert "envoy.transport_socket_match" not in place.lb_endpoints[0].metadata.filter_metadata


def test_who_answers_may_be_of_a_trust_domain_that_stands_for_the_meshs() -> None:
    """While a mesh moves to another trust domain, certificates of both are in use."""
    aliases = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pymesh, namespace: pymesh-system}
data: {mesh: 'trustDomainAliases: [old.example]'}
"""
    found = cluster(f"outbound|9080||{REVIEWS}", BOOKINFO + aliases)
    socket = found.transport_socket_matches[0].transport_socket
    context = UpstreamTlsContext.FromString(socket.typed_config.value).common_tls_context
    accepted = context.combined_validation_context.default_validation_context.match_typed_subject_alt_names
    assert [item.matcher.exact for item in accepted] == [
        f"spiffe://{domain}/ns/default/sa/reviews" for domain in ("cluster.local", "old.example")
    ]


def test_opaque_connections_say_so_by_alpn() -> None:
    def alpn(name: str) -> list[str]:
        socket = cluster(name).transport_socket_matches[0].transport_socket
        return list(UpstreamTlsContext.FromString(socket.typed_config.value).common_tls_context.alpn_protocols)

    assert alpn("outbound|5432||db.default.svc.cluster.local") == ["istio-peer-exchange", "istio"]
    assert alpn("outbound|9080||cache.default.svc.cluster.local") == ["istio-http/1.1", "istio"]
    assert alpn("outbound-tcp|9080||cache.default.svc.cluster.local") == ["istio-peer-exchange", "istio"]
    both = [cluster(f"{kind}|9080||cache.default.svc.cluster.local") for kind in ("outbound", "outbound-tcp")]
    assert len({found.eds_cluster_config.service_name for found in both}) == 1


def test_a_service_without_pods_is_not_answered_by_just_anyone() -> None:
    socket = cluster("outbound|9080||cache.default.svc.cluster.local").transport_socket_matches[0].transport_socket
    context = UpstreamTlsContext.FromString(socket.typed_config.value).common_tls_context
    names = context.combined_validation_context.default_validation_context.match_typed_subject_alt_names
    assert [item.matcher.exact for item in names] == ["spiffe://cluster.local/ns/default/sa/default"]


def test_a_workload_that_disables_mutual_tls_is_sent_plaintext() -> None:
    policy = """
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: none, namespace: default}
spec: {selector: {matchLabels: {version: v2}}, mtls: {mode: DISABLE}}
"""
    (place,) = assignment(f"outbound|9080||{REVIEWS}", BOOKINFO + policy).endpoints
    secured = {
        item.endpoint.address.socket_address.address: "envoy.transport_socket_match" in item.metadata.filter_metadata
        for item in place.lb_endpoints
    }
    assert secured == {"10.244.0.11": True, "10.244.0.12": False, "10.244.0.13": True}


def test_headless_services_go_where_they_were_dialled_and_are_secured_if_all_can() -> None:
    peers = cluster("outbound|7000||peers.default.svc.cluster.local")
    assert (peers.type, peers.lb_policy) == (Cluster.ORIGINAL_DST, Cluster.CLUSTER_PROVIDED)
    assert tls_of(peers).sni == "outbound_.7000_._.peers.default.svc.cluster.local"
    bare = EVERYTHING.replace(
        pod("peers-1", "10.244.0.22", "peers", port=7000), pod("peers-1", "10.244.0.22", "peers", mesh=False)
    )
    assert not cluster("outbound|7000||peers.default.svc.cluster.local", bare).HasField("transport_socket")


@pytest.mark.parametrize(
    ("settings", "name", "accepted"),
    [
        ("{mode: SIMPLE}", RATINGS, [RATINGS]),
        ("{mode: SIMPLE, sni: x.example}", "x.example", ["x.example"]),
        ("{mode: SIMPLE, sni: x.example, subjectAltNames: [y.example]}", "x.example", ["y.example"]),
        ("{mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /r}", RATINGS, [RATINGS]),
    ],
)
def test_tls_to_the_outside_always_checks_a_name(settings: str, name: str, accepted: list[str]) -> None:
    found = cluster(f"outbound|9080||{RATINGS}", rule(f"{{tls: {settings}}}"))
    assert not found.transport_socket_matches
    context = tls_of(found)
    assert context.sni == name
    validation = context.common_tls_context.validation_context
    assert [item.matcher.exact for item in validation.match_typed_subject_alt_names] == accepted
    assert validation.trusted_ca.filename == ("/r" if "MUTUAL" in settings else "/etc/ssl/certs/ca-certificates.crt")
    assert bool(context.common_tls_context.tls_certificates) == ("MUTUAL" in settings)


def test_disable_and_istio_mutual_hold_for_all_endpoints() -> None:
    off = cluster(
        f"outbound|9080||{REVIEWS}", rule("{tls: {mode: DISABLE}}", "reviews.default").replace("name: more", "name: a")
    )
    assert not off.transport_socket_matches
    assert not off.HasField("transport_socket")
    on = cluster(f"outbound|9080||{RATINGS}", rule("{tls: {mode: ISTIO_MUTUAL}}"))
    assert not on.transport_socket_matches
    names = tls_of(on).common_tls_context.combined_validation_context.default_validation_context
    assert names.match_typed_subject_alt_names[0].matcher.exact == "spiffe://cluster.local/ns/default/sa/ratings"
    given = cluster(
        f"outbound|9080||{RATINGS}",
        rule("{tls: {mode: ISTIO_MUTUAL, sni: x, subjectAltNames: ['spiffe://a/ns/b/sa/c']}}"),
    )
    names = tls_of(given).common_tls_context.combined_validation_context.default_validation_context
    assert [item.matcher.exact for item in names.match_typed_subject_alt_names] == ["spiffe://a/ns/b/sa/c"]
    assert tls_of(given).sni == "x"


# --- Limits and balancing ---


@pytest.mark.parametrize(
    ("simple", "balancing", "kind"),
    [
        ("ROUND_ROBIN", Cluster.ROUND_ROBIN, Cluster.EDS),
        ("RANDOM", Cluster.RANDOM, Cluster.EDS),
        ("LEAST_REQUEST", Cluster.LEAST_REQUEST, Cluster.EDS),
        ("LEAST_CONN", Cluster.LEAST_REQUEST, Cluster.EDS),
        ("UNSPECIFIED", Cluster.LEAST_REQUEST, Cluster.EDS),
        ("PASSTHROUGH", Cluster.CLUSTER_PROVIDED, Cluster.ORIGINAL_DST),
    ],
)
def test_balancing(simple: str, balancing: int, kind: int) -> None:
    found = cluster(f"outbound|9080||{RATINGS}", rule(f"{{loadBalancer: {{simple: {simple}}}}}"))
    assert (found.lb_policy, found.type) == (balancing, kind)
    assert cluster(f"outbound|9080||{RATINGS}", BOOKINFO).lb_policy == Cluster.LEAST_REQUEST


def test_limits_are_those_that_were_asked_for_and_no_others() -> None:
    pool = "{tcp: {maxConnections: 7, connectTimeout: 250ms}, http: {http1MaxPendingRequests: 8, maxRetries: 9}}"
    limited = cluster(f"outbound|9080||{RATINGS}", rule(f"{{connectionPool: {pool}}}"))
    (limits,) = limited.circuit_breakers.thresholds
    assert limits.max_connections.value == 7
    assert limits.max_pending_requests.value == 8
    assert limits.max_retries.value == 9
    assert limits.max_requests.value == 2**32 - 1
    assert limited.connect_timeout.ToMilliseconds() == 250
    assert not limited.typed_extension_protocol_options
    free = cluster(f"outbound|9080||{RATINGS}", BOOKINFO)
    assert free.circuit_breakers.thresholds[0].max_connections.value == 2**32 - 1
    assert free.connect_timeout.seconds == 10


def test_http_limits() -> None:
    (box,) = cluster(f"outbound|9080||{REVIEWS}").typed_extension_protocol_options.values()
    common = HttpProtocolOptions.FromString(box.value).common_http_protocol_options
    assert (common.idle_timeout.seconds, common.max_requests_per_connection.value) == (30, 9)


def test_a_subset_has_its_own_endpoints_and_policy() -> None:
    assert addresses(assignment(f"outbound|9080|v2|{REVIEWS}")) == ["10.244.0.12:9080"]
    assert cluster(f"outbound|9080|v2|{REVIEWS}").lb_policy == Cluster.RANDOM
    assert cluster(f"outbound|9080|v1|{REVIEWS}").lb_policy == Cluster.ROUND_ROBIN


def services_of(found: Cluster) -> list[dict[str, str]]:
    return [dict(item) for item in found.metadata.filter_metadata["istio"]["services"]]


def test_a_cluster_names_its_service_as_istio_s_telemetry_reads_it() -> None:
    expected = [{"host": REVIEWS, "name": "reviews", "namespace": "default"}]
    assert services_of(cluster(f"outbound|9080||{REVIEWS}")) == expected
    assert services_of(cluster(f"outbound|9080|v2|{REVIEWS}")) == expected
    (api,) = services_of(cluster("outbound|80||api.example.com"))
    assert (api["host"], api["name"]) == ("api.example.com", "api")


def test_an_inbound_cluster_names_every_service_of_its_port() -> None:
    other = service("front", ports="[{name: http, port: 80, targetPort: 9080}]", selector="productpage")
    found = resources_for(sidecar(), world_of(EVERYTHING + "---" + other))[types.CLUSTER]["inbound|9080||"]
    assert isinstance(found, Cluster)
    assert [item["name"] for item in services_of(found)] == ["front", "productpage"]


# --- Endpoints ---


def test_only_ready_endpoints_answer() -> None:
    text = service("a") + "---" + slice_of("a", "10.0.0.1", "10.0.0.2").replace("{ready: true}", "{ready: false}", 1)
    assert addresses(assignment("outbound|9080||a.default.svc.cluster.local", text)) == ["10.0.0.2:9080"]
    published = text.replace("selector:", "publishNotReadyAddresses: true\n  selector:")
    found = assignment("outbound|9080||a.default.svc.cluster.local", published)
    assert addresses(found) == ["10.0.0.1:9080", "10.0.0.2:9080"]


def test_an_endpoint_says_who_stands_there() -> None:
    (place,) = assignment(f"outbound|9080|v2|{REVIEWS}").endpoints
    about = place.lb_endpoints[0].metadata.filter_metadata
    assert dict(about["istio"]) == {"workload": "reviews-v2;default;reviews;v2;Kubernetes"}
    assert dict(about["pymesh"]) == {
        "pod": "reviews-v2", "service_account": "reviews", "app": "reviews", "version": "v2",
    }  # fmt: skip


def test_a_service_without_endpoints_has_an_empty_assignment() -> None:
    assert not assignment("outbound|9080||cache.default.svc.cluster.local").endpoints


def test_service_entries() -> None:
    named = cluster("outbound|80||api.example.com")
    assert named.type == Cluster.STRICT_DNS
    assert addresses(named.load_assignment) == ["api.example.com:80"]
    assert not named.transport_socket_matches
    assert cluster("outbound|443||*.example.org").type == Cluster.ORIGINAL_DST
    fixed = assignment("outbound|9000||fixed.internal")
    assert addresses(fixed) == ["10.244.0.20:5432", "192.0.2.7:9001"]
    pod_behind, foreign = fixed.endpoints[0].lb_endpoints
    assert foreign.load_balancing_weight.value == 3
    assert "envoy.transport_socket_match" in pod_behind.metadata.filter_metadata
    assert "envoy.transport_socket_match" not in foreign.metadata.filter_metadata


def test_inbound_is_dialled_where_the_caller_dialled_and_from_an_address_that_the_redirect_knows() -> None:
    for name in ("inbound|9080||", "InboundPassthroughCluster"):
        found = cluster(name)
        assert found.type == Cluster.ORIGINAL_DST
        assert found.upstream_bind_config.source_address.address == "127.0.0.6"
    assert not cluster("PassthroughCluster").HasField("upstream_bind_config")
