"""envoy Listener → Listener: listener filters, filter chains and the network filter at the end of each."""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final

from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.listener.v3.listener_components_pb2 import (
    FilterChain as FilterChainMessage,
)
from envoy.config.listener.v3.listener_components_pb2 import (
    FilterChainMatch as FilterChainMatchMessage,
)
from envoy.config.listener.v3.listener_pb2 import Listener as ListenerMessage
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkRbacMessage  # noqa: N811 - there are two
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy as TcpProxyMessage

from pymesh.errors import ConfigError
from pymesh.steps import Steps, whole
from pymesh.xds import types
from pymesh.xds.check import join, unpack
from pymesh_proxy.config import tls
from pymesh_proxy.config.access_logs import access_logs
from pymesh_proxy.config.fields import flag, ip, network, number, one_of, positive, required, socket_address, timeout
from pymesh_proxy.config.hash_policy import hashes_source
from pymesh_proxy.config.http_manager import http_manager
from pymesh_proxy.config.model import Direction, FilterChain, FilterChainMatch, HttpManager, Listener, TcpProxy
from pymesh_proxy.config.rbac import network_rbac
from pymesh_proxy.config.routes import Context
from pymesh_proxy.filters.network_rbac import NetworkRbac

_DIRECTION: Final = {
    TrafficDirection.UNSPECIFIED: Direction.UNSPECIFIED,
    TrafficDirection.INBOUND: Direction.INBOUND,
    TrafficDirection.OUTBOUND: Direction.OUTBOUND,
}
_TRANSPORTS: Final = ("", "tls", "raw_buffer")


def compile_listener(message: ListenerMessage, context: Context, path: str = "") -> Listener:
    """The listener at `path`, at once; see `compiling_listener`."""
    return whole(compiling_listener(message, context, path))


def compiling_listener(
    message: ListenerMessage, context: Context, path: str = "", known: Iterable[FilterChain] = ()
) -> Steps[Listener]:
    """The listener at `path`, in steps of one filter chain each.

    `context` is for its inline routes. Chains that are `known` are not compiled again.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    name = required(message.name, join(path, "name"))
    here = join(path, "address")
    host, port = socket_address(message.address, here)
    filters = _listener_filters(message, path)
    by_key = {chain.key: chain for chain in known}
    compiled = []
    for index, chain in enumerate(message.filter_chains):
        compiled.append(_filter_chain(chain, context, f"{join(path, 'filter_chains')}[{index}]", by_key))
        yield
    chains = tuple(compiled)
    _check_chains(chains, join(path, "filter_chains"))
    default = None
    if message.HasField("default_filter_chain"):
        default = _filter_chain(message.default_filter_chain, context, join(path, "default_filter_chain"), by_key)
    if not chains and default is None:
        raise ConfigError("at least one filter chain is required", path=join(path, "filter_chains"))
    needs_tls = any(chain.match.transport_protocol or chain.match.server_names for chain in chains)
    needs_alpn = any(chain.match.application_protocols for chain in chains)
    return Listener(
        name=name,
        address=ip(host, join(here, "socket_address.address")),
        port=port,
        direction=_DIRECTION[message.traffic_direction],
        bind_to_port=flag(message, "bind_to_port", default=True),
        use_original_dst=types.ORIGINAL_DST in filters or flag(message, "use_original_dst", default=False),
        # Envoy adds the TLS inspector by itself where a chain cannot be chosen without it.
        inspect_tls=types.TLS_INSPECTOR in filters or needs_tls or (needs_alpn and types.HTTP_INSPECTOR not in filters),
        inspect_http=types.HTTP_INSPECTOR in filters,
        inspect_timeout=timeout(message, "listener_filters_timeout", 15.0, path),
        inspect_timeout_continues=message.continue_on_listener_filters_timeout,
        chains=chains,
        default_chain=default,
    )


def _listener_filters(message: ListenerMessage, path: str) -> frozenset[str]:
    """Type URLs of the listener filters."""
    found: set[str] = set()
    for index, entry in enumerate(message.listener_filters):
        here = f"{join(path, 'listener_filters')}[{index}]"
        url = entry.typed_config.type_url
        if url not in {types.ORIGINAL_DST, types.TLS_INSPECTOR, types.HTTP_INSPECTOR}:
            raise ConfigError(f"the listener filter {entry.name!r} is not supported", path=here)
        if url in found:
            raise ConfigError(f"the listener filter {entry.name!r} is given twice", path=here)
        found.add(url)
    return frozenset(found)


def _check_chains(chains: tuple[FilterChain, ...], path: str) -> None:
    """No two chains of one name, or for the same connections."""
    names: set[str] = set()
    matches: set[FilterChainMatch] = set()
    for index, chain in enumerate(chains):
        if chain.name in names:
            raise ConfigError(f"the filter chain {chain.name!r} is given twice", path=f"{path}[{index}].name")
        if chain.match in matches:
            raise ConfigError("another chain has the same match", path=f"{path}[{index}].filter_chain_match")
        if chain.name:
            names.add(chain.name)
        matches.add(chain.match)


def _filter_chain(
    message: FilterChainMessage, context: Context, path: str, known: Mapping[bytes, FilterChain]
) -> FilterChain:
    key = blake2b(message.SerializeToString(deterministic=True), digest_size=16).digest()
    if key in known:
        return known[key]
    return FilterChain(
        name=message.name,
        match=_match(message.filter_chain_match, join(path, "filter_chain_match")),
        handler=_handler(message, context, join(path, "filters")),
        tls=tls.server(message.transport_socket, join(path, "transport_socket"))
        if message.HasField("transport_socket")
        else None,
        handshake_timeout=positive(message, "transport_socket_connect_timeout", 15.0, path),
        key=key,
    )


def _handler(message: FilterChainMessage, context: Context, path: str) -> HttpManager | TcpProxy:
    """What serves the chain's connections: its last network filter. Access rules may stand before a tcp_proxy."""
    rules = []
    for index, entry in enumerate(message.filters):
        here = f"{path}[{index}].typed_config"
        filter_ = unpack(entry.typed_config, here)
        last = index + 1 == len(message.filters)
        match filter_:
            case NetworkRbacMessage() if not last:
                rules.append(network_rbac(filter_, here))
            case TcpProxyMessage() if last:
                return _tcp_proxy(filter_, tuple(rules), here)
            case HttpConnectionManager() if last and not rules:
                return http_manager(filter_, context, here)
            case _:
                break
    raise ConfigError("supported are an http_connection_manager, or a tcp_proxy with rbac before it", path=path)


def _match(message: FilterChainMatchMessage, path: str) -> FilterChainMatch:
    port = number(message, "destination_port", 0)
    if message.HasField("destination_port") and not 1 <= port <= 65_535:
        raise ConfigError(f"{port} is not a port", path=join(path, "destination_port"))
    if message.transport_protocol not in _TRANSPORTS:
        raise ConfigError(
            f"{message.transport_protocol!r} is not supported; supported: tls, raw_buffer",
            path=join(path, "transport_protocol"),
        )
    for index, name in enumerate(message.server_names):
        if not name or "*" in name.removeprefix("*."):
            raise ConfigError(f"{name!r} is not a name or `*.suffix`", path=f"{path}.server_names[{index}]")
    return FilterChainMatch(
        destination_port=port or None,
        prefix_ranges=tuple(
            network(cidr, f"{path}.prefix_ranges[{index}]") for index, cidr in enumerate(message.prefix_ranges)
        ),
        server_names=tuple(name.lower() for name in message.server_names),
        transport_protocol=message.transport_protocol,
        application_protocols=tuple(message.application_protocols),
    )


def _tcp_proxy(message: TcpProxyMessage, rules: tuple[NetworkRbac, ...], path: str) -> TcpProxy:
    which = one_of(message, "cluster_specifier", path)
    if which == "cluster":
        clusters: tuple[tuple[str, int], ...] = ((required(message.cluster, join(path, "cluster")), 1),)
    else:
        here = join(path, "weighted_clusters.clusters")
        clusters = tuple(
            (required(choice.name, f"{here}[{index}].name"), choice.weight)
            for index, choice in enumerate(message.weighted_clusters.clusters)
        )
        for index, (_, weight) in enumerate(clusters):
            if not weight:
                raise ConfigError("must be at least 1", path=f"{here}[{index}].weight")
        if not clusters:
            raise ConfigError("at least one cluster is required", path=here)
    attempts = number(message, "max_connect_attempts", 1)
    if not attempts:
        raise ConfigError("must be at least 1", path=join(path, "max_connect_attempts"))
    return TcpProxy(
        stat_prefix=required(message.stat_prefix, join(path, "stat_prefix")),
        clusters=clusters,
        idle_timeout=timeout(message, "idle_timeout", 3600.0, path),
        max_connect_attempts=attempts,
        hash_source=hashes_source(message, path),
        rules=rules,
        access_logs=access_logs(message.access_log, join(path, "access_log"), tcp=True),
    )
