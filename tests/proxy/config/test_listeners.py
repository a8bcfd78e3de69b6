"""Listeners, filter chains, connection managers, TCP proxies and access logs."""

from ipaddress import ip_network

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener as ListenerMessage
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from google.protobuf.any_pb2 import Any as AnyMessage

from pymesh.errors import ConfigError
from pymesh_proxy.config.access_logs import DEFAULT_FORMAT
from pymesh_proxy.config.listeners import compile_listener
from pymesh_proxy.config.model import (
    AccessLogFile,
    Direction,
    EscapedSlashes,
    FilterChainMatch,
    ForwardClientCert,
    HttpManager,
    Listener,
    ServerHeader,
    TcpProxy,
)
from pymesh_proxy.config.routes import Context
from tests.support.xds import HCM, ROUTER, message

TCP = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
LISTENER_FILTERS = "type.googleapis.com/envoy.extensions.filters.listener"
FILE_LOG = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
STDOUT_LOG = "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
TO_A = f"{{name: t, typed_config: {{'@type': {TCP}, stat_prefix: t, cluster: a}}}}"


def compiled(text: str) -> Listener:
    return compile_listener(message(ListenerMessage, text), Context(lambda: 0.0, {"a"}.__contains__), "l")


def listener(rest: str) -> str:
    return f"name: l\naddress: {{socket_address: {{address: 0.0.0.0, port_value: 15001}}}}\n{rest}\n"


def with_filter(config: str) -> str:
    return listener(f"filter_chains: [{{filters: [{{name: f, typed_config: {config}}}]}}]")


def manager(options: str = "", routes: str = "route_config: {}", filters: str = ROUTER) -> str:
    return with_filter(f"{{'@type': {HCM}, stat_prefix: s, {routes}, http_filters: [{filters}] {options}}}")


def handled(text: str) -> HttpManager:
    found = compiled(text).chains[0].handler
    assert isinstance(found, HttpManager)
    return found


def proxied(options: str) -> TcpProxy:
    found = compiled(with_filter(f"{{'@type': {TCP}, stat_prefix: s, {options}}}")).chains[0].handler
    assert isinstance(found, TcpProxy)
    return found


def test_a_sidecar_listener() -> None:
    found = compiled(
        listener(f"""
traffic_direction: OUTBOUND
bind_to_port: false
listener_filters_timeout: 0s
continue_on_listener_filters_timeout: true
listener_filters:
- {{name: a, typed_config: {{'@type': {LISTENER_FILTERS}.original_dst.v3.OriginalDst}}}}
- {{name: b, typed_config: {{'@type': {LISTENER_FILTERS}.http_inspector.v3.HttpInspector}}}}
filter_chains:
- name: web
  filter_chain_match:
    destination_port: 80
    prefix_ranges: [{{address_prefix: 10.0.0.7, prefix_len: 8}}]
    application_protocols: [http/1.1]
  filters: [{TO_A}]
default_filter_chain: {{name: rest, transport_socket_connect_timeout: 2s, filters: [{TO_A}]}}
""")
    )
    assert (found.name, found.address, found.port, found.direction) == ("l", "0.0.0.0", 15001, Direction.OUTBOUND)
    assert (found.bind_to_port, found.use_original_dst, found.inspect_tls, found.inspect_http) == (
        False,
        True,
        False,
        True,
    )
    assert (found.inspect_timeout, found.inspect_timeout_continues) == (None, True)
    assert found.chains[0].match == FilterChainMatch(
        destination_port=80, prefix_ranges=(ip_network("10.0.0.0/8"),), application_protocols=("http/1.1",)
    )
    assert found.default_chain is not None
    assert (found.default_chain.name, found.default_chain.handshake_timeout) == ("rest", 2.0)


@pytest.mark.parametrize(
    ("match", "inspects"),
    [("{}", False), ("{transport_protocol: tls}", True), ("{server_names: [a.com, '*.b.com']}", True),
     ("{application_protocols: [istio]}", True), ("{destination_port: 5}", False)],
)  # fmt: skip
def test_tls_is_inspected_where_a_chain_cannot_be_chosen_without(match: str, inspects: bool) -> None:
    found = compiled(listener(f"filter_chains: [{{filter_chain_match: {match}, filters: [{TO_A}]}}]"))
    assert found.inspect_tls is inspects


def test_a_connection_manager_and_its_defaults() -> None:
    found = handled(manager(routes="rds: {config_source: {ads: {}}, route_config_name: '9080'}"))
    assert (found.rds, found.routes, found.filters) == ("9080", None, ())
    assert (found.server_name, found.server_header) == ("envoy", ServerHeader.OVERWRITE)
    assert (found.idle_timeout, found.stream_idle_timeout, found.request_timeout) == (3600.0, 300.0, None)
    assert (found.max_connection_duration, found.drain_timeout) == (None, 5.0)
    assert found.generate_request_id
    assert found.max_request_headers_bytes == 60 * 1024


def test_options_of_a_connection_manager() -> None:
    found = handled(
        manager(""",
            server_name: pymesh, via: 1.1 me, server_header_transformation: PASS_THROUGH, use_remote_address: true,
            xff_num_trusted_hops: 2, generate_request_id: false, stream_idle_timeout: 0s, request_timeout: 5s,
            forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {subject: true, uri: true},
            common_http_protocol_options: {idle_timeout: 0s, max_headers_count: 7, max_requests_per_connection: 8},
            http_protocol_options: {accept_http_10: true, default_host_for_http_10: x}, max_request_headers_kb: 8,
            upgrade_configs: [{upgrade_type: WebSocket}, {upgrade_type: off, enabled: false}], normalize_path: true,
            path_with_escaped_slashes_action: REJECT_REQUEST, merge_slashes: true, strip_matching_host_port: true""")
    )
    assert (found.server_name, found.server_header) == ("pymesh", ServerHeader.PASS_THROUGH)
    assert found.via == b"1.1 me"
    assert (found.use_remote_address, found.xff_num_trusted_hops, found.generate_request_id) == (True, 2, False)
    assert (found.idle_timeout, found.stream_idle_timeout, found.request_timeout) == (None, None, 5.0)
    assert found.forward_client_cert is ForwardClientCert.SANITIZE_SET
    assert found.client_cert_details == {"subject", "uri"}
    assert (found.max_headers_count, found.max_requests_per_connection, found.max_request_headers_bytes) == (7, 8, 8192)
    assert (found.accept_http_10, found.default_host_for_http_10, found.upgrades) == (True, "x", {"websocket"})
    assert found.escaped_slashes is EscapedSlashes.REJECT
    assert found.normalize_path
    assert found.merge_slashes
    assert found.strip_matching_host_port


def test_an_unknown_optional_filter_is_left_out() -> None:
    unknown = AnyMessage(type_url="type.googleapis.com/acme.Magic")
    listening = message(ListenerMessage, manager())
    packed = listening.filter_chains[0].filters[0].typed_config
    config = HttpConnectionManager.FromString(packed.value)
    config.http_filters.insert(0, HttpFilter(name="magic", typed_config=unknown, is_optional=True))
    packed.Pack(config)
    found = compile_listener(listening, Context(lambda: 0.0, {"a"}.__contains__)).chains[0].handler
    assert isinstance(found, HttpManager)
    assert found.filters == ()


def test_tcp_proxies() -> None:
    assert proxied("cluster: b").clusters == (("b", 1),)
    found = proxied(
        "weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: 3}]}, idle_timeout: 0s, "
        "max_connect_attempts: 3"
    )
    assert (found.clusters, found.idle_timeout, found.max_connect_attempts) == ((("a", 1), ("b", 3)), None, 3)


def test_access_logs() -> None:
    logs = f"""access_log: [
      {{typed_config: {{'@type': {FILE_LOG}, path: /a}}}},
      {{typed_config: {{'@type': {FILE_LOG}, path: /b, log_format: {{text_format_source: {{inline_string: x}}}}}}}},
      {{typed_config: {{'@type': {STDOUT_LOG}, log_format: {{json_format: {{k: '%PROTOCOL%'}}}}}}}},
      {{typed_config: {{'@type': {STDOUT_LOG}}}}}]"""
    assert proxied(f"cluster: a, {logs}").access_logs == (
        AccessLogFile("/a", DEFAULT_FORMAT), AccessLogFile("/b", "x"),
        AccessLogFile("/dev/stdout", {"k": "%PROTOCOL%"}), AccessLogFile("/dev/stdout", DEFAULT_FORMAT),
    )  # fmt: skip


def test_inline_routes_lead_to_clusters_that_exist() -> None:
    host = "{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: gone}}]}"
    with pytest.raises(ConfigError, match="there is no cluster 'gone'") as caught:
        compiled(manager(routes=f"route_config: {{virtual_hosts: [{host}]}}"))
    assert caught.value.path == (
        "l.filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].route.cluster"
    )


CHAIN = "l.filter_chains[0]"
FILTER = f"{CHAIN}.filters[0].typed_config"
ORIGINAL_DST = f"{{name: o, typed_config: {{'@type': {LISTENER_FILTERS}.original_dst.v3.OriginalDst}}}}"


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("{}", "l.name", "is required"),
        ("{name: l}", "l.address", "one of these is required"),
        ("{name: l, address: {socket_address: {address: '*', port_value: 1}}}", "l.filter_chains", "at least one"),
        (listener(f"filter_chains: [{{filters: [{TO_A}]}}]").replace("0.0.0.0", "localhost"),
         "l.address.socket_address.address", "not an IP address"),
        (listener(f"listener_filters: [{ORIGINAL_DST}, {ORIGINAL_DST}]"), "l.listener_filters[1]", "given twice"),
        (listener("listener_filters: [{name: nothing}]"), "l.listener_filters[0]", "'nothing' is not supported"),
        (listener("filter_chains: [{}]"), f"{CHAIN}.filters", "supported are an http_connection"),
        (listener(f"filter_chains: [{{filters: [{TO_A}, {TO_A}]}}]"), f"{CHAIN}.filters", "supported are an http_conn"),
        (listener(f"filter_chains: [{{filters: [{TO_A}]}}, {{filters: [{TO_A}]}}]"),
         "l.filter_chains[1].filter_chain_match", "another chain has the same match"),
        (listener(f"filter_chains: [{{name: n, filters: [{TO_A}]}}, {{name: n, filter_chain_match: {{destination_port:"
                  f" 5}}, filters: [{TO_A}]}}]"), "l.filter_chains[1].name", "given twice"),
        (listener(f"filter_chains: [{{filters: [{TO_A}], filter_chain_match: {{destination_port: 0}}}}]"),
         f"{CHAIN}.filter_chain_match.destination_port", "0 is not a port"),
        (listener(f"filter_chains: [{{filters: [{TO_A}], filter_chain_match: {{transport_protocol: quic}}}}]"),
         f"{CHAIN}.filter_chain_match.transport_protocol", "'quic' is not supported"),
        (listener(f"filter_chains: [{{filters: [{TO_A}], filter_chain_match: {{server_names: ['a.*']}}}}]"),
         f"{CHAIN}.filter_chain_match.server_names[0]", "is not a name"),
        (listener(f"filter_chains: [{{filters: [{TO_A}], "
                  "filter_chain_match: {prefix_ranges: [{address_prefix: x}]}}]"),
         f"{CHAIN}.filter_chain_match.prefix_ranges[0]", "'x/0'"),
        (with_filter(f"{{'@type': {TCP}, cluster: a}}"), f"{FILTER}.stat_prefix", "is required"),
        (with_filter(f"{{'@type': {TCP}, stat_prefix: s}}"), FILTER, "one of these is required: cluster"),
        (with_filter(f"{{'@type': {TCP}, stat_prefix: s, weighted_clusters: {{clusters: [{{name: a}}]}}}}"),
         f"{FILTER}.weighted_clusters.clusters[0].weight", "at least 1"),
        (with_filter(f"{{'@type': {TCP}, stat_prefix: s, cluster: a, max_connect_attempts: 0}}"),
         f"{FILTER}.max_connect_attempts", "at least 1"),
        (with_filter(f"{{'@type': {LISTENER_FILTERS}.original_dst.v3.OriginalDst}}"), f"{CHAIN}.filters", "supported"),
        (manager(filters=""), f"{FILTER}.http_filters", "the router"),
        (manager(filters=f"{ROUTER}, {ROUTER}"), f"{FILTER}.http_filters[0]", "must be the last"),
        (manager(filters=ROUTER.replace("router,", "'',")), f"{FILTER}.http_filters[0].name", "is required"),
        (manager(filters=f"{{name: x, typed_config: {{'@type': {TCP}}}}}, {ROUTER}"), f"{FILTER}.http_filters[0]",
         "the HTTP filter 'x' is not supported"),
        (manager(routes="rds: {config_source: {ads: {}}}"), f"{FILTER}.rds.route_config_name", "is required"),
        (manager(routes="server_name: x"), FILTER, "one of these is required: rds, route_config"),
        (manager(", max_request_headers_kb: 9000"), f"{FILTER}.max_request_headers_kb", "1 to 8192"),
        (manager(", common_http_protocol_options: {max_headers_count: 0}"),
         f"{FILTER}.common_http_protocol_options.max_headers_count", "at least 1"),
        (manager(f", access_log: [{{typed_config: {{'@type': {FILE_LOG}}}}}]"),
         f"{FILTER}.access_log[0].typed_config.path", "is required"),
        (manager(f", access_log: [{{typed_config: {{'@type': {TCP}}}}}]"),
         f"{FILTER}.access_log[0].typed_config", "a GrpcAccessLogConfig"),
        (manager(f", access_log: [{{typed_config: {{'@type': {STDOUT_LOG}, "
                 "log_format: {text_format_source: {inline_bytes: /w==}}}}]"),
         f"{FILTER}.access_log[0].typed_config.log_format.text_format_source", "not UTF-8"),
        (manager(f", access_log: [{{typed_config: {{'@type': {STDOUT_LOG}, log_format: {{}}}}}}]"),
         f"{FILTER}.access_log[0].typed_config.log_format", "one of these is required"),
        (manager(f", access_log: [{{typed_config: {{'@type': {STDOUT_LOG}, log_format: {{json_format: {{a: 5}}}}}}}}]"),
         f"{FILTER}.access_log[0].typed_config.log_format.json_format.a", "only strings"),
        (manager(f", access_log: [{{typed_config: {{'@type': {STDOUT_LOG}, "
                 "log_format: {json_format: {a: '%PROTOCOL%', b: '%NO%'}}}}]"),
         f"{FILTER}.access_log[0].typed_config.log_format.json_format.b", "character 1: unknown operator %NO%"),
        (manager(f", access_log: [{{typed_config: {{'@type': {STDOUT_LOG}, "
                 "log_format: {text_format_source: {inline_string: 'a %REQ%'}}}}]"),
         f"{FILTER}.access_log[0].typed_config.log_format.text_format_source", "character 3: %REQ% takes a"),
    ],
)  # fmt: skip
def test_refusals(text: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        compiled(text)
    assert caught.value.path == path
