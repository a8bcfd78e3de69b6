"""Which policies hold for whom, and the filters that they become, for pymesh-proxy and for Envoy."""

from collections.abc import Iterable

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as network_ext_authz_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpFilter,
)
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from google.protobuf.message import Message

from pymesh.xds import types
from tests.controlplane.pilot.gateway_worlds import EDGE, HTTP, gateway, router, virtual
from tests.controlplane.pilot.security_worlds import ASKED, OPA, before_router, inbound, policy
from tests.controlplane.pilot.worlds import BOOKINFO, resources_for, world_of


def requests(text: str, **node: object) -> list[HttpFilter]:
    """What requests pass before the router, which is the same on every port."""
    return before_router(inbound(text, **node))


def connections(text: str, **node: object) -> list[tuple[str, Message]]:
    """What opaque connections pass, likewise; those to the proxy's own ports lead nowhere anyway."""
    listener = inbound(text, **node)
    found = [
        list(chain.filters)[:-1]
        for chain in (*listener.filter_chains, listener.default_filter_chain)
        if chain.filters[-1].typed_config.type_url == types.TCP_PROXY and not chain.name.endswith("_reserved")
    ]
    assert found
    assert all(filters == found[0] for filters in found)
    kinds = {"envoy.filters.network.rbac": network_rbac_pb2.RBAC}
    kinds["envoy.filters.network.ext_authz"] = network_ext_authz_pb2.ExtAuthz
    return [(one.name, kinds[one.name].FromString(one.typed_config.value)) for one in found[0]]


def rules(filters: Iterable[HttpFilter]) -> list[RBAC]:
    return [RBAC.FromString(one.typed_config.value) for one in filters if one.name == "envoy.filters.http.rbac"]


def names(text: str, **node: object) -> set[str]:
    """The rules that are in force for a workload."""
    return {name for rbac in rules(requests(text, **node)) for name in rbac.rules.policies}


def test_without_policies_there_is_nothing_to_pass() -> None:
    assert requests("") == []
    assert connections("") == []


def test_a_policy_holds_where_it_is_and_the_root_namespaces_everywhere() -> None:
    text = (
        policy("all", "{}")
        + policy("mesh", "{}", "pymesh-system")
        + policy("elsewhere", "{}", "other")
        + policy("reviews", "{selector: {matchLabels: {app: reviews}}}")
        + policy("ratings", "{selector: {matchLabels: {app: ratings}}}")
        + policy("v1", "{selector: {matchLabels: {app: reviews, version: v1}}}", "pymesh-system")
        + policy("v2", "{selector: {matchLabels: {app: reviews, version: v2}}}", "pymesh-system")
    )
    at_reviews = {"ns[default]-policy[all]", "ns[default]-policy[reviews]"}
    at_reviews |= {"ns[pymesh-system]-policy[mesh]", "ns[pymesh-system]-policy[v1]"}
    assert {name.removesuffix("-rule[0]") for name in names(text)} == at_reviews
    assert names(text, pod="stranger", ip="10.244.9.9", namespace="far") == {"ns[pymesh-system]-policy[mesh]-rule[0]"}


def test_who_allows_nothing_lets_nobody_in() -> None:
    (rbac,) = rules(requests(policy("nothing", "{}")))
    assert rbac.rules.action == rbac_pb2.RBAC.ALLOW
    (only,) = rbac.rules.policies.values()
    assert only.permissions[0].not_rule.any
    assert only.principals[0].not_id.any


def test_they_are_met_in_istios_order() -> None:
    """CUSTOM, AUDIT, DENY, ALLOW, whatever their names; each rule under its own name."""
    text = (
        policy("a", "{action: ALLOW, rules: [{}, {}]}")
        + policy("b", "{action: DENY, rules: [{}]}")
        + policy("c", "{action: AUDIT, rules: [{}]}")
        + policy("d", "{action: CUSTOM, provider: {name: opa}, rules: [{}]}")
    )
    found = requests(text + "---" + OPA + ASKED)
    rbac, ext_authz = "envoy.filters.http.rbac", "envoy.filters.http.ext_authz"
    assert [one.name for one in found] == [rbac, ext_authz, rbac, rbac, rbac]
    asked, *decided = rules(found)
    assert list(asked.shadow_rules.policies) == ["istio-ext-authz-opa-ns[default]-policy[d]-rule[0]"]
    assert not asked.HasField("rules")
    actions = [rbac_pb2.RBAC.LOG, rbac_pb2.RBAC.DENY, rbac_pb2.RBAC.ALLOW]
    assert [one.rules.action for one in decided] == actions
    assert sorted(decided[-1].rules.policies) == [f"ns[default]-policy[a]-rule[{index}]" for index in (0, 1)]


def test_what_is_tried_out_decides_nothing() -> None:
    text = policy("a", "{rules: [{}]}", dry="true") + policy("b", "{action: DENY, rules: [{}]}", dry="true")
    deny, allow = rules(requests(text))
    assert (deny.HasField("rules"), allow.HasField("rules")) == (False, False)
    assert (deny.shadow_rules_stat_prefix, allow.shadow_rules_stat_prefix) == (
        "istio_dry_run_deny_",
        "istio_dry_run_allow_",
    )
    assert list(deny.shadow_rules.policies) == ["ns[default]-policy[b]-rule[0]"]
    both = rules(requests(text + policy("c", "{action: DENY, rules: [{}]}", dry="false")))[0]
    assert list(both.rules.policies) == ["ns[default]-policy[c]-rule[0]"]
    assert list(both.shadow_rules.policies) == ["ns[default]-policy[b]-rule[0]"]
    for _, network in connections(text):
        assert not network.HasField("rules")
        assert network.HasField("shadow_rules")


def test_connections_pass_what_is_about_connections() -> None:
    text = policy("a", "{rules: [{to: [{operation: {paths: [/a]}}]}, {from: [{source: {namespaces: [x]}}]}]}")
    ((name, allow),) = connections(text)
    assert isinstance(allow, network_rbac_pb2.RBAC)
    assert (name, allow.stat_prefix) == ("envoy.filters.network.rbac", "tcp.")
    assert list(allow.rules.policies) == ["ns[default]-policy[a]-rule[1]"]
    only_requests = policy("a", "{rules: [{to: [{operation: {paths: [/a]}}]}]}")
    ((_, nobody),) = connections(only_requests)
    assert isinstance(nobody, network_rbac_pb2.RBAC)
    assert nobody.HasField("rules")
    assert not nobody.rules.policies, "an ALLOW of which nothing is about connections lets none in"


def test_aliases_of_the_trust_domain_count() -> None:
    text = policy("a", "{rules: [{from: [{source: {principals: [old/ns/a/sa/b]}}]}]}") + "---" + OPA + ASKED
    (allow,) = rules(requests(text))
    ids = allow.rules.policies["ns[default]-policy[a]-rule[0]"].principals[0].and_ids.ids[0].or_ids.ids
    names = [one.authenticated.principal_name.exact for one in ids]
    assert names == ["spiffe://cluster.local/ns/a/sa/b", "spiffe://old/ns/a/sa/b"]


# --- CUSTOM -----------------------------------------------------------------------------------------------------------


def custom(provider: str, rule: str = "{to: [{operation: {paths: [/admin*]}}]}") -> str:
    spec = f"{{action: CUSTOM, provider: {{name: {provider}}}, rules: [{rule}]}}"
    return policy("asked", spec) + "---" + OPA + ASKED


def test_somebody_is_asked_by_grpc_about_what_the_rules_match() -> None:
    matched, asking = requests(custom("opa"))
    assert rules([matched])[0].shadow_rules_stat_prefix == "istio_ext_authz_"
    config = ExtAuthz.FromString(asking.typed_config.value)
    assert config.failure_mode_allow
    assert config.grpc_service.timeout.ToMilliseconds() == 500
    assert config.grpc_service.envoy_grpc.cluster_name == "outbound|9191||opa.default.svc.cluster.local"
    noted = config.filter_enabled_metadata
    assert (noted.filter, noted.path[0].key) == (matched.name, "istio_ext_authz_shadow_effective_policy_id")
    (name,) = rules([matched])[0].shadow_rules.policies
    assert name.startswith(noted.value.string_match.prefix)
    assert not "istio-ext-authz-opa-b-ns[default]-policy[asked]-rule[0]".startswith(noted.value.string_match.prefix)


def test_somebody_is_asked_by_http() -> None:
    _, asking = requests(custom("web"), user_agent="envoy")
    config = ExtAuthz.FromString(asking.typed_config.value)
    asked = config.http_service
    assert (asked.path_prefix, asked.server_uri.cluster) == ("/check", "outbound|80||opa.default.svc.cluster.local")
    assert asked.server_uri.timeout.ToSeconds() == 600
    assert config.status_on_error.code == 503
    assert [(one.exact, one.prefix) for one in config.allowed_headers.patterns] == [("cookie", ""), ("", "x-a-")]
    assert [(one.key, one.value) for one in asked.authorization_request.headers_to_add] == [("x-who", "pymesh")]
    assert asked.authorization_response.allowed_upstream_headers.patterns[0].exact == "x-user"
    assert asked.authorization_response.allowed_client_headers.patterns[0].suffix == "-reason"
    assert (config.with_request_body.max_request_bytes, config.with_request_body.allow_partial_message) == (100, True)
    assert connections(custom("web"), user_agent="envoy") == [], "it can be asked about requests only"


@pytest.mark.parametrize("provider", ["gone", "unknown", "web"])
def test_where_nobody_can_be_asked_nothing_is_let_in_that_they_should_be_asked_about(provider: str) -> None:
    (refused,) = rules(requests(custom(provider)))
    assert refused.rules.action == rbac_pb2.RBAC.DENY
    assert list(refused.rules.policies) == ["ns[default]-policy[asked]-rule[0]-deny-due-to-bad-CUSTOM-action"]
    ((_, network),) = connections(custom(provider))
    assert isinstance(network, network_rbac_pb2.RBAC)
    assert network.rules.action == rbac_pb2.RBAC.DENY


def test_about_connections_an_envoy_asks_and_ours_refuses() -> None:
    text = custom("opa", "{to: [{operation: {ports: ['9080']}}]}")
    assert [name for name, _ in connections(text, user_agent="envoy")] == [
        "envoy.filters.network.rbac",
        "envoy.filters.network.ext_authz",
    ]
    ((_, network),) = connections(text)
    assert isinstance(network, network_rbac_pb2.RBAC)
    (kept_out,) = network.rules.policies.values()
    assert kept_out.permissions[0].and_rules.rules[0].or_rules.rules[0].destination_port == 9080


# --- Gateways ---------------------------------------------------------------------------------------------------------


def test_a_gateway_has_its_policies_too() -> None:
    text = BOOKINFO + EDGE + gateway(HTTP) + virtual("['*']")
    selected = policy("edge", "{selector: {matchLabels: {istio: ingressgateway}}}", "pymesh-system")
    by_name = policy("named", "{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: web}]}")
    node = router()
    (listener,) = resources_for(node, world_of(text + selected + by_name))[types.LISTENER].values()
    assert isinstance(listener, Listener)
    (allow,) = rules(before_router(listener))
    assert list(allow.rules.policies) == ["ns[pymesh-system]-policy[edge]-rule[0]"]


def test_a_gateway_is_meant_by_its_name() -> None:
    target = "{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: web}]}"
    labels = {"gateway.networking.k8s.io/gateway-name": "web"}
    stranger = {"pod": "web-1", "ip": "10.244.9.9"}
    assert names(policy("a", target), labels=labels, **stranger) == {"ns[default]-policy[a]-rule[0]"}
    assert names(policy("a", target), labels=labels, namespace="far", **stranger) == set()
    assert names(policy("a", target, "pymesh-system"), labels=labels, **stranger) == set()
    assert names(policy("a", target)) == set()
