"""The same access rules in Envoy and pymesh-proxy: the same requests are kept out, by the same policies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.sides import Side, Situation, both_proxies
from tests.support.echo import EchoServer
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.envoy

# Each policy is asked about by a request with its name in x-rule. Envoy tries them by name, whatever their order here.
PERMISSIONS = {
    "any": "any: true",
    "header exact": "header: {name: x-a, string_match: {exact: one}}",
    "header absent": "header: {name: x-a, present_match: false}",
    "header not": "header: {name: x-a, string_match: {exact: one}, invert_match: true}",
    "method": "header: {name: ':method', string_match: {exact: POST}}",
    "authority": "header: {name: ':authority', string_match: {suffix: .test, ignore_case: true}}",
    "path": "url_path: {path: {exact: /b/path}}",
    "path prefix": "url_path: {path: {prefix: /b/pre}}",
    "path regex": "url_path: {path: {safe_regex: {regex: '/b/[0-9]+'}}}",
    "raw path": "header: {name: ':path', string_match: {contains: x=y}}",
    "own port": "destination_port: ${LISTEN}",
    "other port": "destination_port: 1",
    "port range": "destination_port_range: {start: 1024, end: 65535}",
    "port range below": "destination_port_range: {start: 1, end: 1024}",
    "destination": "destination_ip: {address_prefix: 127.0.0.0, prefix_len: 8}",
    "other destination": "destination_ip: {address_prefix: 10.0.0.0, prefix_len: 8}",
    "server name": "requested_server_name: {exact: a}",
    "no server name": "requested_server_name: {exact: ''}",
    "and": "and_rules: {rules: [{url_path: {path: {prefix: /b}}}, {header: {name: x-a, present_match: true}}]}",
    "or": "or_rules: {rules: [{url_path: {path: {prefix: /c}}}, {header: {name: x-a, present_match: true}}]}",
    "not": "not_rule: {url_path: {path: {prefix: /b/p}}}",
    "nested": "and_rules: {rules: [{not_rule: {or_rules: {rules: [{url_path: {path: {exact: /b/path}}},"
    " {header: {name: x-a, string_match: {prefix: t}}}]}}}, {any: true}]}",
}
PRINCIPALS = {
    "who any": "any: true",
    "who from": "direct_remote_ip: {address_prefix: 127.0.0.1, prefix_len: 32}",
    "who source": "source_ip: {address_prefix: 127.0.0.0, prefix_len: 31}",
    "who from elsewhere": "direct_remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}",
    "who v6": "direct_remote_ip: {address_prefix: '::1', prefix_len: 128}",
    "who authenticated": "authenticated: {}",
    "who named": "authenticated: {principal_name: {prefix: spiffe}}",
    "who not authenticated": "not_id: {authenticated: {}}",
    "who header": "header: {name: x-a, string_match: {exact: one}}",
    "who path": "url_path: {path: {prefix: /b/p}}",
    "who and": "and_ids: {ids: [{any: true}, {header: {name: x-a, present_match: true}}]}",
    "who or": "or_ids: {ids: [{authenticated: {}}, {header: {name: x-a, present_match: true}}]}",
}
REQUESTS = (
    ("GET", "/b/path", ()),
    ("POST", "/b/pre/fix?x=y", (("x-a", "one"),)),
    ("GET", "/b/12345?a=/b/path", (("x-a", "two"),)),
    ("GET", "/b/other", (("x-a", "two"), ("x-a", "one"))),
)
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
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: FOLDER/${LISTEN}
              log_format:
                text_format_source: {inline_string: "%REQ(X-TEST)%|%RESPONSE_CODE_DETAILS%|%RESPONSE_FLAGS%\\n"}
          http_filters:
          - name: deny
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                action: DENY
                policies:
                  DENIED
          - name: allow
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules_stat_prefix: second
              shadow_rules: {action: ALLOW}
              rules:
                policies:
                  reads:
                    permissions: [{header: {name: ":method", string_match: {exact: GET}}}]
                    principals: [{any: true}]
                  writes:
                    permissions: [{url_path: {path: {prefix: /nowhere}}}, {header: {name: x-a, present_match: true}}]
                    principals: [{authenticated: {}}, {any: true}]
          - name: log
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules: {action: LOG, policies: {all: {permissions: [{any: true}], principals: [{any: true}]}}}
          - name: nothing
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /b}, route: {cluster: a}}]}]
  clusters:
  - name: a
    load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${A}}}}}]}]}
"""


def policies() -> str:
    """Every permission and principal as a policy of its own, for the requests that name it."""
    found = []
    for name, rule in PERMISSIONS.items():
        asked = f"{{header: {{name: x-rule, string_match: {{exact: {name}}}}}}}"
        found.append(
            f'"{name}": {{permissions: [{{and_rules: {{rules: [{asked}, {{{rule}}}]}}}}], principals: [{{any: true}}]}}'
        )
    for name, rule in PRINCIPALS.items():
        asked = f"{{header: {{name: x-rule, string_match: {{exact: {name}}}}}}}"
        found.append(f'"{name}": {{permissions: [{asked}], principals: [{{{rule}}}]}}')
    asked = "{header: {name: x-rule, string_match: {exact: both}}}"
    found += [
        f'"{name}": {{permissions: [{asked}], principals: [{{any: true}}]}}' for name in ("second of", "first of")
    ]
    return ("\n" + " " * 18).join(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rbac")


@pytest.fixture(scope="module")
def sides(folder: Path) -> Iterator[tuple[Side, Side]]:
    text = BOOTSTRAP.replace("FOLDER", str(folder)).replace("DENIED", policies())
    with EchoServer("a") as a, both_proxies(folder, a, a, text) as both:
        yield both


SITUATIONS = [
    Situation(f"{rule} of {method} {path}", 0, path, method, headers=(*headers, *((("x-rule", rule),) if rule else ())))
    for rule in (*PERMISSIONS, *PRINCIPALS, "both", "")
    for method, path, headers in REQUESTS
] + [Situation("neither", 0, "/b/path", "PUT"), Situation("no route", 0, "/c")]


def test_both_keep_out_the_same_requests_for_the_same_reason(sides: tuple[Side, Side], folder: Path) -> None:
    said: list[dict[str, tuple[int, bytes]]] = []
    logged: list[dict[str, str]] = []
    for side in sides:
        answers = {asked.name: side.ask(asked) for asked in SITUATIONS}
        said.append({name: (found.status, b"" if found.upstream else found.body) for name, found in answers.items()})
        log = folder / str(side.port)
        eventually_sync(
            lambda log=log: log.exists() and log.read_text().count("\n") >= len(SITUATIONS),  # type: ignore[misc]  # bound now
            what="a line for each request",
            timeout=15.0,  # Envoy flushes every ten seconds
        )
        lines = (line.partition("|") for line in log.read_text().splitlines())
        logged.append({name.removeprefix(f"{side.name} "): why for name, _, why in lines})
    assert said[1] == said[0]
    assert logged[1] == logged[0]
    kept_out = [name for name, why in logged[0].items() if "rbac_access_denied" in why]
    assert 40 < len(kept_out) < len(SITUATIONS) - 40, "neither all nor nothing is kept out"
