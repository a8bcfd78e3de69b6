"""Route configurations: who is meant by a host, and what a VirtualService becomes."""

import json

import pytest
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf import json_format

from pymesh.xds import types
from pymesh_controlplane.pilot.node import Node
from tests.controlplane.pilot.worlds import BOOKINFO, EVERYTHING, resources_for, service, sidecar, world_of

REVIEWS = "reviews.default.svc.cluster.local"


def configuration(text: str, port: int = 9080, node: Node | None = None) -> RouteConfiguration:
    found = resources_for(node or sidecar(), world_of(text))[types.ROUTE][str(port)]
    assert isinstance(found, RouteConfiguration)
    return found


def domains(config: RouteConfiguration) -> dict[str, list[str]]:
    return {host.name: list(host.domains) for host in config.virtual_hosts}


def routes(config: RouteConfiguration, host: str) -> list[Route]:
    return next(list(found.routes) for found in config.virtual_hosts if found.name == f"{host}:{config.name}")


def virtual(http: str, hosts: str = "[ratings]", extra: str = "") -> str:
    return f"""{BOOKINFO}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: ratings, namespace: default}}
spec: {{hosts: {hosts}, http: {http}{extra}}}
"""


def shown(route: Route) -> dict[str, object]:
    return dict(json_format.MessageToDict(route, preserving_proto_field_name=True))


def first(http: str) -> dict[str, object]:
    return shown(routes(configuration(virtual(f"[{http}]")), "ratings.default.svc.cluster.local")[0])


TO_RATINGS = "route: [{destination: {host: ratings}}]"


def test_a_service_is_known_by_every_name_and_its_address_with_and_without_port() -> None:
    names = ["reviews.default.svc.cluster.local", "reviews.default", "reviews.default.svc", "reviews", "10.96.0.11"]
    expected = [domain for name in names for domain in (name, f"{name}:9080")]
    assert domains(configuration(BOOKINFO))[f"{REVIEWS}:9080"] == expected


def test_the_short_name_is_only_for_the_services_own_namespace() -> None:
    elsewhere = domains(configuration(BOOKINFO, node=sidecar(namespace="other")))[f"{REVIEWS}:9080"]
    assert "reviews" not in elsewhere
    assert "reviews.default" in elsewhere


def test_no_domain_is_there_twice() -> None:
    entry = """
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: clash, namespace: default}
spec:
  hosts: [reviews.default, reviews]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: DNS
"""
    found = [domain for known in domains(configuration(BOOKINFO + entry)).values() for domain in known]
    assert len(found) == len(set(found))


def test_hosts_that_nobody_knows_pass_through() -> None:
    last = configuration(BOOKINFO).virtual_hosts[-1]
    assert list(last.domains) == ["*"]
    assert last.routes[0].route.cluster == "PassthroughCluster"


def test_only_services_that_listen_on_the_port_are_there() -> None:
    assert set(domains(configuration(EVERYTHING, 80))) == {
        "api.example.com:80", "*.example.org:80", "invented.example.net:80", "allow_any",
    }  # fmt: skip


def test_weights_and_what_else_a_route_says() -> None:
    jason, others = routes(configuration(BOOKINFO), REVIEWS)
    assert (jason.name, jason.route.cluster) == ("jason", f"outbound|9080|v2|{REVIEWS}")
    assert jason.metadata.filter_metadata["pymesh"]["source"] == "VirtualService default/reviews http[0]"
    assert {item.name: item.weight.value for item in others.route.weighted_clusters.clusters} == {
        f"outbound|9080|v1|{REVIEWS}": 80,
        f"outbound|9080|v3|{REVIEWS}": 20,
    }
    assert others.route.timeout.seconds == 3
    retry = others.route.retry_policy
    assert (retry.retry_on, retry.num_retries.value) == ("5xx,retriable-status-codes", 3)
    assert list(retry.retriable_status_codes) == [503]
    assert retry.per_try_timeout.seconds == 1
    added = [(item.header.key, item.header.value, item.append_action) for item in others.request_headers_to_add]
    assert added == [("x-a", "1", 2), ("x-b", "2", 0)]
    assert list(others.request_headers_to_remove) == ["x-c"]


def test_without_a_word_there_is_no_timeout_and_two_careful_retries() -> None:
    (route,) = routes(configuration(BOOKINFO), "ratings.default.svc.cluster.local")
    assert route.route.timeout.ToSeconds() == 0
    assert route.route.HasField("timeout")
    assert route.route.retry_policy.num_retries.value == 2
    assert "connect-failure" in route.route.retry_policy.retry_on
    assert "5xx" not in route.route.retry_policy.retry_on
    assert route.metadata.filter_metadata["pymesh"]["source"] == "Service default/ratings"


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        ("uri: {exact: /a}", {"path": "/a"}),
        ("uri: {prefix: /a}", {"prefix": "/a"}),
        ("uri: {regex: '/a+'}", {"safe_regex": {"regex": "/a+"}}),
        ("uri: {prefix: /a}, ignoreUriCase: true", {"prefix": "/a", "case_sensitive": False}),
        ("method: {exact: PUT}", {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "PUT"}}]}),
        (
            "authority: {prefix: a}",
            {"prefix": "/", "headers": [{"name": ":authority", "string_match": {"prefix": "a"}}]},
        ),
        ("headers: {X-A: {}}", {"prefix": "/", "headers": [{"name": "x-a", "present_match": True}]}),
        (
            "headers: {x: {regex: 'a|b'}}",
            {"prefix": "/", "headers": [{"name": "x", "string_match": {"safe_regex": {"regex": "a|b"}}}]},
        ),
        (
            "withoutHeaders: {x: {}}",
            {"prefix": "/", "headers": [{"name": "x", "present_match": True, "invert_match": True}]},
        ),
        (
            "withoutHeaders: {x: {exact: a}}",
            {
                "prefix": "/",
                "headers": [
                    {
                        "name": "x",
                        "string_match": {"exact": "a"},
                        "invert_match": True,
                        "treat_missing_header_as_empty": True,
                    }
                ],
            },
        ),
        (
            "queryParams: {q: {exact: '1'}, p: {}}",
            {
                "prefix": "/",
                "query_parameters": [
                    {"name": "p", "present_match": True},
                    {"name": "q", "string_match": {"exact": "1"}},
                ],
            },
        ),
    ],
)
def test_clauses(clause: str, expected: dict[str, object]) -> None:
    assert first(f"{{match: [{{{clause}}}], {TO_RATINGS}}}")["match"] == expected


@pytest.mark.parametrize(
    ("clause", "there"),
    [
        ("port: 9080", True),
        ("port: 80", False),
        ("sourceLabels: {app: productpage}", True),
        ("sourceLabels: {app: reviews}", False),
        ("sourceNamespace: default", True),
        ("sourceNamespace: other", False),
        ("gateways: [mesh]", True),
        ("gateways: [edge]", False),
    ],
)
def test_clauses_that_are_decided_before_any_request(clause: str, there: bool) -> None:
    config = configuration(virtual(f"[{{match: [{{{clause}}}], {TO_RATINGS}}}]"))
    assert bool(routes(config, "ratings.default.svc.cluster.local")) is there


def test_each_match_is_a_route_and_names_make_the_name() -> None:
    http = f"[{{name: r, match: [{{name: a, uri: {{prefix: /a}}}}, {{uri: {{prefix: /b}}}}], {TO_RATINGS}}}]"
    found = routes(configuration(virtual(http)), "ratings.default.svc.cluster.local")
    assert [(route.name, route.match.prefix) for route in found] == [("r.a", "/a"), ("r", "/b")]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (
            "redirect: {uri: /b, authority: x.example, scheme: https, port: 8443, redirectCode: 307}",
            {
                "redirect": {
                    "path_redirect": "/b",
                    "host_redirect": "x.example",
                    "scheme_redirect": "https",
                    "port_redirect": 8443,
                    "response_code": "TEMPORARY_REDIRECT",
                }
            },
        ),
        ("redirect: {uri: /b}", {"redirect": {"path_redirect": "/b"}}),
        (
            "directResponse: {status: 503, body: {string: later}}",
            {"direct_response": {"status": 503, "body": {"inline_string": "later"}}},
        ),
        (
            "directResponse: {status: 200, body: {bytes: aGk=}}",
            {"direct_response": {"status": 200, "body": {"inline_bytes": "aGk="}}},
        ),
    ],
)
def test_answers_of_the_proxys_own(action: str, expected: dict[str, object]) -> None:
    found = first(f"{{{action}}}")
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("rewrite: {uri: /b}", {"prefix_rewrite": "/b"}),
        ("rewrite: {authority: x.example}", {"host_rewrite_literal": "x.example"}),
        (
            r"rewrite: {uriRegexRewrite: {match: '^/(a)', rewrite: '/\1'}}",
            {"regex_rewrite": {"pattern": {"regex": "^/(a)"}, "substitution": r"/\1"}},
        ),
        ("headers: {request: {set: {Host: x.example}}}", {"host_rewrite_literal": "x.example"}),
        ("timeout: 1m30s", {"timeout": "90s"}),
        ("timeout: 250ms", {"timeout": "0.250s"}),
    ],
)
def test_what_happens_on_the_way(more: str, expected: dict[str, object]) -> None:
    action = first(f"{{{TO_RATINGS}, {more}}}")["route"]
    assert isinstance(action, dict)
    assert {key: action[key] for key in expected} == expected


def test_no_retries_means_none() -> None:
    action = first(f"{{{TO_RATINGS}, retries: {{attempts: 0}}}}")["route"]
    assert "retry_policy" not in json.dumps(action)


def test_a_destination_without_port_is_the_only_port_or_the_callers() -> None:
    other = service("other", "[{name: http, port: 8080}]")
    found = configuration(virtual("[{route: [{destination: {host: other}}]}]") + "---" + other)
    assert routes(found, "ratings.default.svc.cluster.local")[0].route.cluster == (
        "outbound|8080||other.default.svc.cluster.local"
    )
    several = service("other", "[{name: http, port: 8080}, {name: http-b, port: 9080}]")
    found = configuration(virtual("[{route: [{destination: {host: other}}]}]") + "---" + several)
    assert routes(found, "ratings.default.svc.cluster.local")[0].route.cluster == (
        "outbound|9080||other.default.svc.cluster.local"
    )


def test_a_service_that_is_gone_leaves_a_route_to_a_cluster_that_is_not_there() -> None:
    """Envoy and pymesh-proxy answer such a route with 503 and the flag NC."""
    (route,) = routes(configuration(virtual("[{route: [{destination: {host: gone, port: {number: 1}}}]}]")),
                      "ratings.default.svc.cluster.local")  # fmt: skip
    assert route.route.cluster == "outbound|1||gone.default.svc.cluster.local"


def test_the_most_specific_virtual_service_wins() -> None:
    text = virtual(f"[{{name: exact, {TO_RATINGS}}}]") + virtual(
        f"[{{name: wide, {TO_RATINGS}}}]", "['*.default.svc.cluster.local']"
    ).removeprefix(BOOKINFO).replace("name: ratings, namespace", "name: wide, namespace")
    config = configuration(text)
    assert routes(config, "ratings.default.svc.cluster.local")[0].name == "exact"
    assert routes(config, "productpage.default.svc.cluster.local")[0].name == "wide"


def test_a_virtual_service_for_gateways_only_is_not_for_sidecars() -> None:
    config = configuration(virtual(f"[{{name: edge, {TO_RATINGS}}}]", extra=", gateways: [edge]"))
    assert routes(config, "ratings.default.svc.cluster.local")[0].name == "default"
