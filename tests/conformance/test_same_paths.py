"""Paths that mean more than they say: pymesh-proxy makes of them what a real Envoy does before routing."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.conformance.sides import Side, Situation, both_proxies
from tests.support.echo import EchoServer

pytestmark = pytest.mark.envoy

BOOTSTRAP: Final = """
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
          SETTINGS
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {match: {prefix: /secret}, direct_response: {status: 403, body: {inline_string: closed}}}
              - {match: {prefix: /}, route: {cluster: a}}
  clusters:
  - name: a
    connect_timeout: 1s
    load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${A}}}}}]}]}
"""
SETTINGS: Final = {
    "nothing": "",
    "normalized": "normalize_path: true",
    "merged": "merge_slashes: true",
    "both": "{normalize_path: true, merge_slashes: true}",
    "forwarded": "path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD",
    "everything": "{normalize_path: true, merge_slashes: true, path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD}",
    "redirected": "{normalize_path: true, path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT}",
    "rejected": "{normalize_path: true, path_with_escaped_slashes_action: REJECT_REQUEST}",
}
PATHS: Final = (
    "/", "/plain/path?x=/../y//z%2F", "/a/../secret", "/a/./b/../../c", "/..", "/../..", "/a/..", "/a/.", "/a/b/../",
    "/a/%2e%2e/secret", "/a/%2E%2e/%2e/b", "/a/.%2e/secret", "/...", "/a/..b/.c", "/a%2e%2e/b", "/a/..?q=..",
    "/%73ecret", "/%7Euser", "/%41%5f%2d", "/%c3%a9", "/%C3%A9", "/a%20b", "/a%25b", "/%25%32%65", "/%zz", "/%", "/a%2",
    "/a%3fb", "/a%23b", "/a%00b", "/a\\b", "/a\\..\\secret", "/\\secret", "/a|b^c`d{e}", '/a"b<c>d',
    "//secret", "/a//b///c", "//", "/a//../secret", "/a/..//secret", "/.//secret", "/a%2f%2fb", "/a%2Fb", "/a%5Cb",
    "/a%5c..%5csecret", "/a%2f..%2fsecret", "/x%2f%2e%2e%2fsecret", "/x?a=%2f", "/secret%2f", "/a/%2f../b",
    "/;/../a;b=c",
)  # fmt: skip


@pytest.fixture(scope="module", params=SETTINGS.values(), ids=SETTINGS)
def sides(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    settings = request.param.strip("{}").replace(", ", "\n          ")
    bootstrap = BOOTSTRAP.replace("SETTINGS", settings)
    with (
        EchoServer("a") as a,
        EchoServer("b") as b,
        both_proxies(tmp_path_factory.mktemp("paths"), a, b, bootstrap) as running,
    ):
        yield running


@pytest.mark.parametrize("path", PATHS)
def test_the_same_path(sides: tuple[Side, Side], path: str) -> None:
    envoy, pymesh = (
        (answer.status, answer.header("location"), answer.upstream.get("target"))
        for answer in (side.ask(Situation("path", 0, path)) for side in sides)
    )
    assert pymesh == envoy
