"""Bootstrap files: good ones become messages, bad ones one clear error with field path, line and column."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml
from envoy.config.cluster.v3.cluster_pb2 import Cluster

from pymesh.errors import ConfigError
from pymesh.xds import decode
from pymesh.xds.decode import from_data, load_bootstrap

GOOD = """\
node: {id: a, cluster: b, metadata: {LABELS: {app: x}}}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}
staticResources:
  clusters:
  - name: reviews
    connectTimeout: 1.5s
    type: STATIC
    loadAssignment:
      cluster_name: reviews
      endpoints:
      - lbEndpoints:
        - endpoint: {address: {socketAddress: {address: 127.0.0.1, portValue: 80}}}
"""


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_bootstrap(text, "b.yaml")
    return str(caught.value)


def test_both_spellings_of_names_are_read() -> None:
    bootstrap = load_bootstrap(GOOD, "b.yaml")
    assert bootstrap.node.metadata["LABELS"]["app"] == "x"
    (cluster,) = bootstrap.static_resources.clusters
    assert cluster.connect_timeout.nanos == 500_000_000
    assert cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value == 80


TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


# The fault, what the position points at, the path below the cluster, and words of the problem.
@pytest.mark.parametrize(
    ("cluster", "anchor", "path", "problem"),
    [
        ("{nme: x}", "nme", ".nme", "unknown field; did you mean 'name'?"),
        ("{zzz: x}", "zzz", ".zzz", "unknown field of Cluster"),
        ("{name: 5}", "name", ".name", "expected a string, found 5"),
        ("{name: [x]}", "name", ".name", "expected a string, found a list"),
        ("{type: FOO}", "type", ".type", "expected one of STATIC, STRICT_DNS"),
        ("{connect_timeout: 5}", "connect", ".connect_timeout", 'as in "2.5s", found 5'),
        ("{dns_refresh_rate: 5m}", "dns", ".dns_refresh_rate", "'5m'"),
        ("{upstreamBindConfig: {sourceAddress: {portValue: abc}}}", "portValue",
         ".upstream_bind_config.source_address.port_value", "expected a whole number, not below 0, found 'abc'"),
        ("{upstream_bind_config: {source_address: {port_value: -1}}}", "port_value",
         ".upstream_bind_config.source_address.port_value", "found -1"),
        ("{transport_socket_matches: {a: b}}", "transport", ".transport_socket_matches", "expected a list, found"),
        ("{transport_socket_matches: [~]}", "~", ".transport_socket_matches[0]", "must not be empty"),
        ("7", "7", "", "expected a mapping of fields, found 7"),
        ("{type: STATIC, cluster_type: {name: x}}", "cluster_type", ".cluster_type", "together with type"),
        ("{metadata: {filter_metadata: {istio: 5}}}", "istio", '.metadata.filter_metadata["istio"]', "JSON values"),
        ("{transport_socket: {typed_config: {a: b}}}", "typed", ".transport_socket.typed_config", "`@type` is missing"),
        ("{transport_socket: {typed_config: {'@type': a.b/acme.Quic}}}", "typed", ".transport_socket.typed_config",
         "'a.b/acme.Quic' is not supported"),
        (f"{{transport_socket: {{typed_config: {{'@type': {TLS}, sny: x}}}}}}", "sny",
         ".transport_socket.typed_config.sny", "did you mean 'sni'?"),
        ("{lb_policy: MAGLEV}", "lb", ".lb_policy", "MAGLEV is not supported"),
        ("{track_cluster_stats: {timeout_budgets: true}}", "track", ".track_cluster_stats", "not supported"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(cluster: str, anchor: str, path: str, problem: str) -> None:
    line = f"  clusters: [{cluster}]"
    text = refused(f"static_resources:\n{line}\n")
    assert text.startswith(f"b.yaml:2:{line.index(anchor) + 1}: static_resources.clusters[0]{path}: ")
    assert problem in text


@pytest.mark.parametrize("text", ["[]", "5", "text", "- a: b"])
def test_a_document_that_is_no_mapping_is_refused(text: str) -> None:
    assert "expected a mapping of fields" in refused(text)


def test_null_leaves_a_field_at_its_default() -> None:
    assert not load_bootstrap("admin: null\nnode: {id: x}\n", "b.yaml").HasField("admin")


def test_plain_data_becomes_a_message() -> None:
    cluster = from_data({"name": "a", "lbPolicy": "RANDOM"}, Cluster)
    assert (cluster.name, cluster.lb_policy) == ("a", Cluster.RANDOM)


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_looked_for_while_a_file_is_read(*, enabled: bool) -> None:
    """Searching what is being made of a large file would take most of the time."""
    many = ", ".join(f"{{name: c{number}}}" for number in range(2000))
    good, bad = (f"static_resources: {{clusters: [{many}, {last}]}}" for last in ("{name: d}", "{nme: d}"))
    collections: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        collections.append(f"{phase} {info}")

    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        gc.collect()
        gc.callbacks.append(note)
        load_bootstrap(good, "b.yaml")
        assert gc.isenabled() is enabled
        refused(bad)
        assert gc.isenabled() is enabled
    finally:
        gc.callbacks.remove(note)
        (gc.enable if was else gc.disable)()
    assert len(collections) <= 2 * 6, "but a few outside of it"


def test_the_text_s_nodes_are_gone_before_garbage_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection has to look at all there is; of a large file these are a million objects that nobody needs."""
    alive: list[int] = []

    @contextmanager
    def at_the_end() -> Iterator[None]:
        before = nodes()
        yield
        alive.append(nodes() - before)

    def nodes() -> int:
        return sum(isinstance(one, yaml.Node) for one in gc.get_objects())

    monkeypatch.setattr(decode, "_no_collections", at_the_end)
    assert load_bootstrap("node: {id: x}\n", "b.yaml").node.id == "x"
    assert alive == [0]
