"""Type URLs of the xDS resources, as they stand in DiscoveryRequest.type_url and in `Any`.

Source: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-types
"""

from typing import Final

PREFIX: Final = "type.googleapis.com/"

LISTENER: Final = PREFIX + "envoy.config.listener.v3.Listener"
ROUTE: Final = PREFIX + "envoy.config.route.v3.RouteConfiguration"
CLUSTER: Final = PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT: Final = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET: Final = PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"

HTTP_CONNECTION_MANAGER: Final = (
    PREFIX + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
TCP_PROXY: Final = PREFIX + "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
EXT_AUTHZ: Final = PREFIX + "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
JWT_AUTHN: Final = PREFIX + "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
RBAC: Final = PREFIX + "envoy.extensions.filters.http.rbac.v3.RBAC"
NETWORK_RBAC: Final = PREFIX + "envoy.extensions.filters.network.rbac.v3.RBAC"
URI_TEMPLATE: Final = PREFIX + "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
HTTP_ROUTER: Final = PREFIX + "envoy.extensions.filters.http.router.v3.Router"
ORIGINAL_DST: Final = PREFIX + "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
TLS_INSPECTOR: Final = PREFIX + "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
HTTP_INSPECTOR: Final = PREFIX + "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
DOWNSTREAM_TLS: Final = PREFIX + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
UPSTREAM_TLS: Final = PREFIX + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
RAW_BUFFER: Final = PREFIX + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
FILE_ACCESS_LOG: Final = PREFIX + "envoy.extensions.access_loggers.file.v3.FileAccessLog"
STDOUT_ACCESS_LOG: Final = PREFIX + "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
HTTP_PROTOCOL_OPTIONS: Final = PREFIX + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
TYPED_STRUCT: Final = PREFIX + "xds.type.v3.TypedStruct"


def short(type_url: str) -> str:
    """The last part of a type URL, for people: `Listener`, `ClusterLoadAssignment`."""
    return type_url.rpartition(".")[2]
