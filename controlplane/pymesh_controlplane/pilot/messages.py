"""Small pieces that all xDS resources are made of."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2, grpc_service_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from pymesh.peer_metadata import ServiceFacts

# Key of our own metadata on routes, clusters and endpoints: where they come from, and what stands behind them.
METADATA: Final = "pymesh"
# Key of what Istio's telemetry reads: the workload behind an endpoint, the services of a cluster.
ISTIO_METADATA: Final = "istio"
# Key of the metadata by which a cluster picks the transport socket for an endpoint.
TRANSPORT_MATCH: Final = "envoy.transport_socket_match"


def packed(message: Message) -> AnyMessage:
    """`message` in an Any, with the same bytes every time."""
    box = AnyMessage()
    box.Pack(message, deterministic=True)
    return box


def duration(seconds: float) -> Duration:
    """`seconds`, to the nanosecond."""
    whole = int(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))


def socket_address(host: str, port: int) -> address_pb2.Address:
    """A TCP address."""
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def cidr_range(text: str) -> address_pb2.CidrRange:
    """The addresses that `10.0.0.0/8`, or one address alone, stands for."""
    message = address_pb2.CidrRange(address_prefix=text.partition("/")[0])
    message.prefix_len.value = ipaddress.ip_network(text, strict=False).prefixlen
    return message


def grpc_service(cluster: str, authority: str = "", timeout: float | None = None) -> grpc_service_pb2.GrpcService:
    """A gRPC service behind `cluster`; `timeout` is for each call, in seconds."""
    to = grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=cluster, authority=authority)
    return grpc_service_pb2.GrpcService(envoy_grpc=to, timeout=None if timeout is None else duration(timeout))


def with_wildcard(value: str, *, ignore_case: bool = False) -> string_pb2.StringMatcher:
    """`*a` matches what ends in a, `a*` what begins with it."""
    if value.startswith("*"):
        return string_pb2.StringMatcher(suffix=value[1:], ignore_case=ignore_case)
    if value.endswith("*"):
        return string_pb2.StringMatcher(prefix=value[:-1], ignore_case=ignore_case)
    return string_pb2.StringMatcher(exact=value, ignore_case=ignore_case)


def network_filters(listener: listener_pb2.Listener) -> Iterator[listener_components_pb2.Filter]:
    """Every network filter of every chain of `listener`, to be changed where it stands."""
    for chain in (*listener.filter_chains, listener.default_filter_chain):
        yield from chain.filters


def struct(values: Mapping[str, str]) -> Struct:
    """A flat Struct of strings."""
    message = Struct()
    for key in sorted(values):
        message.fields[key].string_value = values[key]
    return message


def metadata(by_filter: Mapping[str, Mapping[str, str]]) -> base_pb2.Metadata:
    """Metadata by filter name."""
    message = base_pb2.Metadata()
    for name, values in by_filter.items():
        fields = message.filter_metadata[name].fields
        for key, value in values.items():
            fields[key].string_value = value
    return message


def services_metadata(services: Iterable[ServiceFacts]) -> base_pb2.Metadata:
    """What a cluster is for: `istio: {services: [{host, name, namespace}]}`."""
    message = base_pb2.Metadata()
    values = message.filter_metadata[ISTIO_METADATA].fields["services"].list_value.values
    for service in services:
        fields = values.add().struct_value.fields
        for key, value in zip(service._fields, service, strict=True):
            fields[key].string_value = value
    return message


def ads() -> config_source_pb2.ConfigSource:
    """From the stream this came on."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.ApiVersion.V3,
        initial_fetch_timeout=Duration(),  # wait as long as it takes: a route without its clusters would give errors
    )
