"""Actions of routes: forwarding, rewriting, redirecting, answering."""

from pathlib import Path

import pytest
from envoy.config.route.v3.route_components_pb2 import Route, RouteMatch

from pymesh.errors import ConfigError
from pymesh_proxy.config.actions import ActionContext, action
from pymesh_proxy.routing import Action, DirectResponse, Forward, Redirect, RetryPolicy
from tests.support.heads import request
from tests.support.xds import message

DEFAULT_RETRY = RetryPolicy(on=frozenset({"5xx"}))


def compiled(text: str, match: str = "{prefix: /api/}", clusters: frozenset[str] = frozenset({"a", "b"})) -> Action:
    route = message(Route, text)
    route.match.CopyFrom(message(RouteMatch, match))
    return action(route, ActionContext(DEFAULT_RETRY, 4096, clusters.__contains__), "r")


def forwarded(text: str, match: str = "{prefix: /api/}") -> Forward:
    found = compiled(f"route: {{cluster: a, {text}}}", match)
    assert isinstance(found, Forward)
    return found


def redirected(text: str, *, scheme: bytes = b"http", host: bytes, target: bytes, match: str) -> bytes:
    found = compiled(f"redirect: {{{text}}}", match)
    assert isinstance(found, Redirect)
    return found.location(scheme, host, target)


def test_defaults_of_forwarding() -> None:
    assert compiled("route: {cluster: a}") == Forward(clusters=(("a", 1),), timeout=15.0, retry=DEFAULT_RETRY)


def test_zero_is_no_timeout_and_a_cluster_without_weight_gets_nothing() -> None:
    found = compiled(
        "route: {timeout: 0s, weighted_clusters: {clusters: [{name: a, weight: 0}, {name: b, weight: 7}]}}"
    )
    assert isinstance(found, Forward)
    assert found.timeout is None
    assert found.clusters == (("b", 7),)


def test_options_of_forwarding() -> None:
    found = forwarded(
        "timeout: 1.5s, idle_timeout: 2s, host_rewrite_literal: other, upgrade_configs: [{upgrade_type: WebSocket},"
        " {upgrade_type: x, enabled: false}], retry_policy: {retry_on: 'reset, 5xx', num_retries: 3, per_try_timeout:"
        " 1s, retriable_status_codes: [418], retry_back_off: {base_interval: 0.1s}}"
    )
    assert (found.timeout, found.idle_timeout, found.host_rewrite) == (1.5, 2.0, b"other")
    assert found.upgrades == {"websocket": True, "x": False}
    assert found.retry == RetryPolicy(frozenset({"reset", "5xx"}), 3, 1.0, frozenset({418}), 0.1, 1.0)


def test_defaults_of_retries() -> None:
    found = forwarded("retry_policy: {retry_on: 5xx}").retry
    assert found == RetryPolicy(frozenset({"5xx"}), 1, None, frozenset(), 0.025, 0.25)


def test_a_try_that_may_take_as_long_as_the_whole_has_no_timeout_of_its_own() -> None:
    retry = forwarded("timeout: 1s, retry_policy: {retry_on: reset, per_try_timeout: 1s}").retry
    assert retry is not None
    assert retry.per_try_timeout is None


def test_which_requests_and_responses_a_retry_policy_is_for() -> None:
    retry = forwarded(
        "retry_policy: {retry_on: retriable-headers, retriable_headers: [{name: x-again, present_match: true}],"
        " retriable_request_headers: [{name: ':method', string_match: {exact: GET}}]}"
    ).retry
    assert retry is not None
    assert retry.least_status == 0
    assert [matches(request()) for matches in retry.request_headers] == [True]
    assert [matches(request(method="PUT")) for matches in retry.request_headers] == [False]
    assert [matches(request(headers=[("x-again", "1")])) for matches in retry.response_headers] == [True]


def test_a_retry_policy_without_conditions_retries_nothing() -> None:
    retry = forwarded("retry_policy: {num_retries: 3}").retry
    assert retry is not None
    assert retry.attempts == 0


@pytest.mark.parametrize(
    ("match", "rewrite", "before", "after"),
    [
        ("{prefix: /api/}", "prefix_rewrite: /", b"/api/x", b"/x"),
        ("{prefix: /api, case_sensitive: false}", "prefix_rewrite: /v1", b"/API/x", b"/v1/x"),
        ("{path_separated_prefix: /api}", "prefix_rewrite: /v1", b"/api/x", b"/v1/x"),
        ("{path: /exact}", "prefix_rewrite: /other", b"/exact", b"/other"),
        ("{safe_regex: {regex: '/a.*'}}", "prefix_rewrite: /other", b"/abc", b"/other"),
        ("{prefix: /}", "regex_rewrite: {pattern: {regex: '^/(.*)$'}, substitution: '/v/\\1'}", b"/a", b"/v/a"),
    ],
)
def test_rewrites(match: str, rewrite: str, before: bytes, after: bytes) -> None:
    change = forwarded(rewrite, match).rewrite
    assert change is not None
    assert change(before) == after


@pytest.mark.parametrize(
    ("redirect", "host", "target", "location"),
    [
        ("https_redirect: true", b"a.com", b"/api/x?y", b"https://a.com/api/x?y"),
        ("https_redirect: true", b"a.com:80", b"/api/x", b"https://a.com/api/x"),
        ("https_redirect: true", b"a.com:8080", b"/api/x", b"https://a.com:8080/api/x"),
        ("scheme_redirect: FTP", b"a.com", b"/api/", b"ftp://a.com/api/"),
        ("host_redirect: b.com", b"a.com:81", b"/api/", b"http://b.com/api/"),
        ("port_redirect: 8443", b"a.com:81", b"/api/", b"http://a.com:8443/api/"),
        ("host_redirect: b.com, port_redirect: 1", b"a", b"/api/", b"http://b.com:1/api/"),
        ("path_redirect: /new", b"a", b"/api/x?y=1", b"http://a/new?y=1"),
        ("path_redirect: /new, strip_query: true", b"a", b"/api/x?y=1", b"http://a/new"),
        ("path_redirect: '/new?z=2'", b"a", b"/api/x?y=1", b"http://a/new?z=2"),
        ("prefix_rewrite: /v2/", b"a", b"/api/x?y=1", b"http://a/v2/x?y=1"),
        ("regex_rewrite: {pattern: {regex: 'api'}, substitution: 'web'}", b"a", b"/api/x?api", b"http://a/web/x?api"),
    ],
)
def test_redirects(redirect: str, host: bytes, target: bytes, location: bytes) -> None:
    assert redirected(redirect, host=host, target=target, match="{prefix: /api/}") == location


def test_leaving_https_drops_its_port() -> None:
    found = redirected("scheme_redirect: http", scheme=b"https", host=b"a:443", target=b"/", match="{prefix: /}")
    assert found == b"http://a/"


@pytest.mark.parametrize(
    ("code", "status"),
    [("MOVED_PERMANENTLY", 301), ("FOUND", 302), ("SEE_OTHER", 303), ("TEMPORARY_REDIRECT", 307),
     ("PERMANENT_REDIRECT", 308)],
)  # fmt: skip
def test_redirect_codes(code: str, status: int) -> None:
    found = compiled(f"redirect: {{response_code: {code}, host_redirect: x}}")
    assert isinstance(found, Redirect)
    assert found.status == status


def test_direct_responses_and_their_files(tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"\x00page")
    assert compiled("direct_response: {status: 200}") == DirectResponse(200)
    assert compiled("direct_response: {status: 418, body: {inline_string: é}}") == DirectResponse(418, "é".encode())
    assert compiled("direct_response: {status: 200, body: {inline_bytes: AAE=}}") == DirectResponse(200, b"\x00\x01")
    read = compiled(f"direct_response: {{status: 200, body: {{filename: {tmp_path}/page}}}}")
    assert read == DirectResponse(200, b"\x00page")


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("{}", "r", "one of these is required: route, redirect"),
        ("route: {}", "r.route", "one of these is required: cluster"),
        ("route: {cluster: ''}", "r.route.cluster", "is required"),
        ("route: {cluster: c}", "r.route.cluster", "there is no cluster 'c'"),
        ("route: {weighted_clusters: {}}", "r.route.weighted_clusters.clusters", "the sum of the weights is 0"),
        ("route: {weighted_clusters: {clusters: [{name: a, weight: 0}]}}", "r.route.weighted_clusters.clusters",
         "the sum of the weights is 0"),
        ("route: {weighted_clusters: {clusters: [{weight: 1}]}}", "r.route.weighted_clusters.clusters[0].name",
         "is required"),
        ("route: {weighted_clusters: {clusters: [{name: a, weight: 1}, {name: c}]}}",
         "r.route.weighted_clusters.clusters[1].name", "there is no cluster 'c'"),
        ("route: {weighted_clusters: {total_weight: 5, clusters: [{name: a, weight: 1}]}}",
         "r.route.weighted_clusters.total_weight", "add up to 1, not 5"),
        ("route: {cluster: a, timeout: -1s}", "r.route.timeout", "out of range"),
        ("route: {cluster: a, prefix_rewrite: 'x y'}", "r.route.prefix_rewrite", "printable"),
        ("route: {cluster: a, prefix_rewrite: '/a?b'}", "r.route.prefix_rewrite", "without a query"),
        ("route: {cluster: a, prefix_rewrite: /, regex_rewrite: {pattern: {regex: a}}}", "r.route.regex_rewrite",
         "together with prefix_rewrite"),
        ("route: {cluster: a, host_rewrite_literal: 'a b'}", "r.route.host_rewrite_literal", "not a host"),
        ("route: {cluster: a, retry_policy: {retry_on: '5xx,never'}}", "r.route.retry_policy.retry_on",
         "unknown retry condition 'never'; known are"),
        ("route: {cluster: a, retry_policy: {retry_on: 5xx, num_retries: 1000}}", "r.route.retry_policy.num_retries",
         "more than 100"),
        ("route: {cluster: a, retry_policy: {retry_back_off: {base_interval: 2s, max_interval: 1s}}}",
         "r.route.retry_policy.retry_back_off.max_interval", "less than base_interval"),
        ("route: {cluster: a, retry_policy: {retry_back_off: {base_interval: 0s}}}",
         "r.route.retry_policy.retry_back_off.base_interval", "above 0"),
        ("route: {cluster: a, retry_policy: {retry_host_predicate: [{name: x}]}}",
         "r.route.retry_policy.retry_host_predicate[0]", "one of these is required"),
        ("redirect: {port_redirect: 70000}", "r.redirect.port_redirect", "not a port"),
        ("redirect: {host_redirect: 'a/b'}", "r.redirect.host_redirect", "not a host"),
        ("redirect: {path_redirect: '/a#b'}", "r.redirect.path_redirect", "without a query or fragment"),
        ("direct_response: {status: 100}", "r.direct_response.status", "100 is not a final"),
        ("direct_response: {status: 700}", "r.direct_response.status", "700 is not a final"),
        ("direct_response: {status: 200, body: {}}", "r.direct_response.body", "one of these is required"),
        ("direct_response: {status: 200, body: {filename: /nowhere/page}}", "r.direct_response.body.filename",
         "cannot read /nowhere/page: No such file"),
        (f"direct_response: {{status: 200, body: {{inline_string: {'x' * 4097}}}}}", "r.direct_response.body",
         "max_direct_response_body_size_bytes allows 4096"),
    ],
)  # fmt: skip
def test_refusals(text: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        compiled(text)
    assert caught.value.path == path
