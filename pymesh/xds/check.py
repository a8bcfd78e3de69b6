"""The check that refuses every xDS field that the table of supported fields (`support.py`) does not have."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, cast

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig
from envoy.extensions.access_loggers.stream.v3.stream_pb2 import StdoutAccessLog
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtAuthentication
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.http_inspector.v3.http_inspector_pb2 import HttpInspector
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkRBAC  # noqa: N811 - there are two
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.path.match.uri_template.v3.uri_template_match_pb2 import UriTemplateMatchConfig
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from xds.type.v3.typed_struct_pb2 import TypedStruct

from pymesh.errors import ConfigError
from pymesh.steps import Steps
from pymesh.xds.support import SUPPORTED, Support

# Every message that may stand in an `Any` or in a discovery response, by full name.
MESSAGES: Final[Mapping[str, type[Message]]] = {
    message.DESCRIPTOR.full_name: message
    for message in (
        Bootstrap, Listener, RouteConfiguration, Cluster, ClusterLoadAssignment,
        OriginalDst, TlsInspector, HttpInspector, HttpConnectionManager, TcpProxy, Router, ExtAuthz, JwtAuthentication,
        RBAC, NetworkRBAC, UriTemplateMatchConfig, TypedStruct,
        DownstreamTlsContext, UpstreamTlsContext, RawBuffer,
        HttpProtocolOptions, PreviousHostsPredicate, FileAccessLog, StdoutAccessLog,
        HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig, OpenTelemetryConfig,
    )
}  # fmt: skip

# Well-known messages that are values (wrappers, durations, structs): nothing inside them is a field of its own.
_VALUES: Final = "google.protobuf."

# Deeper than any supported configuration; a protobuf parser stops at 100 levels itself, but an Any starts anew.
MAX_DEPTH: Final = 50


def check(message: Message, path: str = "") -> None:
    """Refuse `message` if anything set in it, at any depth, is not supported.

    Args:
        message: any message of the table.
        path: where `message` stands, put before the path of the field in question.

    Raises:
        ConfigError: with the full path of the first such field.
    """
    for problem in problems(message, path):
        raise problem


def checking(message: Message, path: str = "", levels: int = 2) -> Steps[None]:
    """`check` in steps, one for each message that is nested in `message` so many levels deep, whatever is below it."""
    if not levels or message.DESCRIPTOR.full_name not in SUPPORTED or _may_be_left_out(message):
        check(message, path)
        return
    support = SUPPORTED[message.DESCRIPTOR.full_name]
    for descriptor, value in message.ListFields():
        nested = descriptor.message_type is not None and descriptor.name not in support.opaque
        if nested and descriptor.name in support.names:
            for inner_path, inner in _messages(value, join(path, descriptor.name)):
                yield from checking(inner, inner_path, levels - 1)
                yield
        elif problem := _field_problem(descriptor, value, support, path):
            raise problem


def problems(message: Message, path: str = "") -> list[ConfigError]:
    """Everything set in `message` that is not supported, one error each; see `check`."""
    found: list[ConfigError] = []
    _walk(message, path, MAX_DEPTH, found)
    return found


def unpack(packed: AnyMessage, path: str) -> Message:
    """The message inside `packed`.

    Raises:
        ConfigError: its type is not supported, or the bytes are not a message of that type.
    """
    name = packed.TypeName()
    if name not in MESSAGES:
        raise ConfigError(f"the type {packed.type_url!r} is not supported; see docs/support.md", path=path)
    message = MESSAGES[name]()
    try:
        message.ParseFromString(packed.value)
    except DecodeError as error:
        raise ConfigError(f"these bytes are not a {name}: {error}", path=path) from error
    return message


def join(path: str, name: str) -> str:
    """`path` and the field `name` below it."""
    return f"{path}.{name}" if path else name


def _walk(message: Message, path: str, depth: int, found: list[ConfigError]) -> None:
    """Append to `found` what is wrong with `message`. Every resource of every proxy comes through here."""
    name = message.DESCRIPTOR.full_name
    if depth == 0:
        found.append(ConfigError(f"nested more than {MAX_DEPTH} levels deep", path=path))
    elif isinstance(message, AnyMessage):
        try:
            inner = unpack(message, path)
        except ConfigError as error:
            found.append(error)
        else:
            _walk(inner, path, depth - 1, found)
    elif name.startswith(_VALUES) or _may_be_left_out(message):
        return
    elif name not in SUPPORTED:
        found.append(ConfigError(f"the message {name} is not supported; see docs/support.md", path=path))
    else:
        _walk_fields(message, SUPPORTED[name], path, depth, found)


def _walk_fields(message: Message, support: Support, path: str, depth: int, found: list[ConfigError]) -> None:
    for descriptor, value in message.ListFields():
        field = descriptor.name
        if problem := _field_problem(descriptor, value, support, path):
            found.append(problem)
        elif descriptor.message_type is not None and field not in support.opaque:
            for inner_path, inner in _messages(value, join(path, field)):
                _walk(inner, inner_path, depth - 1, found)


def _field_problem(descriptor: FieldDescriptor, value: object, support: Support, path: str) -> ConfigError | None:
    """What is wrong with one field, whatever is inside it."""
    field = descriptor.name
    if field not in support.names:
        return ConfigError("this field is not supported; see docs/support.md", path=join(path, field))
    if descriptor.enum_type is not None:
        problem = _enum_problem(descriptor.enum_type, cast("int", value), support.only.get(field, ()))
        if problem:
            return ConfigError(problem, path=join(path, field))
    return None


def _may_be_left_out(message: Message) -> bool:
    """Whether this is an HTTP filter that is not known and need not be (HttpFilter.is_optional)."""
    return isinstance(message, HttpFilter) and message.is_optional and message.typed_config.TypeName() not in MESSAGES


def _enum_problem(enum: EnumDescriptor, value: int, allowed: tuple[str, ...]) -> str:
    """What is wrong with an enum's value: it is not a known one, or not in `allowed`, where that is not empty."""
    known = enum.values_by_number.get(value)
    if known is None:
        return f"{value} is not a value of {enum.name}"
    if allowed and known.name not in allowed:
        return f"{known.name} is not supported; supported: {', '.join(allowed)}"
    return ""


def _messages(value: object, path: str) -> Iterator[tuple[str, Message]]:
    """The messages in a message field's value, single, repeated or a map, with their paths."""
    if isinstance(value, Message):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in sorted(value.items()):
            if isinstance(inner, Message):
                yield f'{path}["{key}"]', inner
    else:
        for index, inner in enumerate(cast("Iterable[Message]", value)):
            yield f"{path}[{index}]", inner
