"""The same retry policies, and the same wishes of requests, in Envoy and pymesh-proxy: the same attempts."""

from collections.abc import Iterator

import pytest

from tests.conformance.sides import Answer, Side, Situation, both_proxies
from tests.support.echo import EchoServer

pytestmark = pytest.mark.envoy

BOOTSTRAP = """
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: ${LISTEN}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: plain
              domains: ["plain.test"]
              include_request_attempt_count: true
              include_attempt_count_in_response: true
              routes: [{match: {prefix: /}, route: {cluster: a}}]
            - name: tried
              domains: ["tried.test"]
              include_request_attempt_count: true
              routes:
              - match: {prefix: /}
                route:
                  cluster: a
                  timeout: 3s
                  retry_policy:
                    retry_on: 5xx,retriable-headers,retriable-status-codes
                    num_retries: 2
                    per_try_timeout: 0.4s
                    retriable_status_codes: [202]
                    retriable_headers: [{name: x-upstream, string_match: {exact: again}}]
                    retry_back_off: {base_interval: 0.005s, max_interval: 0.01s}
            - name: some
              domains: ["some.test"]
              routes:
              - match: {prefix: /}
                route:
                  cluster: a
                  retry_policy:
                    retry_on: 5xx
                    retriable_request_headers: [{name: x-idempotent, present_match: true}]
            - name: none-left
              domains: ["none-left.test"]
              routes: [{match: {prefix: /}, route: {cluster: budget, retry_policy: {retry_on: 5xx, num_retries: 2}}}]
  clusters:
  - name: a
    load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${A}}}}}]}]}
  - name: budget
    circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 100}, min_retry_concurrency: 0}}]}
    load_assignment: {cluster_name: budget, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${A}}}}}]}]}
"""


def asked(
    name: str, status: int, host: str, path: str, *, method: str = "GET", client: str = "10.0.0.1", **headers: str
) -> Situation:
    """A request that came straight from an internal client, or from another."""
    named = tuple((f"x-{key.replace('_', '-')}", value) for key, value in headers.items())
    came_from = (("x-forwarded-for", client),) if client else ()
    return Situation(name, status, path, method, f"{host}.test", named + came_from)


SAID = {
    f"envoy_{name}": "1"
    for name in (
        "expected_rq_timeout_ms", "force_trace", "hedge_on_per_try_timeout", "internal", "ip_tags", "max_retries",
        "original_url", "retriable_header_names", "retriable_status_codes", "retry_grpc_on", "retry_on",
        "upstream_alt_stat_name", "upstream_rq_timeout_alt_response", "decorator_operation", "external_address",
        "downstream_service_cluster", "downstream_service_node", "original_path", "original_host", "attempt_count",
    )
}  # fmt: skip
SITUATIONS = [
    asked("no policy", 503, "plain", "/fail/1/503"),
    asked("asked for", 200, "plain", "/fail/1/503", envoy_retry_on="5xx"),
    asked("asked for, in vain", 503, "plain", "/fail/2/503", envoy_retry_on="5xx"),
    asked("asked for, twice", 200, "plain", "/fail/2/503", envoy_retry_on="5xx", envoy_max_retries="2"),
    asked("asked for none", 503, "tried", "/fail/1/503", envoy_max_retries="0"),
    asked("asked for more", 200, "tried", "/fail/4/503", envoy_max_retries="4"),
    asked("asked for nonsense", 503, "plain", "/fail/1/503", envoy_retry_on="sometimes"),
    asked("asked for nonsense retries", 200, "tried", "/fail/2/503", envoy_max_retries="many"),
    asked("asked for another word", 404, "plain", "/fail/1/404", envoy_retry_on="gateway-error"),
    asked("asked for a conflict", 200, "plain", "/fail/1/409", envoy_retry_on="retriable-4xx"),
    asked(
        "asked for a status", 200, "plain", "/fail/1/418",
        envoy_retry_on="retriable-status-codes", envoy_retriable_status_codes="418, 420",
    ),
    asked("a status without the word", 418, "plain", "/fail/1/418", envoy_retriable_status_codes="418"),
    asked("asked for a POST", 200, "plain", "/fail/1/503", method="POST", envoy_retry_on="5xx"),
    asked("an outsider", 503, "plain", "/fail/1/503", client="11.0.0.1", envoy_retry_on="5xx"),
    asked("nobody knows who", 503, "plain", "/fail/1/503", client="", envoy_retry_on="5xx"),
    asked("who came a longer way", 503, "plain", "/fail/1/503", client="10.0.0.2, 10.0.0.1", envoy_retry_on="5xx"),
    asked("who is no address", 503, "plain", "/fail/1/503", client="somebody", envoy_retry_on="5xx"),
    asked("an outsider's timeout", 200, "plain", "/slow/0.3", client="", envoy_upstream_rq_timeout_ms="100"),
    asked("all that may not be said", 200, "plain", "/", client="", **SAID),
    asked("all that an insider says", 200, "plain", "/", **{name: SAID[name] for name in SAID if "trace" not in name}),
    asked("of the policy", 200, "tried", "/fail/2/500"),
    asked("of the policy, in vain", 500, "tried", "/fail/3/500"),
    asked("a good status that is retriable", 200, "tried", "/fail/2/202"),
    asked("a try that is too slow", 504, "tried", "/slow/1.0"),
    asked("a longer try asked for", 200, "tried", "/slow/0.6", envoy_upstream_rq_per_try_timeout_ms="1500"),
    asked("a shorter whole asked for", 504, "plain", "/slow/1.0", envoy_upstream_rq_timeout_ms="200"),
    asked("no whole asked for", 200, "plain", "/slow/0.2", envoy_upstream_rq_timeout_ms="0"),
    asked("a whole shorter than a try", 504, "tried", "/slow/1.0", envoy_upstream_rq_timeout_ms="300"),
    asked("nonsense for a timeout", 200, "plain", "/slow/0.2", envoy_upstream_rq_timeout_ms="soon"),
    asked("not for this request", 503, "some", "/fail/1/503"),
    asked("for this request", 200, "some", "/fail/1/503", idempotent="1"),
    asked("within the budget", 200, "none-left", "/fail/1/503"),
]  # fmt: skip
_DIFFERENT = {"date", "x-envoy-upstream-service-time", "proxy-status", "content-length", "connection", "server"}
# Of these, Envoy's value at a retry depends on how much time the pause before it took.
# Envoy adds `content-length: 0` to a POST without a body.
_OF_THE_MOMENT = {"x-envoy-expected-rq-timeout-ms", "x-request-id", "x-test", "content-length"}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side, EchoServer]]:
    folder = tmp_path_factory.mktemp("retries")
    with EchoServer("a") as a, both_proxies(folder, a, a, BOOTSTRAP) as (envoy, pymesh):
        yield envoy, pymesh, a


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda found: found.name)
def test_both_make_the_same_attempts(situation: Situation, sides: tuple[Side, Side, EchoServer]) -> None:
    envoy, pymesh, upstream = sides
    answers = [side.ask(situation) for side in (envoy, pymesh)]
    assert [answer.status for answer in answers] == [situation.status] * 2
    first, second = (shown(answer) for answer in answers)
    assert second == first
    attempts = [upstream.seen[f"{side.name} {situation.name}"] for side in (envoy, pymesh)]
    assert attempts[1] == attempts[0]


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (asked("expected: the whole", 200, "plain", "/"), ["15000"]),
        (asked("expected: of a try", 200, "tried", "/"), ["400"]),
        (asked("expected: as asked for", 200, "plain", "/", envoy_upstream_rq_timeout_ms="700"), ["700"]),
        (asked("expected: none", 200, "plain", "/", envoy_upstream_rq_timeout_ms="0"), []),
    ],
    ids=lambda found: found.name if isinstance(found, Situation) else "",
)
def test_both_tell_the_upstream_how_long_it_has(
    situation: Situation, expected: list[str], sides: tuple[Side, Side, EchoServer]
) -> None:
    for side in sides[:2]:
        assert side.ask(situation).upstream_header("x-envoy-expected-rq-timeout-ms") == expected


def shown(answer: Answer) -> object:
    """What must be the same: what the client saw, and what the upstream saw at the last attempt."""
    headers = sorted(pair for pair in answer.headers if pair[0] not in _DIFFERENT)
    seen = answer.upstream.get("headers", ())
    assert isinstance(seen, (list, tuple))
    upstream = sorted((name.lower(), value) for name, value in seen if name.lower() not in _OF_THE_MOMENT)
    return headers, upstream, answer.upstream.get("target"), None if answer.upstream else answer.body
