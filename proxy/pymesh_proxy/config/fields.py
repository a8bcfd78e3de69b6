"""Small readings that every compiled message needs: durations, wrappers, data sources, addresses, metadata."""

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final

from envoy.config.core.v3.address_pb2 import Address, CidrRange
from envoy.config.core.v3.base_pb2 import DataSource, Metadata
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from pymesh.errors import ConfigError
from pymesh.xds.check import join

# A certificate chain or a direct response's body; more than this in memory of every sidecar is a mistake.
MAX_FILE_BYTES: Final = 1024 * 1024

# Printable text, tabs and what is not ASCII; no other control characters (RFC 9110 section 5.5).
_HEADER_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")

# Envoy's own ceiling for durations is far higher; past a century something else was meant.
_MAX_SECONDS: Final = 100 * 366 * 86_400


def duration(value: Duration, path: str) -> float:
    """Seconds, not negative."""
    seconds = value.seconds + value.nanos / 1e9
    if not 0 <= seconds <= _MAX_SECONDS:
        raise ConfigError(f"a duration of {seconds:g} seconds is out of range", path=path)
    return seconds


def timeout(message: Message, field: str, default: float | None, path: str) -> float | None:
    """The duration `field` of `message`: `default` where it is not set, None (without limit) where it is 0."""
    if not message.HasField(field):
        return default
    return duration(getattr(message, field), join(path, field)) or None


def positive(message: Message, field: str, default: float, path: str) -> float:
    """The duration `field` of `message`, above 0; `default` where it is not set."""
    if not message.HasField(field):
        return default
    seconds = duration(getattr(message, field), join(path, field))
    if not seconds:
        raise ConfigError("must be above 0", path=join(path, field))
    return seconds


def flag(message: Message, field: str, *, default: bool) -> bool:
    """The BoolValue `field` of `message`, or `default` where it is not set."""
    return bool(getattr(message, field).value) if message.HasField(field) else default


def number(message: Message, field: str, default: int) -> int:
    """The UInt32Value `field` of `message`, or `default` where it is not set."""
    return int(getattr(message, field).value) if message.HasField(field) else default


def required(value: str, path: str) -> str:
    """`value`, unless it is empty."""
    if not value:
        raise ConfigError("is required", path=path)
    return value


def header_value(text: str, path: str) -> str:
    """`text` if it may stand in a header; a ConfigError otherwise."""
    if not _HEADER_VALUE.fullmatch(text):
        raise ConfigError("control characters are not allowed in a header value", path=path)
    return text


def one_of(message: Message, group: str, path: str) -> str:
    """Which field of the oneof `group` is set; it is an error if none is."""
    name = message.WhichOneof(group)
    if name is None:
        names = ", ".join(field.name for field in message.DESCRIPTOR.oneofs_by_name[group].fields)
        raise ConfigError(f"one of these is required: {names}", path=path)
    return str(name)


def data(source: DataSource, path: str) -> bytes:
    """The bytes that a data source stands for, files read now."""
    which = one_of(source, "specifier", path)
    if which == "inline_bytes":
        return source.inline_bytes
    if which == "inline_string":
        return source.inline_string.encode()
    file = Path(source.filename)
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", path=join(path, "filename")) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{file} is larger than {MAX_FILE_BYTES} bytes", path=join(path, "filename"))
    return content


def socket_address(address: Address, path: str) -> tuple[str, int]:
    """Host (an IP address or a name) and port."""
    one_of(address, "address", path)
    here = join(path, "socket_address")
    sock = address.socket_address
    if sock.port_value > 65_535:
        raise ConfigError(f"{sock.port_value} is not a port", path=join(here, "port_value"))
    return required(sock.address, join(here, "address")), sock.port_value


def ip(host: str, path: str) -> str:
    """`host` if it is an IP address, in its usual spelling."""
    try:
        return str(ip_address(host))
    except ValueError as error:
        raise ConfigError(f"{host!r} is not an IP address", path=path) from error


def network(cidr: CidrRange, path: str) -> IPv4Network | IPv6Network:
    """A network; bits of the address below the prefix are ignored, as in Envoy."""
    try:
        return ip_network(f"{cidr.address_prefix}/{cidr.prefix_len.value}", strict=False)
    except ValueError as error:
        raise ConfigError(str(error), path=path) from error


def metadata(message: Metadata, namespace: str) -> Mapping[str, str]:
    """The strings, numbers and booleans under `namespace` of filter metadata, as strings."""
    return scalars(message.filter_metadata[namespace]) if namespace in message.filter_metadata else {}


def scalars(struct: Struct) -> dict[str, str]:
    """The fields of `struct` that are one value each: booleans as true/false, whole numbers without a point."""
    found: dict[str, str] = {}
    for key, value in sorted(struct.fields.items()):
        match value.WhichOneof("kind"):
            case "string_value":
                found[key] = value.string_value
            case "bool_value":
                found[key] = "true" if value.bool_value else "false"
            case "number_value":
                found[key] = f"{value.number_value:.17g}"
    return found


def grpc_cluster(service: GrpcService, path: str, *, timed: bool = False) -> str:
    """The cluster of a gRPC service; `timeout` and `authority` are refused unless the calls are `timed`."""
    which = one_of(service, "target_specifier", path)
    if service.HasField("timeout") and not timed:
        raise ConfigError("is supported for ext_authz only", path=join(path, "timeout"))
    if service.envoy_grpc.authority and not timed:
        raise ConfigError("is supported for ext_authz only", path=join(path, f"{which}.authority"))
    return required(service.envoy_grpc.cluster_name, join(path, f"{which}.cluster_name"))
