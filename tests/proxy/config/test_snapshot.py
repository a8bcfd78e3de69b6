"""Snapshots: what changed is compiled, what did not is kept, what is refused changes nothing."""

import weakref
from collections.abc import Callable

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.message import Message

from pymesh.errors import ConfigError
from pymesh.steps import whole
from pymesh.xds import types
from pymesh_proxy.config import resource
from pymesh_proxy.config import snapshot as snapshot_module
from pymesh_proxy.config.snapshot import Configuration
from pymesh_proxy.control.resources import name_in
from pymesh_proxy.upstream.registry import EndpointRegistry
from tests.support.configuration import apply
from tests.support.heads import request
from tests.support.xds import HCM, ROUTER, message

ADS = "{config_source: {ads: {}}, route_config_name: '80'}"


def new() -> Configuration:
    return Configuration(EndpointRegistry(), lambda: 0.0)


def eds(name: str, more: str = "") -> Cluster:
    return message(Cluster, f"{{name: {name}, type: EDS, eds_cluster_config: {{eds_config: {{ads: {{}}}}}} {more}}}")


def assignment(name: str, *hosts: str, more: str = "") -> ClusterLoadAssignment:
    members = ", ".join(
        f"{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: 80}}}}}} {more}}}" for host in hosts
    )
    return message(ClusterLoadAssignment, f"{{cluster_name: {name}, endpoints: [{{lb_endpoints: [{members}]}}]}}")


def listener(name: str, routes: str = f"rds: {ADS}") -> Listener:
    return message(Listener, listener_text(name, routes))


def listener_text(name: str, routes: str = f"rds: {ADS}") -> str:
    config = f"{{'@type': {HCM}, stat_prefix: s, {routes}, http_filters: [{ROUTER}]}}"
    return (
        f"{{name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}, "
        f"filter_chains: [{{filters: [{{name: f, typed_config: {config}}}]}}]}}"
    )


def routes(cluster: str, more: str = "") -> RouteConfiguration:
    host = f"{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}"
    return message(RouteConfiguration, f"{{name: '80', virtual_hosts: [{host}] {more}}}")


def test_a_configuration_grows_by_type() -> None:
    config = new()
    apply(config, types.CLUSTER, {"a": eds("a")})
    apply(config, types.ENDPOINT, {"a": assignment("a", "10.0.0.1")})
    apply(config, types.LISTENER, {"l": listener("l")})
    snapshot = apply(config, types.ROUTE, {"80": routes("a")})
    assert snapshot.version == 4
    assert [endpoint.address for endpoint in snapshot.clusters["a"].endpoints] == ["10.0.0.1:80"]
    assert snapshot.routes["80"].find(request()) is not None
    assert (config.wanted_routes(), config.wanted_endpoints(), config.wanted_secrets()) == ({"80"}, {"a"}, frozenset())


def test_what_did_not_change_is_the_same_object() -> None:
    config = new()
    apply(config, types.CLUSTER, {"a": eds("a"), "b": eds("b")})
    before = apply(config, types.LISTENER, {"l": listener("l")})
    apply(config, types.ROUTE, {"80": routes("a")})
    after = apply(config, types.CLUSTER, {"a": eds("a"), "b": eds("b", ", connect_timeout: 9s")})
    assert after.clusters["a"] is before.clusters["a"]
    assert after.clusters["b"] is not before.clusters["b"]
    assert after.clusters["b"].connect_timeout == 9.0
    assert after.listeners["l"] is before.listeners["l"]
    assert apply(config, types.LISTENER, {"l": listener("l")}).listeners["l"] is before.listeners["l"]
    assert before.clusters["b"].connect_timeout == 5.0, "a snapshot never changes"


def test_a_filter_chain_that_did_not_change_is_the_same_object() -> None:
    """Though its listener changed: its connections go on."""
    config, first = new(), listener("l")
    first.filter_chains.append(listener("l").filter_chains[0])
    for port, chain in enumerate(first.filter_chains, start=1):
        chain.filter_chain_match.destination_port.value = port
    second = Listener.FromString(first.SerializeToString())
    second.filter_chains[1].filter_chain_match.destination_port.value = 3
    before = apply(config, types.LISTENER, {"l": first}).listeners["l"]
    after = apply(config, types.LISTENER, {"l": second}).listeners["l"]
    assert after is not before
    assert after.chains[0] is before.chains[0]
    assert after.chains[1] is not before.chains[1]
    assert after.chains[1].match.destination_port == 3


def test_endpoints_survive_and_those_that_are_gone_retire() -> None:
    config = new()
    apply(config, types.CLUSTER, {"a": eds("a")})
    stays, goes = apply(config, types.ENDPOINT, {"a": assignment("a", "10.0.0.1", "10.0.0.2")}).clusters["a"].endpoints
    stays.active = 3
    weighted = assignment("a", "10.0.0.3", "10.0.0.1", more=", load_balancing_weight: 5")
    found = apply(config, types.ENDPOINT, {"a": weighted}).clusters["a"].endpoints
    assert found[1] is stays
    assert (stays.active, stays.weight, stays.retired, goes.retired) == (3, 5, False, True)
    apply(config, types.CLUSTER, {}, ["a"])
    assert stays.retired


def test_endpoints_may_come_before_their_cluster_and_after_a_change_of_it() -> None:
    config = new()
    apply(config, types.ENDPOINT, {"a": assignment("a", "10.0.0.1")})
    (first,) = apply(config, types.CLUSTER, {"a": eds("a")}).clusters["a"].endpoints
    (second,) = apply(config, types.CLUSTER, {"a": eds("a", ", connect_timeout: 1s")}).clusters["a"].endpoints
    assert second is first
    assert apply(config, types.ENDPOINT, {}, ["a"]).clusters["a"].endpoints == ()


def test_endpoints_of_all_priorities_are_there_with_their_health() -> None:
    config = new()
    apply(config, types.CLUSTER, {"a": eds("a")})
    text = """{cluster_name: a, endpoints: [
      {lb_endpoints: [{health_status: %s, endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 1}}}}]},
      {priority: 1, lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.2, port_value: 1}}}}]}]}"""
    down = (
        apply(config, types.ENDPOINT, {"a": message(ClusterLoadAssignment, text % "UNHEALTHY")}).clusters["a"].endpoints
    )
    up = apply(config, types.ENDPOINT, {"a": message(ClusterLoadAssignment, text % "HEALTHY")}).clusters["a"].endpoints
    assert [(one.host, one.priority) for one in down] == [("10.0.0.1", 0), ("10.0.0.2", 1)]
    assert down[0] is up[0]
    assert (up[0].healthy, up[0].membership.version > 0) == (True, True)


def test_resolved_names_become_endpoints() -> None:
    config = new()
    text = """{name: d, type: STRICT_DNS, load_assignment: {cluster_name: d, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: reviews, port_value: 80}}}}]}]}}"""
    assert apply(config, types.CLUSTER, {"d": message(Cluster, text)}).clusters["d"].endpoints == ()
    (first,) = config.apply_addresses("d", {"reviews": ("10.0.0.1",)}).clusters["d"].endpoints
    found = config.apply_addresses("d", {"reviews": ("10.0.0.1", "10.0.0.2")}).clusters["d"].endpoints
    assert found[0] is first
    assert [(one.address, one.hostname) for one in found] == [("10.0.0.1:80", "reviews"), ("10.0.0.2:80", "reviews")]
    version = config.snapshot.version
    config.apply_addresses("gone", {"x": ("10.0.0.9",)})
    assert config.snapshot.version == version


BAD_LISTENER = listener("l")
BAD_LISTENER.filter_chains[0].filters[0].name = "x"
BAD_LISTENER.transparent.value = True


@pytest.mark.parametrize(
    ("change", "resource", "path"),
    [
        (lambda config: apply(config, types.LISTENER, {"ok": listener("ok"), "l": BAD_LISTENER}),
         "Listener l", "transparent"),
        (lambda config: apply(config, types.CLUSTER, {"b": eds("b"), "c": Cluster(name="c", lb_policy=Cluster.MAGLEV)}),
         "Cluster c", "lb_policy"),
        (lambda config: apply(config, types.ROUTE, {"80": routes("gone", ", validate_clusters: true")}),
         "RouteConfiguration 80", "virtual_hosts[0].routes[0].route.cluster"),
        (lambda config: apply(config, types.ENDPOINT, {"a": assignment("a", "nowhere")}), "ClusterLoadAssignment a",
         "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address"),
    ],
)  # fmt: skip
def test_a_refusal_names_resource_and_field_and_changes_nothing(
    change: Callable[[Configuration], object], resource: str, path: str
) -> None:
    config = new()
    apply(config, types.CLUSTER, {"a": eds("a")})
    apply(config, types.ENDPOINT, {"a": assignment("a", "10.0.0.1")})
    before = config.snapshot
    with pytest.raises(ConfigError) as caught:
        change(config)
    assert (caught.value.resource, caught.value.path) == (resource, path)
    assert config.snapshot is before
    assert not before.clusters["a"].endpoints[0].retired
    assert config.encoded(types.CLUSTER).keys() == {"a"}


def test_a_type_that_is_no_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match="resources of type"):
        apply(new(), types.SECRET, {})


BOOTSTRAP = """
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: pilot}}]}
static_resources:
  clusters:
  - name: pilot
    load_assignment: {cluster_name: pilot, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 15010}}}}]}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"""


def test_a_bootstrap_and_resources_that_cannot_be_changed_afterwards() -> None:
    config = new()
    snapshot = config.apply_bootstrap(message(Bootstrap, BOOTSTRAP))
    assert [endpoint.port for endpoint in snapshot.clusters["pilot"].endpoints] == [15010]
    apply(config, types.CLUSTER, {"a": eds("a")})
    for change in (lambda: apply(config, types.CLUSTER, {"pilot": eds("pilot")}),
                   lambda: apply(config, types.CLUSTER, {}, ["pilot"])):  # fmt: skip
        with pytest.raises(ConfigError, match="static resource") as caught:
            change()
        assert caught.value.resource == "Cluster pilot"
    assert {*config.snapshot.clusters} == {"pilot", "a"}


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("{static_resources: {clusters: [{name: a}, {name: a}]}}", "static_resources.clusters[1].name", "given twice"),
        ("{static_resources: {clusters: [{name: a}, {}]}}", "static_resources.clusters[1].name", "is required"),
        ("{static_resources: {listeners: [{name: a}]}}", "static_resources.listeners[0].address", "one of these"),
        ("{static_resources: {clusters: [{name: a, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}}]}}",
         "static_resources.clusters[0].type", "EDS needs dynamic_resources.ads_config"),
        (f"{{static_resources: {{listeners: [{listener_text('a')}]}}}}",
         "static_resources.listeners[0].filter_chains", "RDS needs dynamic_resources.ads_config"),
        (BOOTSTRAP.replace("cluster_name: pilot}}]", "cluster_name: other}}]"),
         "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name", "there is no static cluster 'other'"),
        ("dynamic_resources: {ads_config: {grpc_services: [{envoy_grpc: {cluster_name: x}}]}}",
         "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name", "there is no static cluster 'x'"),
    ],
)  # fmt: skip
def test_bootstraps_that_are_refused(text: str, path: str, problem: str) -> None:
    config = new()
    with pytest.raises(ConfigError, match=problem) as caught:
        config.apply_bootstrap(message(Bootstrap, text))
    assert caught.value.path == path
    assert config.snapshot.version == 0


def test_secrets_that_are_wanted() -> None:
    config = new()
    context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    tls = f"""{{name: tls, typed_config: {{'@type': {context}, common_tls_context: {{
      tls_certificate_sds_secret_configs: [{{name: default}}],
      validation_context_sds_secret_config: {{name: ROOTCA}}}}}}}}"""
    apply(config, types.CLUSTER, {"a": eds("a", f", transport_socket_matches: [{{name: m, transport_socket: {tls}}}]")})
    assert config.wanted_secrets() == {"default", "ROOTCA"}


def test_the_dump_shows_static_and_dynamic_resources_and_no_keys() -> None:
    config = new()
    config.apply_bootstrap(message(Bootstrap, BOOTSTRAP))
    apply(config, types.ROUTE, {"80": routes("a")})
    dumped = whole(config.dumping())
    sections = dumped["configs"]
    assert isinstance(sections, list)
    clusters = next(section for section in sections if section["@type"].endswith("ClustersConfigDump"))
    assert clusters["static_clusters"][0]["cluster"]["name"] == "pilot"
    found = next(section for section in sections if section["@type"].endswith("RoutesConfigDump"))
    assert found["dynamic_route_configs"][0]["route_config"]["virtual_hosts"][0]["domains"] == ["*"]


def staged(config: Configuration, type_url: str, *messages: Message, removed: tuple[str, ...] = ()) -> dict[str, str]:
    """Take in, not into force; what was refused, by name."""
    encoded = {whole(name_in(data)): data for data in (message.SerializeToString() for message in messages)}
    return {name: str(error) for name, error in whole(config.staging(type_url, encoded, removed)).items()}


def test_what_is_taken_in_comes_into_force_all_at_once_and_what_is_bad_is_refused_alone() -> None:
    config = new()
    bad = eds("bad")
    bad.cleanup_interval.seconds = 1
    assert list(staged(config, types.CLUSTER, eds("a"), bad, eds("b"))) == ["bad"]
    assert "cleanup_interval" in staged(config, types.CLUSTER, bad)["bad"]
    assert staged(config, types.ENDPOINT, assignment("a", "10.0.0.1")) == {}
    assert not config.snapshot.clusters
    snapshot = whole(config.publishing())
    assert (set(snapshot.clusters), len(snapshot.clusters["a"].endpoints)) == ({"a", "b"}, 1)
    broken = {"a": b"\xff", "80": b"\x12\x03abc"}
    assert "not a well-formed" in str(whole(config.staging(types.CLUSTER, broken))["a"])
    assert "virtual_hosts[0]" in str(whole(config.staging(types.ROUTE, broken))["80"])


def test_what_is_the_same_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    config = new()
    everything = [(types.CLUSTER, eds("a")), (types.ENDPOINT, assignment("a", "10.0.0.1")), (types.ROUTE, routes("a"))]
    for type_url, one in everything:
        assert staged(config, type_url, one) == {}
    before = whole(config.publishing())
    monkeypatch.setattr(resource, "checking", None)
    monkeypatch.setattr(snapshot_module, "compile_encoded_routes", None)
    for type_url, one in everything:
        assert staged(config, type_url, one) == {}
    after = whole(config.publishing())
    assert after is not before
    assert (after.clusters["a"], after.routes["80"]) == (before.clusters["a"], before.routes["80"])


def test_addresses_that_come_while_a_snapshot_is_made_are_in_it() -> None:
    config = new()
    text = """{name: %s, type: STRICT_DNS, load_assignment: {cluster_name: d, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: reviews, port_value: 80}}}}]}]}}"""
    staged(config, types.CLUSTER, *(message(Cluster, text % name) for name in ("c", "d")))
    config.apply_addresses("d", {"reviews": ("10.0.0.1",)})
    making = config.publishing()
    for _ in range(2):
        next(making)
    config.apply_addresses("c", {"reviews": ("10.0.0.2",)})
    config.apply_addresses("d", {"reviews": ("10.0.0.3",)})
    snapshot = whole(making)
    assert [one.address for name in "cd" for one in snapshot.clusters[name].endpoints] == ["10.0.0.2:80", "10.0.0.3:80"]
    assert config.snapshot is snapshot


def test_what_was_in_force_is_freed_in_steps_even_where_a_request_holds_it() -> None:
    config = new()
    apply(config, types.CLUSTER, {"a": eds("a")})
    held = apply(config, types.ROUTE, {"80": routes("a")})
    table = weakref.ref(held.routes["80"])
    apply(config, types.ROUTE, {"80": routes("a", ", ignore_port_in_host_matching: true")})
    apply(config, types.CLUSTER, {"a": eds("a", ", connect_timeout: 9s")})
    assert table() is not None
    assert len(config.remains) == 1, "the one route, as long as somebody may look for it"
    del held
    assert table() is None
    assert len(config.remains) >= 1, "it is still to go"
    whole(config.clearing())
    assert len(config.remains) == 0


def test_clusters_that_were_replaced_are_freed_in_steps_too() -> None:
    config = new()
    held = apply(config, types.CLUSTER, {"a": eds("a")})
    apply(config, types.CLUSTER, {"a": eds("a", ", connect_timeout: 9s")})
    assert len(config.remains) == 1
    assert held.clusters["a"].connect_timeout == 5.0
    del held
    assert len(config.remains) == 1, "it is still to go"
    whole(config.clearing())
    assert len(config.remains) == 0
