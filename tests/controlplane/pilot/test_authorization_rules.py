"""Rules become Envoy's policies as Istio makes them: the expected messages are those of its documentation and tests."""

import pytest
import yaml
from envoy.config.rbac.v3.rbac_pb2 import Permission, Policy, Principal
from google.protobuf import json_format

from pymesh.resources import check
from pymesh.resources.istio.authorization_policy import Action, Rule
from pymesh_controlplane.pilot import authorization_rules
from pymesh_controlplane.pilot.authorization_rules import Scope, in_trust_domains

OURS = ("cluster.local",)


def compiled(rule: str, action: Action = "ALLOW", *, opaque: bool = False) -> Policy | None:
    found = check.convert(yaml.safe_load(rule), Rule)
    assert isinstance(found, Rule), found
    return authorization_rules.policy(found, Scope("foo", action, OURS, opaque))


def permission(rule: str) -> Permission:
    """The one permission that says something; that of a rule is always a list of those that must all hold."""
    policy = compiled(rule)
    assert policy is not None
    assert [one.and_ids.ids[0].any for one in policy.principals] == [True], "it says nothing of who asks"
    (only,) = policy.permissions[0].and_rules.rules
    return only


def principal(rule: str) -> Principal:
    policy = compiled(rule)
    assert policy is not None
    assert [one.and_rules.rules[0].any for one in policy.permissions] == [True], "it says nothing of what is asked for"
    (only,) = policy.principals[0].and_ids.ids
    return only


def condition_of(key: str, value: str, field: str = "values") -> str:
    return f"when: [{{key: '{key}', {field}: ['{value}']}}]"


def test_a_rule_that_says_nothing_is_about_everything() -> None:
    assert compiled("{}") == Policy(
        permissions=[Permission(and_rules=Permission.Set(rules=[Permission(any=True)]))],
        principals=[Principal(and_ids=Principal.Set(ids=[Principal(any=True)]))],
    )


PERMISSIONS = {
    "hosts: [a.com]": "header: {name: ':authority', stringMatch: {exact: a.com, ignoreCase: true}}",
    "hosts: ['*.a.com']": "header: {name: ':authority', stringMatch: {suffix: .a.com, ignoreCase: true}}",
    "hosts: ['a.*']": "header: {name: ':authority', stringMatch: {prefix: a., ignoreCase: true}}",
    "hosts: ['*']": "header: {name: ':authority', presentMatch: true}",
    "methods: [GET]": "header: {name: ':method', stringMatch: {exact: GET}}",
    "methods: ['P*']": "header: {name: ':method', stringMatch: {prefix: P}}",
    "paths: [/a]": "urlPath: {path: {exact: /a}}",
    "paths: [/a*]": "urlPath: {path: {prefix: /a}}",
    "paths: ['*/a']": "urlPath: {path: {suffix: /a}}",
    "paths: ['*']": "urlPath: {path: {safeRegex: {regex: .+}}}",
    "paths: ['/a/{*}/b']": "uriTemplate: {name: uri-template, typedConfig: {'@type': type.googleapis.com/"
    "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, pathTemplate: '/a/*/b'}}",
    "paths: ['/{*}/{**}']": "uriTemplate: {name: uri-template, typedConfig: {'@type': type.googleapis.com/"
    "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, pathTemplate: '/*/**'}}",
    "ports: ['80']": "destinationPort: 80",
}


@pytest.mark.parametrize("operation", PERMISSIONS)
def test_operations(operation: str) -> None:
    expected = json_format.ParseDict(yaml.safe_load(PERMISSIONS[operation]), Permission())
    either = Permission(or_rules=Permission.Set(rules=[expected]))
    assert permission(f"to: [{{operation: {{{operation}}}}}]") == either
    name, _, values = operation.partition(":")
    refused = f"to: [{{operation: {{not{name.title()}: {values}}}}}]"
    assert permission(refused) == Permission(not_rule=either)


WHAT = {
    ("destination.ip", "10.1.0.0/16"): "orRules: {rules: [{destinationIp: {addressPrefix: 10.1.0.0, prefixLen: 16}}]}",
    ("destination.ip", "::1"): "orRules: {rules: [{destinationIp: {addressPrefix: '::1', prefixLen: 128}}]}",
    ("destination.port", "9080"): "orRules: {rules: [{destinationPort: 9080}]}",
    ("connection.sni", "*.a.com"): "orRules: {rules: [{requestedServerName: {suffix: .a.com}}]}",
    ("experimental.envoy.filters.http.ext_authz[a]", "b"): "metadata: {filter: envoy.filters.http.ext_authz, "
    "path: [{key: a}], value: {stringMatch: {exact: b}}}",
    ("experimental.envoy.filters.http.ext_authz[a]", "[b*]"): "metadata: {filter: envoy.filters.http.ext_authz, "
    "path: [{key: a}], value: {listMatch: {oneOf: {stringMatch: {prefix: b}}}}}",
}


@pytest.mark.parametrize("condition", WHAT)
def test_conditions_on_what_is_asked_for(condition: tuple[str, str]) -> None:
    expected = json_format.ParseDict(yaml.safe_load(WHAT[condition]), Permission())
    assert permission(condition_of(*condition)) == expected
    assert permission(condition_of(*condition, "notValues")) == Permission(not_rule=expected)


_CLAIM = "metadata: {filter: envoy.filters.http.jwt_authn, path: [{key: payload}, %s], value: %s}"
_TOKEN = (
    "andIds: {ids: [{metadata: {filter: envoy.filters.http.jwt_authn, path: [{key: payload}, {key: iss}], "
    "value: {stringMatch: %s}}}, {metadata: {filter: envoy.filters.http.jwt_authn, "
    "path: [{key: payload}, {key: sub}], value: {stringMatch: %s}}}]}"
)
_ONE_OR_LIST = "{orMatch: {valueMatchers: [{listMatch: {oneOf: {stringMatch: %(value)s}}}, {stringMatch: %(value)s}]}}"
_ANY = "{safeRegex: {regex: .+}}"
WHO = {
    ("source.principal", "td/ns/a/sa/b"): "authenticated: {principalName: {exact: 'spiffe://td/ns/a/sa/b'}}",
    ("source.principal", "td/ns/a/*"): "authenticated: {principalName: {prefix: 'spiffe://td/ns/a/'}}",
    ("source.principal", "*/sa/b"): "authenticated: {principalName: {safeRegex: {regex: 'spiffe://.*/sa/b'}}}",
    ("source.principal", "*"): "authenticated: {principalName: {safeRegex: {regex: .+}}}",
    ("source.namespace", "a"): "authenticated: {principalName: {safeRegex: {regex: '.*/ns/a/.*'}}}",
    ("source.namespace", "a.b-*"): "authenticated: {principalName: {safeRegex: {regex: '.*/ns/a\\.b-.*/.*'}}}",
    ("source.serviceAccount", "b"): "authenticated: {principalName: {safeRegex: "
    "{regex: 'spiffe://.+/ns/foo/(.+/|)sa/b(/.+)?'}}}",
    ("source.serviceAccount", "a/b.c"): "authenticated: {principalName: {safeRegex: "
    "{regex: 'spiffe://.+/ns/a/(.+/|)sa/b\\.c(/.+)?'}}}",
    ("source.ip", "10.0.0.1"): "directRemoteIp: {addressPrefix: 10.0.0.1, prefixLen: 32}",
    ("remote.ip", "10.0.0.0/8"): "remoteIp: {addressPrefix: 10.0.0.0, prefixLen: 8}",
    ("request.headers[X-A]", "b*"): "header: {name: X-A, stringMatch: {prefix: b}}",
    ("request.headers[X-A]", "*"): "header: {name: X-A, presentMatch: true}",
}
WHO_ALONE = {
    ("request.auth.principal", "https://a/b"): _TOKEN % ("{exact: 'https://a'}", "{exact: b}"),
    ("request.auth.principal", "https://a/*"): _TOKEN % ("{exact: 'https://a'}", _ANY),
    ("request.auth.principal", "https://a/b*"): _TOKEN % ("{exact: 'https://a'}", "{prefix: b}"),
    ("request.auth.principal", "*/b"): _TOKEN % (_ANY, "{exact: b}"),
    ("request.auth.principal", "*a/b"): _TOKEN % ("{suffix: a}", "{exact: b}"),
    ("request.auth.principal", "*"): _TOKEN % (_ANY, _ANY),
    ("request.auth.principal", "a"): _TOKEN % ("{exact: a}", "{exact: ''}"),
    ("request.auth.principal", "a*"): _TOKEN % ("{prefix: a}", _ANY),
    ("request.auth.principal", "*a"): _TOKEN % (_ANY, "{suffix: a}"),
    ("request.auth.audiences", "a"): _CLAIM % ("{key: aud}", _ONE_OR_LIST % {"value": "{exact: a}"}),
    ("request.auth.presenter", "*"): _CLAIM % ("{key: azp}", _ONE_OR_LIST % {"value": _ANY}),
    ("request.auth.claims[a][b.c]", "d"): _CLAIM % ("{key: a}, {key: b.c}", _ONE_OR_LIST % {"value": "{exact: d}"}),
}


@pytest.mark.parametrize("condition", [*WHO, *WHO_ALONE])
def test_conditions_on_who_asks(condition: tuple[str, str]) -> None:
    written = WHO.get(condition) or WHO_ALONE[condition]
    expected = json_format.ParseDict(yaml.safe_load(written), Principal())
    if condition in WHO:
        expected = Principal(or_ids=Principal.Set(ids=[expected]))
    assert principal(condition_of(*condition)) == expected
    assert principal(condition_of(*condition, "notValues")) == Principal(not_id=expected)


SOURCES = {
    "principals: [td/ns/a/sa/b]": ("source.principal", "td/ns/a/sa/b"),
    "namespaces: [a]": ("source.namespace", "a"),
    "serviceAccounts: [b]": ("source.serviceAccount", "b"),
    "ipBlocks: [10.0.0.1]": ("source.ip", "10.0.0.1"),
    "remoteIpBlocks: [10.0.0.0/8]": ("remote.ip", "10.0.0.0/8"),
    "requestPrincipals: ['https://a/*']": ("request.auth.principal", "https://a/*"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_says_what_a_condition_says(source: str) -> None:
    said = principal(condition_of(*SOURCES[source]))
    assert principal(f"from: [{{source: {{{source}}}}}]") == said
    refused = f"not{source[0].upper()}{source[1:]}"
    assert principal(f"from: [{{source: {{{refused}}}}}]") == Principal(not_id=said)


def test_all_of_a_source_and_one_of_several() -> None:
    """Each source, and each operation, has the conditions of its rule behind it, in Istio's order."""
    policy = compiled(
        "{from: [{source: {ipBlocks: [10.0.0.1], namespaces: [a, b]}}, {source: {principals: [p]}}],"
        " to: [{operation: {paths: [/a], hosts: [h], ports: ['1']}}, {operation: {methods: [GET]}}],"
        " when: [{key: remote.ip, values: [10.0.0.2]}, {key: connection.sni, values: [s]}]}"
    )
    assert policy is not None
    kinds = [[one.or_rules.rules[0].WhichOneof("rule") for one in may.and_rules.rules] for may in policy.permissions]
    assert kinds == [
        ["header", "url_path", "destination_port", "requested_server_name"],
        ["header", "requested_server_name"],
    ]
    who = [[one.or_ids.ids[0].WhichOneof("identifier") for one in one.and_ids.ids] for one in policy.principals]
    assert who == [["authenticated", "direct_remote_ip", "remote_ip"], ["authenticated", "remote_ip"]]
    assert len(policy.principals[0].and_ids.ids[0].or_ids.ids) == 2


OF_REQUESTS = (
    "to: [{operation: {paths: [/a]}}]",
    "to: [{operation: {notMethods: [GET]}}]",
    "to: [{operation: {ports: ['1']}}, {operation: {hosts: [a]}}]",
    "from: [{source: {requestPrincipals: ['*']}}]",
    "when: [{key: 'request.headers[a]', values: [b]}]",
    "when: [{key: 'request.auth.claims[a]', notValues: [b]}]",
)


@pytest.mark.parametrize("rule", OF_REQUESTS)
def test_what_is_of_requests_lets_no_connection_in_and_keeps_more_out(rule: str) -> None:
    """Source: istio.io/docs/tasks/security/authorization/authz-tcp."""
    assert compiled(rule, opaque=True) is None
    wide = compiled(rule, "DENY", opaque=True)
    assert wide is not None
    assert wide.permissions[-1].and_rules.rules[0].any or wide.permissions[0].and_rules.rules[0].any
    assert wide.principals[0].and_ids.ids[0].any


def test_filters_of_requests_leave_nothing_where_bytes_are_opaque() -> None:
    key = "experimental.envoy.filters.http.ext_authz[a]"
    found = compiled(condition_of(key, "b"), "DENY", opaque=True)
    assert found is not None
    assert found.permissions[0].and_rules.rules[0].not_rule.any
    found = compiled(condition_of(key, "b", "notValues"), "DENY", opaque=True)
    assert found is not None
    assert found.permissions[0].and_rules.rules[0].not_rule.not_rule.any


def test_what_is_of_connections_stays() -> None:
    rule = "{from: [{source: {namespaces: [a]}}], to: [{operation: {ports: ['1'], paths: [/a]}}]}"
    found = compiled(rule, "DENY", opaque=True)
    assert found == compiled("{from: [{source: {namespaces: [a]}}], to: [{operation: {ports: ['1']}}]}", "DENY")


@pytest.mark.parametrize(
    ("principal", "domains", "expected"),
    [
        ("cluster.local/ns/a/sa/b", ("td",), ["td/ns/a/sa/b"]),
        ("old/ns/a/sa/b", ("td", "old"), ["td/ns/a/sa/b", "old/ns/a/sa/b"]),
        ("td/ns/a/sa/b", ("td", "old", "older"), ["td/ns/a/sa/b", "old/ns/a/sa/b", "older/ns/a/sa/b"]),
        ("foreign/ns/a/sa/b", ("td", "old"), ["foreign/ns/a/sa/b"]),
        ("*/ns/a/sa/b", ("td", "old"), ["*/ns/a/sa/b"]),
        ("*-td/ns/a/sa/b", ("a-td", "b-td", "other"), ["*-td/ns/a/sa/b", "other/ns/a/sa/b"]),
        ("old/ns/a/sa/*", ("td", "old"), ["td/ns/a/sa/*", "old/ns/a/sa/*"]),
        ("old/ns/*", ("td", "old"), ["old/ns/*"]),
        ("*", ("td", "old"), ["*"]),
    ],
)
def test_a_principal_of_the_mesh_is_one_under_every_name_of_the_mesh(
    principal: str, domains: tuple[str, ...], expected: list[str]
) -> None:
    assert in_trust_domains(principal, domains) == expected
