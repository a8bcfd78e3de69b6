"""envoy HttpConnectionManager → HttpManager."""

from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpFilter as HttpFilterMessage,
)
from google.protobuf.message import Message
from xds.type.v3.typed_struct_pb2 import TypedStruct

from pymesh.errors import ConfigError
from pymesh.policy_api import FILTER_TYPE
from pymesh.xds import types
from pymesh.xds.check import join, unpack
from pymesh_proxy.config.access_logs import access_logs
from pymesh_proxy.config.ext_authz import ext_authz
from pymesh_proxy.config.fields import flag, header_value, network, number, one_of, required, timeout
from pymesh_proxy.config.model import EscapedSlashes, ForwardClientCert, HttpManager, ServerHeader
from pymesh_proxy.config.policy_filter import policy_filter
from pymesh_proxy.config.python_filter import PYTHON_TYPE, python_filter
from pymesh_proxy.config.rbac import rbac
from pymesh_proxy.config.routes import Context, compile_routes
from pymesh_proxy.config.tracing import tracing
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.routing import RouteTable

# Filters that Envoy has no message for, by the type that their TypedStruct says it is.
TYPED_STRUCTS: Final[Mapping[str, Callable[[TypedStruct, str], HttpFilter]]] = {
    FILTER_TYPE: policy_filter,
    PYTHON_TYPE: python_filter,
}


def _typed_struct(message: Message, path: str) -> HttpFilter:
    assert isinstance(message, TypedStruct)
    compile_filter = TYPED_STRUCTS.get(message.type_url)
    if compile_filter is None:
        problem = f"the type {message.type_url!r} is not supported in a TypedStruct; {', '.join(TYPED_STRUCTS)} are"
        raise ConfigError(problem, path=join(path, "type_url"))
    return compile_filter(message, path)


def _jwt_authn(message: Message, path: str) -> HttpFilter:
    """Loaded with the first such filter: most proxies see no tokens."""
    from pymesh_proxy.config.jwt_authn import jwt_authn

    return jwt_authn(message, path)


# Type of a filter's configuration -> what compiles it, given the message and its path. A new filter is a line here, one
# in pymesh/xds/support.py and one in pymesh/xds/check.py. The router is the end of every chain and not a hook.
HTTP_FILTERS: Final[Mapping[str, Callable[[Message, str], HttpFilter]]] = {
    types.EXT_AUTHZ: ext_authz,
    types.JWT_AUTHN: _jwt_authn,
    types.RBAC: rbac,
    types.TYPED_STRUCT: _typed_struct,
}

_SERVER_HEADER: Final = {
    HttpConnectionManager.OVERWRITE: ServerHeader.OVERWRITE,
    HttpConnectionManager.APPEND_IF_ABSENT: ServerHeader.APPEND_IF_ABSENT,
    HttpConnectionManager.PASS_THROUGH: ServerHeader.PASS_THROUGH,
}
_CLIENT_CERT: Final = {
    HttpConnectionManager.SANITIZE: ForwardClientCert.SANITIZE,
    HttpConnectionManager.FORWARD_ONLY: ForwardClientCert.FORWARD_ONLY,
    HttpConnectionManager.APPEND_FORWARD: ForwardClientCert.APPEND_FORWARD,
    HttpConnectionManager.SANITIZE_SET: ForwardClientCert.SANITIZE_SET,
    HttpConnectionManager.ALWAYS_FORWARD_ONLY: ForwardClientCert.ALWAYS_FORWARD_ONLY,
}
_ESCAPED_SLASHES: Final = {
    HttpConnectionManager.IMPLEMENTATION_SPECIFIC_DEFAULT: EscapedSlashes.KEEP,
    HttpConnectionManager.KEEP_UNCHANGED: EscapedSlashes.KEEP,
    HttpConnectionManager.REJECT_REQUEST: EscapedSlashes.REJECT,
    HttpConnectionManager.UNESCAPE_AND_REDIRECT: EscapedSlashes.UNESCAPE_REDIRECT,
    HttpConnectionManager.UNESCAPE_AND_FORWARD: EscapedSlashes.UNESCAPE_FORWARD,
}

# Envoy's bounds for max_request_headers_kb.
_DEFAULT_HEADERS_KB: Final = 60
_MAX_HEADERS_KB: Final = 8192


def http_manager(message: HttpConnectionManager, context: Context, path: str) -> HttpManager:
    """The connection manager.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    routes, rds = _routes(message, context, path)
    traced = tracing(message.tracing, join(path, "tracing")) if message.HasField("tracing") else None
    common = message.common_http_protocol_options
    common_path = join(path, "common_http_protocol_options")
    return HttpManager(
        stat_prefix=required(message.stat_prefix, join(path, "stat_prefix")),
        routes=routes,
        rds=rds,
        filters=_filters(message, path) + context.filters,
        server_name=header_value(message.server_name or "envoy", join(path, "server_name")),
        via=header_value(message.via, join(path, "via")).encode(),
        server_header=_SERVER_HEADER[message.server_header_transformation],
        use_remote_address=flag(message, "use_remote_address", default=False),
        xff_num_trusted_hops=message.xff_num_trusted_hops,
        internal_networks=_internal_networks(message, join(path, "internal_address_config")),
        skip_xff_append=message.skip_xff_append,
        generate_request_id=flag(message, "generate_request_id", default=True),
        preserve_external_request_id=message.preserve_external_request_id,
        always_set_request_id_in_response=message.always_set_request_id_in_response,
        forward_client_cert=_CLIENT_CERT[message.forward_client_cert_details],
        client_cert_details=_client_cert_details(message),
        idle_timeout=timeout(common, "idle_timeout", 3600.0, common_path),
        stream_idle_timeout=timeout(message, "stream_idle_timeout", 300.0, path),
        request_timeout=timeout(message, "request_timeout", None, path),
        request_headers_timeout=timeout(message, "request_headers_timeout", None, path),
        max_connection_duration=timeout(common, "max_connection_duration", None, common_path),
        max_requests_per_connection=number(common, "max_requests_per_connection", 0) or None,
        drain_timeout=timeout(message, "drain_timeout", 5.0, path) or 0.0,
        max_request_headers_bytes=_headers_kb(message, path) * 1024,
        max_headers_count=_headers_count(common, common_path),
        accept_http_10=message.http_protocol_options.accept_http_10,
        default_host_for_http_10=message.http_protocol_options.default_host_for_http_10,
        normalize_path=flag(message, "normalize_path", default=False),
        merge_slashes=message.merge_slashes,
        escaped_slashes=_ESCAPED_SLASHES[message.path_with_escaped_slashes_action],
        strip_matching_host_port=message.strip_matching_host_port,
        upgrades=_upgrades(message),
        access_logs=access_logs(message.access_log, join(path, "access_log")) + (() if traced is None else (traced,)),
        tracing=traced,
    )


def _routes(message: HttpConnectionManager, context: Context, path: str) -> tuple[RouteTable | None, str]:
    """The table where it is given inline; else None, and the name under which RDS has it."""
    if one_of(message, "route_specifier", path) == "rds":
        return None, required(message.rds.route_config_name, join(path, "rds.route_config_name"))
    return compile_routes(message.route_config, context, join(path, "route_config"), inline=True), ""


def _internal_networks(message: HttpConnectionManager, path: str) -> tuple[IPv4Network | IPv6Network, ...]:
    ranges = message.internal_address_config.cidr_ranges
    return tuple(network(cidr, f"{path}.cidr_ranges[{index}]") for index, cidr in enumerate(ranges))


def _client_cert_details(message: HttpConnectionManager) -> frozenset[str]:
    """The keys of x-forwarded-client-cert that are set besides `By` and `Hash`."""
    details = message.set_current_client_cert_details
    wanted = {"subject": details.subject.value, "dns": details.dns, "uri": details.uri}
    return frozenset(name for name, is_wanted in wanted.items() if is_wanted)


def _upgrades(message: HttpConnectionManager) -> frozenset[str]:
    return frozenset(
        config.upgrade_type.lower() for config in message.upgrade_configs if flag(config, "enabled", default=True)
    )


def _filters(message: HttpConnectionManager, path: str) -> tuple[HttpFilter, ...]:
    """The filters before the router, which has to be the last. Several may have one name, as in Istio."""
    path = join(path, "http_filters")
    found: list[HttpFilter] = []
    last = len(message.http_filters) - 1
    if last < 0:
        raise ConfigError("the router, envoy.filters.http.router, is required as the last filter", path=path)
    for index, entry in enumerate(message.http_filters):
        here = f"{path}[{index}]"
        required(entry.name, join(here, "name"))
        is_router = entry.typed_config.type_url == types.HTTP_ROUTER
        if is_router is not (index == last):
            raise ConfigError("the router, envoy.filters.http.router, must be the last filter", path=here)
        if not is_router:
            found.extend(_filter(entry, here))
    return tuple(found)


def _filter(entry: HttpFilterMessage, path: str) -> tuple[HttpFilter, ...]:
    compile_filter = HTTP_FILTERS.get(entry.typed_config.type_url)
    if compile_filter is None:
        if entry.is_optional:
            return ()
        raise ConfigError(f"the HTTP filter {entry.name!r} is not supported; see docs/support.md", path=path)
    here = join(path, "typed_config")
    compiled = compile_filter(unpack(entry.typed_config, here), here)
    return () if entry.disabled else (compiled,)


def _headers_kb(message: HttpConnectionManager, path: str) -> int:
    kilobytes = number(message, "max_request_headers_kb", _DEFAULT_HEADERS_KB)
    if not 0 < kilobytes <= _MAX_HEADERS_KB:
        raise ConfigError(f"must be 1 to {_MAX_HEADERS_KB}", path=join(path, "max_request_headers_kb"))
    return kilobytes


def _headers_count(common: HttpProtocolOptions, path: str) -> int:
    count = number(common, "max_headers_count", 100)
    if not count:
        raise ConfigError("must be at least 1", path=join(path, "max_headers_count"))
    return count
