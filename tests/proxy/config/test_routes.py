"""RouteConfiguration → RouteTable."""

import json
from collections.abc import Callable

import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from hypothesis import given
from hypothesis import strategies as st

from pymesh.errors import ConfigError
from pymesh_proxy.config.routes import Context, compile_routes
from pymesh_proxy.routing import Forward, HeaderMutation, RouteTable
from tests.support.heads import request
from tests.support.xds import message


def compiled(
    text: str, *, random: Callable[[], float] = lambda: 0.5, inline: bool = False, clusters: tuple[str, ...] = ()
) -> RouteTable:
    return compile_routes(message(RouteConfiguration, text), Context(random, clusters.__contains__), inline=inline)


def one_host(routes: str) -> str:
    return f"virtual_hosts: [{{name: v, domains: ['*'], routes: [{routes}]}}]"


def answer(match: str, name: str = "hit") -> str:
    return f"{{name: {name}, match: {match}, direct_response: {{status: 200}}}}"


@pytest.mark.parametrize(
    ("match", "hits", "misses"),
    [
        ("{prefix: /}", ["/", "/x?y"], []),
        ("{prefix: ''}", ["/", "*"], []),
        ("{prefix: /api}", ["/api", "/apix", "/api?x"], ["/", "/x/api", "/API"]),
        ("{prefix: /Api, case_sensitive: false}", ["/API/x"], ["/ap"]),
        ("{path: /api}", ["/api", "/api?x=/y"], ["/api/", "/API", "/x?/api"]),
        ("{path: /Api, case_sensitive: false}", ["/aPI", "/API?x"], ["/apis"]),
        ("{path_separated_prefix: /api}", ["/api", "/api/", "/api/x", "/api?x"], ["/apis", "/"]),
        ("{path_separated_prefix: /Api, case_sensitive: false}", ["/API/x"], ["/apis"]),
        ("{safe_regex: {regex: '/v[0-9]+'}}", ["/v1", "/v22?x"], ["/v1/", "/v", "/x/v1"]),
        ("{prefix: /, headers: [{name: ':method', exact_match: GET}, {name: host, exact_match: reviews}]}", ["/"], []),
        ("{prefix: /, headers: [{name: x}]}", [], ["/"]),
        ("{prefix: /, query_parameters: [{name: a}], headers: [{name: host}]}", ["/?a"], ["/?b", "/"]),
    ],
)
def test_matches(match: str, hits: list[str], misses: list[str]) -> None:
    table = compiled(one_host(answer(match)))
    targets = hits + misses
    found = [target for target in targets if table.find(request(target, method="GET" if target != "*" else "OPTIONS"))]
    assert found == hits


def test_a_fraction_of_the_requests() -> None:
    draws = iter([0.0, 0.2499, 0.25, 0.99])
    fraction = "{default_value: {numerator: 2500, denominator: TEN_THOUSAND}}"
    table = compiled(one_host(answer(f"{{prefix: /, runtime_fraction: {fraction}}}")), random=lambda: next(draws))
    assert [table.find(request()) is not None for _ in range(4)] == [True, True, False, False]


def test_names_sources_and_defaults_come_from_the_virtual_host() -> None:
    table = compiled("""
        name: '9080'
        virtual_hosts:
        - name: reviews
          domains: [reviews]
          retry_policy: {retry_on: 5xx}
          metadata: {filter_metadata: {istio:
            {config: /apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews}}}
          routes:
          - name: first
            match: {path: /own}
            route: {cluster: a}
            metadata: {filter_metadata: {pymesh: {source: 'VirtualService default/other http[0]'}}}
          - {match: {prefix: /}, route: {cluster: a}}
    """)
    assert table.name == "9080"
    first, second = table.virtual_hosts[0].routes
    assert (first.name, first.virtual_host) == ("first", "reviews")
    assert (first.source, second.source) == ("VirtualService default/other http[0]", "VirtualService default/reviews")
    assert isinstance(second.action, Forward)
    assert second.action.retry is not None
    assert second.action.retry.on == {"5xx"}


HEADERS = """
    {most_specific}
    request_headers_to_add:
    - {{header: {{key: x, value: table}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}
    response_headers_to_remove: [server]
    virtual_hosts:
    - name: v
      domains: ['*']
      request_headers_to_add: [{{header: {{key: y, value: host}}}}]
      routes:
      - match: {{prefix: /}}
        direct_response: {{status: 200}}
        request_headers_to_add:
        - {{header: {{key: x, value: route}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}
        - {{header: {{key: z, value: route}}, append_action: ADD_IF_ABSENT}}
"""


@pytest.mark.parametrize(
    ("most_specific", "winner"), [("", b"table"), ("most_specific_header_mutations_wins: true", b"route")]
)
def test_header_changes_of_all_levels_are_folded(most_specific: str, winner: bytes) -> None:
    route = compiled(HEADERS.format(most_specific=most_specific)).find(request())
    assert route is not None
    assert route.request_headers == HeaderMutation(
        add=((b"y", b"host"),), set=((b"x", winner),), set_if_absent=((b"z", b"route"),)
    )
    assert route.response_headers == HeaderMutation(remove=(b"server",))


def test_clusters_are_checked_inline_and_on_request() -> None:
    route = "{match: {prefix: /}, route: {cluster: gone}}"
    compiled(one_host(route))
    compiled(one_host(route), inline=True, clusters=("gone",))
    compiled(f"validate_clusters: false\n{one_host(route)}", inline=True)
    for refused in (lambda: compiled(one_host(route), inline=True),
                    lambda: compiled(f"validate_clusters: true\n{one_host(route)}")):  # fmt: skip
        with pytest.raises(ConfigError, match="there is no cluster 'gone'") as caught:
            refused()
        assert caught.value.path == "virtual_hosts[0].routes[0].route.cluster"


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("virtual_hosts: [{domains: [a]}]", "virtual_hosts[0].name", "is required"),
        ("virtual_hosts: [{name: v}]", "virtual_hosts[0].domains", "at least one domain"),
        ("virtual_hosts: [{name: v, domains: [a]}, {name: v, domains: [b]}]", "virtual_hosts[1].name", "given twice"),
        ("virtual_hosts: [{name: v, domains: [a]}, {name: w, domains: [b, A]}]", "virtual_hosts[1].domains[1]",
         "already given in virtual host 'v'"),
        ("virtual_hosts: [{name: v, domains: [a, a]}]", "virtual_hosts[0].domains[1]", "already given"),
        ("virtual_hosts: [{name: v, domains: ['a*b']}]", "virtual_hosts[0].domains[0]", "is not a name"),
        ("virtual_hosts: [{name: v, domains: ['*a*']}]", "virtual_hosts[0].domains[0]", "is not a name"),
        ("virtual_hosts: [{name: v, domains: ['']}]", "virtual_hosts[0].domains[0]", "is not a name"),
        (one_host("{match: {}, direct_response: {status: 200}}"), "virtual_hosts[0].routes[0].match",
         "one of these is required: prefix, path"),
        (one_host("{direct_response: {status: 200}}"), "virtual_hosts[0].routes[0].match", "is required"),
        (one_host("{match: {prefix: /}}"), "virtual_hosts[0].routes[0]", "one of these is required"),
        (one_host(answer("{prefix: '/a?b'}")), "virtual_hosts[0].routes[0].match.prefix", "without its query"),
        (one_host(answer("{path_separated_prefix: /a/}")), "virtual_hosts[0].routes[0].match.path_separated_prefix",
         "does not end with one"),
        (one_host(answer("{safe_regex: {regex: '['}}")), "virtual_hosts[0].routes[0].match.safe_regex.regex", "RE2"),
        (one_host(answer("{prefix: /, runtime_fraction: {}}")),
         "virtual_hosts[0].routes[0].match.runtime_fraction.default_value", "is required"),
        (one_host(answer("{prefix: /, headers: [{name: a}, {}]}")), "virtual_hosts[0].routes[0].match.headers[1].name",
         "is required"),
        (one_host(answer("{prefix: /, query_parameters: [{}]}")),
         "virtual_hosts[0].routes[0].match.query_parameters[0].name", "is required"),
        ("virtual_hosts: [{name: v, domains: [a], retry_policy: {retry_on: x}}]",
         "virtual_hosts[0].retry_policy.retry_on", "unknown retry condition"),
        ("request_headers_to_remove: [host]", "request_headers_to_remove[0]", "must not be changed"),
        ("request_headers_to_remove: [Content-Length]", "request_headers_to_remove[0]", "must not be changed"),
        ("response_headers_to_remove: [transfer-encoding]", "response_headers_to_remove[0]", "must not be changed"),
        ("response_headers_to_add: [{header: {key: connection, value: close}}]",
         "response_headers_to_add[0].header.key", "must not be changed"),
    ],
)  # fmt: skip
def test_refusals(text: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        compiled(text)
    assert caught.value.path == path


PATHS = st.lists(st.sampled_from(["/a", "/b", "/ab", "/A"]), max_size=3).map("".join)
MATCHES = st.one_of(
    PATHS.map(lambda path: {"prefix": path}),
    PATHS.map(lambda path: {"path": path}),
    PATHS.filter(bool).map(lambda path: {"path_separated_prefix": path}),
    PATHS.map(lambda path: {"prefix": path, "case_sensitive": False}),
    PATHS.map(lambda path: {"safe_regex": {"regex": f"{path}.*"}}),
    PATHS.map(lambda path: {"prefix": path, "headers": [{"name": "x-a", "present_match": True}]}),
)


@given(st.lists(MATCHES, max_size=12), st.lists(st.tuples(PATHS, st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_the_index_finds_what_asking_every_route_finds(
    matches: list[dict[str, object]], asked: list[tuple[str, bool, bool]]
) -> None:
    routes = [
        {"name": str(number), "match": match, "direct_response": {"status": 200}}
        for number, match in enumerate(matches)
    ]
    text = json.dumps({"name": "t", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]})
    table = compile_routes(message(RouteConfiguration, text), Context(lambda: 0.0, lambda _: True))
    for path, query, header in asked:
        head = request(f"{path or '/'}{'?q=/a' if query else ''}", headers=[("x-a", "1")] if header else ())
        one_by_one = next((route for route in table.virtual_hosts[0].routes if route.matches(head)), None)
        assert table.find(head) is one_by_one
