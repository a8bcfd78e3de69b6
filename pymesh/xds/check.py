"""The check that refuses every xDS field that the table of supported fields (`support.py`) does not have."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, cast

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.stream.v3.stream_pb2 import StdoutAccessLog
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.http_inspector.v3.http_inspector_pb2 import HttpInspector
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import DecodeError, Message

from pymesh.errors import ConfigError
from pymesh.xds.support import SUPPORTED

# Every message that may stand in an `Any` or in a discovery response, by full name.
MESSAGES: Final[Mapping[str, type[Message]]] = {
    message.DESCRIPTOR.full_name: message
    for message in (
        Bootstrap, Listener, RouteConfiguration, Cluster, ClusterLoadAssignment,
        OriginalDst, TlsInspector, HttpInspector, HttpConnectionManager, TcpProxy, Router,
        DownstreamTlsContext, UpstreamTlsContext, RawBuffer,
        HttpProtocolOptions, PreviousHostsPredicate, FileAccessLog, StdoutAccessLog,
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


def problems(message: Message, path: str = "") -> Iterator[ConfigError]:
    """Everything set in `message` that is not supported, one error each; see `check`."""
    yield from _walk(message, path, MAX_DEPTH)


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


def _walk(message: Message, path: str, depth: int) -> Iterator[ConfigError]:
    name = message.DESCRIPTOR.full_name
    if depth == 0:
        yield ConfigError(f"nested more than {MAX_DEPTH} levels deep", path=path)
    elif isinstance(message, AnyMessage):
        try:
            yield from _walk(unpack(message, path), path, depth - 1)
        except ConfigError as error:
            yield error
    elif name.startswith(_VALUES) or _may_be_left_out(message):
        return
    elif name not in SUPPORTED:
        yield ConfigError(f"the message {name} is not supported; see docs/support.md", path=path)
    else:
        yield from _walk_fields(message, path, depth)


def _walk_fields(message: Message, path: str, depth: int) -> Iterator[ConfigError]:
    support = SUPPORTED[message.DESCRIPTOR.full_name]
    names = support.names
    for descriptor, value in message.ListFields():
        here = join(path, descriptor.name)
        if descriptor.name not in names:
            yield ConfigError("this field is not supported; see docs/support.md", path=here)
        elif descriptor.enum_type is not None:
            yield from _check_enum(descriptor.enum_type, value, support.only.get(descriptor.name, ()), here)
        elif descriptor.message_type is not None and descriptor.name not in support.opaque:
            for inner_path, inner in _messages(value, here):
                yield from _walk(inner, inner_path, depth - 1)


def _may_be_left_out(message: Message) -> bool:
    """Whether this is an HTTP filter that is not known and need not be (HttpFilter.is_optional)."""
    return isinstance(message, HttpFilter) and message.is_optional and message.typed_config.TypeName() not in MESSAGES


def _check_enum(enum: EnumDescriptor, value: int, allowed: tuple[str, ...], path: str) -> Iterator[ConfigError]:
    """An enum's value has to be a known one, and one of `allowed` unless that is empty."""
    known = enum.values_by_number.get(value)
    if known is None:
        yield ConfigError(f"{value} is not a value of {enum.name}", path=path)
    elif allowed and known.name not in allowed:
        yield ConfigError(f"{known.name} is not supported; supported: {', '.join(allowed)}", path=path)


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
