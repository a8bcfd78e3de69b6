"""The same access rules for opaque connections in Envoy and pymesh-proxy: the same are kept out, by the same policies.

Each rule has a filter chain of its own, which the server name of a ClientHello chooses; TLS is the upstream's own.
"""

import re
import socket
import socketserver
import ssl
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests.conformance.sides import CLIENT_TIMEOUT, Side, both_proxies
from tests.support.threaded import serving
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.envoy

ANYBODY = "permissions: [{any: true}], principals: [{any: true}]"
# By name, which is its server name, too.
RULES = {
    "none": "",
    "denied": f"rules: {{action: DENY, policies: {{of all: {{{ANYBODY}}}}}}}",
    "allowed": f"rules: {{action: ALLOW, policies: {{all: {{{ANYBODY}}}}}}}",
    "nobody": "rules: {action: ALLOW}",
    "logged": f"rules: {{action: LOG, policies: {{all: {{{ANYBODY}}}}}}}",
    "dry": f"shadow_rules_stat_prefix: dry_, shadow_rules: {{action: DENY, policies: {{all: {{{ANYBODY}}}}}}}",
    "port": "rules: {action: DENY, policies: {p: {permissions: [{destination_port: ${LISTEN}}], "
    "principals: [{any: true}]}}}",
    "range": "rules: {action: DENY, policies: {p: {permissions: [{destination_port_range: {start: 1, end: 1024}}], "
    "principals: [{any: true}]}}}",
    "named": "rules: {action: ALLOW, policies: {p: {permissions: [{requested_server_name: {prefix: name}}], "
    "principals: [{any: true}]}}}",
    "misnamed": "rules: {action: ALLOW, policies: {p: {permissions: [{requested_server_name: {exact: x}}], "
    "principals: [{any: true}]}}}",
    "from": "rules: {action: DENY, policies: {p: {permissions: [{any: true}], "
    "principals: [{direct_remote_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}]}}}",
    "behind": "rules: {action: DENY, policies: {p: {permissions: [{any: true}], "
    "principals: [{remote_ip: {address_prefix: 127.0.0.1, prefix_len: 32}}]}}}",
    "elsewhere": "rules: {action: DENY, policies: {p: {permissions: [{any: true}], "
    "principals: [{source_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}]}}}",
    "authenticated": "rules: {action: ALLOW, policies: {p: {permissions: [{any: true}], "
    "principals: [{authenticated: {principal_name: {prefix: spiffe}}}]}}}",
    "not": "rules: {action: DENY, policies: {p: {permissions: [{not_rule: {destination_port: 1}}], "
    "principals: [{or_ids: {ids: [{authenticated: {}}, {not_id: {authenticated: {}}}]}}]}}}",
}
BOOTSTRAP = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: ${ADMIN}}}}
static_resources:
  listeners:
  - name: opaque
    address: {socket_address: {address: 127.0.0.1, port_value: ${LISTEN}}}
    listener_filters:
    - name: tls
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}
    filter_chains: [CHAINS]
  clusters:
  - name: a
    load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${A}}}}}]}]}
"""
CHAIN = """
    {name: CHAIN, filter_chain_match: {server_names: [CHAIN.test]}, filters: [
      {name: rbac, typed_config: {
        "@type": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: CHAIN, RULES}},
      {name: tcp, typed_config: {
        "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy,
        stat_prefix: tcp, cluster: a, access_log: [{name: file, typed_config: {
          "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog,
          path: "FOLDER/${LISTEN}",
          log_format: {text_format_source: {inline_string:
            "%REQUESTED_SERVER_NAME%|%CONNECTION_TERMINATION_DETAILS%|%RESPONSE_FLAGS%|%BYTES_SENT%\\n"}}}}]}}]}"""


class Greeting(socketserver.BaseRequestHandler):
    """Says a word when it is spoken to, and ends."""

    def handle(self) -> None:
        """See BaseRequestHandler."""
        if self.request.recv(1):
            self.request.sendall(b"welcome")


def hello(name: str) -> bytes:
    """A ClientHello that asks for `name`."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def heard(side: Side, name: str) -> bytes:
    """What comes back for a ClientHello; nothing, where the connection is cut."""
    with socket.create_connection(("127.0.0.1", side.port), timeout=CLIENT_TIMEOUT) as sock:
        try:
            sock.sendall(hello(name))
            return sock.recv(100)
        except ConnectionError:
            return b""


# `tcp.rbac.denied: 1` of Envoy's page, `envoy_tcp_rbac_denied_total{…} 1.0` of the other.
_COUNTED = re.compile(r"^[\w.]*rbac\b.*?[._]((?:shadow_)?(?:allowed|denied))(?::|_total{.*}) (\d+)", re.MULTILINE)


def counted(side: Side) -> Counter[str]:
    """How many connections were decided upon, by what was decided."""
    page = "/stats?filter=rbac" if side.name == "envoy" else "/stats/prometheus"
    with urllib.request.urlopen(f"http://127.0.0.1:{side.admin}{page}", timeout=CLIENT_TIMEOUT) as answer:
        text = answer.read().decode().replace("envoy_tcp_rbac_", "rbac.")
    found: Counter[str] = Counter()
    for name, value in _COUNTED.findall(text):
        found[name] += int(value)
    return found


def test_both_keep_out_the_same_connections_for_the_same_reason(tmp_path: Path) -> None:
    chains = [CHAIN.replace("CHAIN", name).replace("RULES", rules) for name, rules in RULES.items()]
    text = BOOTSTRAP.replace("CHAINS", ",".join(chains)).replace("FOLDER", str(tmp_path))
    found = []
    upstream = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeting)
    with serving(upstream) as server, both_proxies(tmp_path, server, server, text) as sides:
        for side in sides:
            answers = {name: heard(side, f"{name}.test") for name in RULES}
            log = tmp_path / str(side.port)
            eventually_sync(
                lambda log=log: log.exists() and log.read_text().count("\n") >= len(RULES),  # type: ignore[misc]  # bound now
                what="a line for each connection",
                timeout=15.0,  # Envoy flushes every ten seconds
            )
            found.append((answers, sorted(log.read_text().splitlines()), counted(side)))
    assert found[1][0] == found[0][0]
    assert found[1][1] == found[0][1]
    assert found[1][2] == found[0][2] == {"allowed": 5, "denied": 8, "shadow_allowed": 0, "shadow_denied": 1}
    assert {name for name, answer in found[0][0].items() if not answer} == {
        "denied", "nobody", "port", "misnamed", "from", "behind", "authenticated", "not",
    }  # fmt: skip
    assert "denied.test|rbac_access_denied_matched_policy[of_all]|-|0" in found[0][1]
