"""The listeners of a gateway: which chain takes which connection, and what it does with TLS."""

from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsParameters
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext

from pymesh.xds import types
from tests.controlplane.pilot.chains import chain_for
from tests.controlplane.pilot.gateway_worlds import HTTP, edge, gateway, virtual

PAGE = "outbound|9080||productpage.default.svc.cluster.local"


def server(host: str, tls: str, *, protocol: str = "HTTPS", name: str = "x") -> str:
    return f"{{port: {{number: 443, name: {name}, protocol: {protocol}}}, hosts: ['{host}'], tls: {{{tls}}}}}"


def listeners(*manifests: str) -> dict[str, Listener]:
    found = edge(*manifests)[types.LISTENER]
    return {name: message for name, message in found.items() if isinstance(message, Listener)}


def manager(chain: FilterChain) -> HttpConnectionManager:
    return HttpConnectionManager.FromString(chain.filters[0].typed_config.value)


def context(chain: FilterChain) -> DownstreamTlsContext:
    return DownstreamTlsContext.FromString(chain.transport_socket.typed_config.value)


def tls_routes(sni: str, hosts: str) -> str:
    route = f"{{match: [{{sniHosts: [{sni}]}}], route: [{{destination: {{host: productpage}}}}]}}"
    return virtual(hosts).replace("http: [{route: [{destination: {host: productpage.default.svc.cluster.local}}]}]",
                                  f"tls: [{route}]")  # fmt: skip


def test_plain_http_believes_nothing_from_outside() -> None:
    (listener,) = listeners(gateway(HTTP)).values()
    assert (listener.name, listener.address.socket_address.port_value) == ("0.0.0.0_8080", 8080)
    (chain,) = listener.filter_chains
    http = manager(chain)
    assert http.rds.route_config_name == "http.8080"
    assert http.use_remote_address.value
    assert http.forward_client_cert_details == HttpConnectionManager.SANITIZE
    assert not http.preserve_external_request_id
    assert http.always_set_request_id_in_response


def test_servers_are_told_apart_by_the_name_that_clients_ask_for() -> None:
    (listener,) = listeners(
        gateway(
            server("www.example.com", "mode: SIMPLE, credentialName: a", name="a"),
            server("*.example.com", "mode: SIMPLE, credentialName: b", name="b"),
        )
    ).values()
    taken = chain_for(listener, 8443, tls=True, server_name="www.example.com")
    assert taken.name == "https.443.a.edge.default"
    assert context(taken).common_tls_context.tls_certificate_sds_secret_configs[0].name == "kubernetes://a"
    other = chain_for(listener, 8443, tls=True, server_name="other.example.com")
    assert other.name == "https.443.b.edge.default"
    assert not chain_for(listener, 8443, tls=True, server_name="nobody.org").filters
    assert not chain_for(listener, 8443).filters  # plain text on a port with TLS


def test_a_server_for_any_host_takes_clients_that_name_none() -> None:
    (listener,) = listeners(gateway(server("*", "mode: SIMPLE, credentialName: a"))).values()
    assert chain_for(listener, 8443, tls=True).name == "https.443.x.edge.default"


def test_mutual_demands_a_certificate_and_tells_of_it() -> None:
    settings = "mode: MUTUAL, credentialName: a, subjectAltNames: [client.example.com], minProtocolVersion: TLSV1_3"
    (listener,) = listeners(gateway(server("*", settings))).values()
    found = context(listener.filter_chains[0])
    assert found.require_client_certificate.value
    combined = found.common_tls_context.combined_validation_context
    assert combined.validation_context_sds_secret_config.name == "kubernetes://a-cacert"
    (accepted,) = combined.default_validation_context.match_typed_subject_alt_names
    assert accepted.matcher.exact == "client.example.com"
    assert found.common_tls_context.tls_params.tls_minimum_protocol_version == TlsParameters.TLSv1_3
    assert manager(listener.filter_chains[0]).forward_client_cert_details == HttpConnectionManager.SANITIZE_SET


def test_the_meshs_own_clients_keep_their_request_ids() -> None:
    (listener,) = listeners(gateway(server("*", "mode: ISTIO_MUTUAL"))).values()
    assert manager(listener.filter_chains[0]).preserve_external_request_id
    names = context(listener.filter_chains[0]).common_tls_context.tls_certificate_sds_secret_configs
    assert [config.name for config in names] == ["default"]


def test_tls_passes_through_by_server_name_to_where_the_routes_say() -> None:
    (listener,) = listeners(
        gateway(server("*.example.com", "mode: PASSTHROUGH", protocol="TLS")),
        tls_routes("a.example.com, b.example.org", "['*.example.com', b.example.org]"),
    ).values()
    (chain,) = listener.filter_chains
    assert list(chain.filter_chain_match.server_names) == ["a.example.com"]
    assert TcpProxy.FromString(chain.filters[0].typed_config.value).cluster == PAGE
    assert not chain.HasField("transport_socket")


def test_a_server_name_goes_to_the_first_that_has_it() -> None:
    (listener,) = listeners(
        gateway(server("*.example.com", "mode: PASSTHROUGH", protocol="TLS")),
        tls_routes("a.example.com", "[a.example.com]"),
        tls_routes("a.example.com, b.example.com", "['*.example.com']").replace("front", "later"),
    ).values()
    assert [list(chain.filter_chain_match.server_names) for chain in listener.filter_chains] == [
        ["a.example.com"],
        ["b.example.com"],
    ]


def test_a_name_that_is_opened_here_does_not_pass_through() -> None:
    """Two chains for one name would make Envoy refuse the listener."""
    (listener,) = listeners(
        gateway(
            server("*.example.com", "mode: PASSTHROUGH", protocol="TLS", name="a"),
            server("www.example.com", "mode: SIMPLE, credentialName: web", name="b"),
        ),
        tls_routes("www.example.com, api.example.com", "['*.example.com']"),
    ).values()
    assert sorted(list(chain.filter_chain_match.server_names) for chain in listener.filter_chains) == [
        ["api.example.com"],
        ["www.example.com"],
    ]


def test_where_nothing_is_routed_there_is_no_listener() -> None:
    assert listeners(gateway(server("*.example.com", "mode: PASSTHROUGH", protocol="TLS"))) == {}


def test_once_the_meshs_tls_has_ended_connections_are_routed_too() -> None:
    route = "tcp: [{route: [{destination: {host: productpage}}]}]"
    (listener,) = listeners(
        gateway(server("a.example.com", "mode: ISTIO_MUTUAL", protocol="TLS")),
        virtual("[a.example.com]").replace(
            "http: [{route: [{destination: {host: productpage.default.svc.cluster.local}}]}]", route
        ),
    ).values()
    (chain,) = listener.filter_chains
    assert list(chain.filter_chain_match.server_names) == ["a.example.com"]
    assert context(chain).require_client_certificate.value
    assert TcpProxy.FromString(chain.filters[0].typed_config.value).cluster == PAGE
