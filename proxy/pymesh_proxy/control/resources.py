"""What an xDS resource is called, and which other resources it needs before it is of any use. Pure."""

from collections.abc import Iterator
from typing import Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from pymesh.errors import ConfigError
from pymesh.names import SDS_KUBERNETES
from pymesh.xds import types

_KINDS: Final[dict[str, type[Message]]] = {
    types.CLUSTER: Cluster,
    types.ENDPOINT: ClusterLoadAssignment,
    types.LISTENER: Listener,
    types.ROUTE: RouteConfiguration,
    types.SECRET: Secret,
}

# The types whose resources those of a type refer to by name.
CHILDREN: Final = {types.CLUSTER: (types.ENDPOINT,), types.LISTENER: (types.ROUTE, types.SECRET)}

# What people call the types.
LABEL: Final = {
    types.CLUSTER: "clusters",
    types.ENDPOINT: "endpoints",
    types.LISTENER: "listeners",
    types.ROUTE: "routes",
    types.SECRET: "secrets",
}


def unpack(type_url: str, packed: AnyMessage) -> Message:
    """The resource in `packed`, which has to be of the type `type_url`.

    Raises:
        ConfigError: it is of another type, or malformed.
    """
    if packed.type_url != type_url:
        raise ConfigError(f"is a {packed.type_url or 'nothing'}, where a {type_url} should be")
    try:
        return _KINDS[type_url].FromString(packed.value)
    except DecodeError as error:
        raise ConfigError(f"is not a well-formed {type_url}: {error}") from error


def name_of(resource: Message) -> str:
    """The name that `resource` carries."""
    match resource:
        case ClusterLoadAssignment():
            return resource.cluster_name
        case Cluster() | Listener() | RouteConfiguration() | Secret():
            return resource.name
    raise TypeError(f"{type(resource).__name__} is not a resource that this proxy asks for")


def needs(resource: Message) -> dict[str, frozenset[str]]:
    """By type, the names of what a cluster (endpoints) or a listener (routes, secrets) takes by discovery."""
    match resource:
        case Cluster() if resource.type == Cluster.EDS:
            return {types.ENDPOINT: frozenset({resource.eds_cluster_config.service_name or resource.name})}
        case Listener():
            chains = [*resource.filter_chains, resource.default_filter_chain]
            configs = [network.typed_config for chain in chains for network in chain.filters]
            sockets = [chain.transport_socket.typed_config for chain in chains]
            return {
                types.ROUTE: frozenset(name for config in configs if (name := _route_name(config))),
                types.SECRET: frozenset(name for socket in sockets for name in _secret_names(socket)),
            }
    return {}


def _secret_names(socket: AnyMessage) -> Iterator[str]:
    """The secrets that come from pilot. Those of the mesh's own identity are citadel's to give, under other names."""
    if socket.type_url != types.DOWNSTREAM_TLS:
        return
    try:
        common = DownstreamTlsContext.FromString(socket.value).common_tls_context
    except DecodeError:
        return  # as below
    configs = [
        *common.tls_certificate_sds_secret_configs,
        common.validation_context_sds_secret_config,
        common.combined_validation_context.validation_context_sds_secret_config,
    ]
    yield from (config.name for config in configs if config.name.startswith(SDS_KUBERNETES))


def _route_name(config: AnyMessage) -> str:
    """The RDS name of an HTTP connection manager; empty for any other filter, and for one that does not decode.

    Whether a filter is well-formed is for the consumer of the listener to say, with the field's path.
    """
    if config.type_url != types.HTTP_CONNECTION_MANAGER:
        return ""
    try:
        return HttpConnectionManager.FromString(config.value).rds.route_config_name
    except DecodeError:
        return ""
