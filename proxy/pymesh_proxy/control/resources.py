"""What an xDS resource is called, and which other resources it needs before it is of any use. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from pymesh.errors import ConfigError
from pymesh.names import SDS_KUBERNETES
from pymesh.steps import Steps
from pymesh.xds import types
from pymesh.xds.wire import split

Needs: TypeAlias = Mapping[str, frozenset[str]]

# The number of the field that names a resource, whatever its type.
_NAME: Final = 1

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


@dataclass(frozen=True, slots=True)
class Interest:
    """What a proxy asks for before any response has told of more.

    Attributes:
        everything: the types of which it follows all resources.
        named: by type, what its static resources refer to.
    """

    everything: frozenset[str] = frozenset(CHILDREN)
    named: Needs = field(default_factory=dict)


# Of a proxy that has nothing of its own.
EVERYTHING: Final = Interest()


def interest_of(bootstrap: Bootstrap) -> Interest:
    """What a proxy with this bootstrap asks its ADS for: as Envoy, LDS and CDS only where they are configured."""
    dynamic, static = bootstrap.dynamic_resources, bootstrap.static_resources
    wanted = ((types.LISTENER, dynamic.HasField("lds_config")), (types.CLUSTER, dynamic.HasField("cds_config")))
    named: dict[str, frozenset[str]] = defaultdict(frozenset)
    for needed in (*map(_needs_of_cluster, static.clusters), *map(_needs_of_listener, static.listeners)):
        for type_url, names in needed.items():
            named[type_url] |= names
    return Interest(frozenset(type_url for type_url, is_wanted in wanted if is_wanted), named)


def name_in(encoded: bytes) -> Steps[str]:
    """The name of a resource that is still encoded: the first field of all of them (`cluster_name` of endpoints).

    Raises:
        ConfigError: it is no message, or the name is no text.
    """
    _, names = yield from split(encoded, _NAME)
    if not names:
        return ""
    start, end = names[-1]
    try:
        return encoded[start:end].decode()
    except UnicodeDecodeError as error:
        raise ConfigError("its name is not UTF-8") from error


def needs(type_url: str, encoded: bytes) -> Needs:
    """By type, the names of what a cluster (endpoints) or a listener (routes, secrets) takes by discovery."""
    match type_url:
        case types.CLUSTER:
            return _needs_of_cluster(Cluster.FromString(encoded))
        case types.LISTENER:
            return _needs_of_listener(Listener.FromString(encoded))
    return {}


def _needs_of_cluster(resource: Cluster) -> Needs:
    if resource.type != Cluster.EDS:
        return {}
    return {types.ENDPOINT: frozenset({resource.eds_cluster_config.service_name or resource.name})}


def _needs_of_listener(resource: Listener) -> Needs:
    chains = [*resource.filter_chains, resource.default_filter_chain]
    configs = [network.typed_config for chain in chains for network in chain.filters]
    sockets = [chain.transport_socket.typed_config for chain in chains]
    return {
        types.ROUTE: frozenset(name for config in configs if (name := _route_name(config))),
        types.SECRET: frozenset(name for socket in sockets for name in _secret_names(socket)),
    }


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
