"""Access rules from Envoy's configuration: who calls by certificate, and what is refused."""

from ipaddress import ip_address

import pytest
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkRBAC  # noqa: N811 - there are two

from pymesh.errors import ConfigError
from pymesh_proxy.codec.http1 import parse_request
from pymesh_proxy.config.rbac import MAX_DEPTH, NAME, network_rbac, rbac
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from tests.proxy.filters.context import Context
from tests.support.xds import message

CALLER = Facts(
    "inbound",
    "[2001:db8::1]:4711",
    "10.0.0.2:15001",
    "10.0.0.2:9080",
    tls=True,
    peer="spiffe://cluster.local/ns/default/sa/reviews",
    peer_certificate_hash="ab",
    peer_subject="O=mesh",
    peer_dns=("reviews.default",),
    sni="ratings",
)


def let_in(principals: str, facts: Facts, permissions: str = "{any: true}", client: str = "") -> bool:
    text = f"rules: {{policies: {{p: {{permissions: [{permissions}], principals: [{principals}]}}}}}}"
    found = rbac(message(RBAC, text), "f")
    assert found.name == NAME
    assert found.on_request is not None
    parsed = parse_request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert parsed is not None
    return found.on_request(Context(parsed[0], RequestRecord(facts, 0.0, 0.0), client=client)) is None


@pytest.mark.parametrize(
    ("principal", "expected"),
    [
        ("{authenticated: {}}", True),
        ("{authenticated: {principal_name: {exact: spiffe://cluster.local/ns/default/sa/reviews}}}", True),
        ("{authenticated: {principal_name: {suffix: /sa/ratings}}}", False),
        ("{authenticated: {principal_name: {exact: reviews.default}}}", True),
        ("{authenticated: {principal_name: {exact: O=mesh}}}", True),
        ("{direct_remote_ip: {address_prefix: '2001:db8::', prefix_len: 32}}", True),
        ("{direct_remote_ip: {address_prefix: 0.0.0.0, prefix_len: 0}}", False),
    ],
)
def test_who_calls(principal: str, expected: bool) -> None:
    assert let_in(principal, CALLER) is expected


def test_nobody_without_a_certificate_is_authenticated() -> None:
    plain = Facts("inbound", "10.0.0.1:1", "10.0.0.2:2", peer_subject="O=mesh")
    assert not let_in("{authenticated: {}}", plain)
    assert not let_in("{authenticated: {principal_name: {prefix: O}}}", plain)
    assert let_in("{not_id: {authenticated: {}}}", plain)


@pytest.mark.parametrize(
    ("permission", "expected"),
    [
        ("{destination_port: 9080}", True),
        ("{destination_port: 15001}", False),
        ("{destination_port_range: {start: 9000, end: 9080}}", False),
        ("{requested_server_name: {exact: ratings}}", True),
        ("{destination_ip: {address_prefix: 10.0.0.2, prefix_len: 32}}", True),
    ],
)
def test_where_a_redirected_connection_was_going(permission: str, expected: bool) -> None:
    assert let_in("{any: true}", CALLER, permission) is expected


@pytest.mark.parametrize(
    ("principal", "client", "expected"),
    [
        ("{remote_ip: {address_prefix: 192.0.2.0, prefix_len: 24}}", "192.0.2.7", True),
        ("{remote_ip: {address_prefix: 192.0.2.0, prefix_len: 24}}", "192.0.3.7", False),
        ("{remote_ip: {address_prefix: '2001:db8::', prefix_len: 32}}", "192.0.2.7", False),
        ("{not_id: {remote_ip: {address_prefix: 192.0.2.0, prefix_len: 24}}}", "192.0.3.7", True),
    ],
)
def test_who_stands_behind_who_calls(principal: str, client: str, expected: bool) -> None:
    assert let_in(principal, CALLER, client=client) is expected


def test_connections_are_asked_what_they_know() -> None:
    who = "{remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}"
    policy = f"{{permissions: [{{destination_port: 9080}}], principals: [{who}]}}"
    rules = network_rbac(message(NetworkRBAC, f"stat_prefix: tcp\nrules: {{policies: {{p: {policy}}}}}"), "n")
    known = {"local": "10.0.0.2:15001", "original": "10.0.0.2:9080"}
    inside, outside = (
        RequestRecord(Facts("inbound", f"{host}:1", **known), 0.0, 0.0) for host in ("10.9.9.9", "192.0.2.1")
    )
    assert rules.denies(inside) == ""
    assert rules.denies(outside) == "rbac_access_denied_matched_policy[none]"


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("rules: {}", "n.stat_prefix", "is required"),
        ("permissions: [{header: {name: a}}], principals: [{any: true}]", "permissions[0].header", "about requests"),
        ("permissions: [{url_path: {path: {exact: /}}}], principals: [{any: true}]", "url_path", "about requests"),
        ("permissions: [{any: true}], principals: [{not_id: {metadata: {filter: f}}}]", "metadata", "about requests"),
    ],
)
def test_connections_are_not_asked_about_requests(text: str, path: str, problem: str) -> None:
    if not text.startswith("rules"):
        text = f"stat_prefix: tcp\nrules: {{policies: {{p: {{{text}}}}}}}"
    with pytest.raises(ConfigError, match=problem) as refused:
        network_rbac(message(NetworkRBAC, text), "n")
    assert path in str(refused.value)


def deep(levels: int) -> str:
    return "{not_id: " * levels + "{any: true}" + "}" * levels


@pytest.mark.parametrize(
    ("policy", "path", "problem"),
    [
        ("permissions: [{any: true}]", "principals", "at least one is required"),
        ("principals: [{any: true}]", "permissions", "at least one is required"),
        ("permissions: [{}], principals: [{any: true}]", "permissions[0]", "one of these is required"),
        ("permissions: [{any: false}], principals: [{any: true}]", "permissions[0].any", "must be true"),
        ("permissions: [{and_rules: {}}], principals: [{any: true}]", "and_rules.rules", "at least one"),
        ("permissions: [{any: true}], principals: [{or_ids: {ids: []}}]", "or_ids.ids", "at least one"),
        ("permissions: [{any: true}], principals: [{filter_state: {}}]", "filter_state", "not supported"),
        ("permissions: [{metadata: {}}], principals: [{any: true}]", "metadata.filter", "is required"),
        ("permissions: [{any: true}], principals: [{any: true}], condition: {}", "condition", "not supported"),
        (f"permissions: [{{any: true}}], principals: [{deep(20)}]", "", ""),
        (f"permissions: [{{any: true}}], principals: [{deep(MAX_DEPTH + 1)}]", "principals[0]", "deep"),
    ],
)
def test_what_is_refused(policy: str, path: str, problem: str) -> None:
    text = f"rules: {{policies: {{p: {{{policy}}}}}}}"
    if not problem:
        rbac(message(RBAC, text), "f")
        return
    with pytest.raises(ConfigError, match=problem) as refused:
        rbac(message(RBAC, text), "f")
    assert path in str(refused.value)


def test_an_address_is_read_once_however_many_ports_it_calls_from(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counting(host: str) -> object:
        read.append(host)
        return ip_address(host)

    monkeypatch.setattr("pymesh_proxy.config.rbac.ip_address", counting)
    within = "{direct_remote_ip: {address_prefix: 198.51.100.0, prefix_len: 24}}"
    outside = "{direct_remote_ip: {address_prefix: 198.51.0.0, prefix_len: 24}}"
    for port in range(1000, 1010):
        caller = Facts("inbound", f"198.51.100.77:{port}", "10.0.0.2:15001")
        assert let_in(f"{outside}, {within}", caller)
        assert not let_in(outside, caller)
    assert read == ["198.51.100.77"]
