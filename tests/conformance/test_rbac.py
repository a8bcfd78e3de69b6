"""The same access rules in Envoy and pymesh-proxy: the same requests are kept out, by the same policies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.sides import Side, Situation, both_proxies
from tests.support.echo import EchoServer
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.envoy

SHADOW = "envoy.filters.http.rbac"


def template(text: str) -> str:
    """A permission for the paths of a template."""
    return (
        "uri_template: {name: template, typed_config: {'@type': "
        "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, "
        f"path_template: '{text}'}}}}"
    )


# Each policy is asked about by a request with its name in x-rule. Envoy tries them by name, whatever their order here.
PERMISSIONS = {
    "any": "any: true",
    "header exact": "header: {name: x-a, string_match: {exact: one}}",
    "header absent": "header: {name: x-a, present_match: false}",
    "header not": "header: {name: x-a, string_match: {exact: one}, invert_match: true}",
    "header there": "header: {name: x-a}",
    "header not there": "header: {name: x-a, invert_match: true}",
    "header empty": "header: {name: x-a, string_match: {exact: ''}, treat_missing_header_as_empty: true}",
    "host": "header: {name: host, string_match: {exact: any.test}}",
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
    "template": template("/b/*"),
    "template below": template("/b/**"),
    "template between": template("/*/pre/*"),
    "template named": template("/b/{one}/{rest=fix/**}"),
    "template of one name": template("/{all=**}"),
    "template with a suffix": template("/b/**th"),
    "template in letters": template("/b/path"),
    "template of a folder": template("/b/pre/"),
    "case": "url_path: {path: {exact: /B/PATH, ignore_case: true}}",
    "path of a query": "url_path: {path: {prefix: '/b/pre/fix?'}}",
    "told": f"metadata: {{filter: {SHADOW}, path: [{{key: dry_shadow_engine_result}}], "
    "value: {string_match: {prefix: all}}}",
    "told no": f"metadata: {{filter: {SHADOW}, path: [{{key: dry_shadow_engine_result}}], "
    "value: {string_match: {exact: allowed}}, invert: true}",
    "told by nobody": "metadata: {filter: nobody, path: [{key: a}, {key: b}], value: {present_match: true}}",
    "told of nothing": f"metadata: {{filter: {SHADOW}, path: [{{key: a}}, {{key: b}}], "
    "value: {present_match: false}}",
    "told not nothing": f"metadata: {{filter: {SHADOW}, path: [{{key: dry_shadow_engine_result}}], "
    "value: {present_match: false}}",
    "told nothing": f"metadata: {{filter: {SHADOW}, path: [{{key: nothing}}], value: {{null_match: {{}}}}}}",
    "told a truth": "metadata: {filter: envoy.common, path: [{key: access_log_hint}], value: {bool_match: true}}",
    "told either": "metadata: {filter: envoy.common, path: [{key: access_log_hint}], value: {or_match: "
    "{value_matchers: [{double_match: {exact: 0}}, {string_match: {exact: text}}, {bool_match: false}]}}}",
    "told a list": f"metadata: {{filter: {SHADOW}, path: [{{key: dry_shadow_effective_policy_id}}], "
    "value: {list_match: {one_of: {string_match: {contains: shadow}}}}}",
    "told by whom": f"sourced_metadata: {{metadata_matcher: {{filter: {SHADOW}, "
    "path: [{key: dry_shadow_effective_policy_id}], value: {string_match: {safe_regex: {regex: 'a sha.*'}}}}}",
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
    "who behind": "remote_ip: {address_prefix: 10.1.0.0, prefix_len: 16}",
    "who before": "direct_remote_ip: {address_prefix: 10.1.0.0, prefix_len: 16}",
    "who not behind": "not_id: {remote_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}",
    "who behind v6": "remote_ip: {address_prefix: '2001:db8::', prefix_len: 32}",
    "who was told": f"metadata: {{filter: {SHADOW}, path: [{{key: dry_shadow_engine_result}}], "
    "value: {string_match: {exact: denied}}}",
    "who or": "or_ids: {ids: [{authenticated: {}}, {header: {name: x-a, present_match: true}}]}",
}
REQUESTS = (
    ("GET", "/b/path", ()),
    ("POST", "/b/pre/fix?x=y", (("x-a", "one"),)),
    ("GET", "/b/12345?a=/b/path", (("x-a", "two"),)),
    ("GET", "/b/other", (("x-a", "two"), ("x-a", "one"))),
    ("GET", "/b/pre/fix", (("x-forwarded-for", "192.0.2.1, 10.1.2.3"),)),
)
# Who is believed to be the client, of which only some rules ask.
FORWARDED = (
    "10.1.2.3",
    "10.1.2.3, 192.0.2.1",
    "mallory",
    "10.1.2.3, 10.1.2",
    "10.1.2.3:80",
    "2001:DB8::1",
    "10.1.2.3,",
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
          - name: tells
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              shadow_rules_stat_prefix: dry_
              shadow_rules:
                policies:
                  a shadow: {permissions: [{header: {name: x-a, present_match: true}}], principals: [{any: true}]}
              rules:
                action: LOG
                policies:
                  logged: {permissions: [{url_path: {path: {prefix: /b/p}}}], principals: [{any: true}]}
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


SITUATIONS = (
    [
        Situation(
            f"{rule} of {method} {path}", 0, path, method, headers=(*headers, *((("x-rule", rule),) if rule else ()))
        )
        for rule in (*PERMISSIONS, *PRINCIPALS, "both", "")
        for method, path, headers in REQUESTS
    ]
    + [
        Situation(f"{rule} for {said}", 0, "/b/x", headers=(("x-rule", rule), ("x-forwarded-for", said)))
        for rule in PRINCIPALS
        if "behind" in rule
        for said in FORWARDED
    ]
    + [Situation("neither", 0, "/b/path", "PUT"), Situation("no route", 0, "/c")]
)


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
