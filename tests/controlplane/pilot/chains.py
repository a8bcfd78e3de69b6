"""How Envoy picks a filter chain, written down once more: the oracle for the listeners that pilot makes.

Source: envoy.config.listener.v3.FilterChainMatch ("the following order applies"): destination port, destination
address, server name, transport protocol, application protocols. Every step narrows to the most specific criterion that
fits, and there is no way back to a less specific one; what finds nothing goes to the default filter chain.
"""

import ipaddress
from collections.abc import Callable, Sequence

from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy

from pymesh.xds import types


def chain_for(
    listener: Listener,
    port: int,
    address: str = "192.0.2.1",
    *,
    tls: bool = False,
    server_name: str = "",
    alpn: Sequence[str] = (),
) -> FilterChain:
    """The chain for a connection."""
    chains = list(listener.filter_chains)

    def narrow(specific: Callable[[FilterChain], bool], general: Callable[[FilterChain], bool]) -> list[FilterChain]:
        return [chain for chain in chains if specific(chain)] or [chain for chain in chains if general(chain)]

    chains = narrow(
        lambda c: c.filter_chain_match.destination_port.value == port,
        lambda c: not c.filter_chain_match.HasField("destination_port"),
    )
    best = max((length(chain, address) for chain in chains), default=-1)
    chains = [chain for chain in chains if length(chain, address) == best >= 0]
    closest = max((closeness(chain, server_name) for chain in chains), default=-1)
    chains = [chain for chain in chains if closeness(chain, server_name) == closest >= 0]
    transport = "tls" if tls else "raw_buffer"
    chains = narrow(
        lambda c: c.filter_chain_match.transport_protocol == transport,
        lambda c: not c.filter_chain_match.transport_protocol,
    )
    for protocol in alpn:
        for chain in chains:
            if protocol in chain.filter_chain_match.application_protocols:
                return chain
    plain = [chain for chain in chains if not chain.filter_chain_match.application_protocols]
    assert len(plain) <= 1, "two chains with the same match"
    return plain[0] if plain else listener.default_filter_chain


def length(chain: FilterChain, address: str) -> int:
    """How specific the chain's ranges are about `address`: prefix length, 0 without ranges, -1 if none covers it."""
    ranges = chain.filter_chain_match.prefix_ranges
    if not ranges:
        return 0
    fits = [
        item.prefix_len.value
        for item in ranges
        if ipaddress.ip_address(address) in ipaddress.ip_network(f"{item.address_prefix}/{item.prefix_len.value}")
    ]
    return max(fits, default=-1)


def closeness(chain: FilterChain, server_name: str) -> int:
    """How much the chain's names say about `server_name`: 0 without names, -1 if none is it or a wildcard over it."""
    names = chain.filter_chain_match.server_names
    fits = [len(name) for name in names if name.startswith("*.") and server_name.endswith(name[1:])]
    fits += [len(name) + 1 for name in names if name == server_name]  # no wildcard over it has so many characters
    return max(fits, default=-1) if names else 0


def target(chain: FilterChain) -> str:
    """Where a chain leads: `http 9080` (a route configuration), `http inbound|9080||` or `tcp <cluster>`."""
    (item,) = chain.filters
    if item.typed_config.type_url == types.HTTP_CONNECTION_MANAGER:
        manager = HttpConnectionManager.FromString(item.typed_config.value)
        return f"http {manager.rds.route_config_name or manager.route_config.name}"
    return f"tcp {TcpProxy.FromString(item.typed_config.value).cluster}"


def secured(chain: FilterChain) -> bool:
    """Whether the chain terminates TLS."""
    return chain.HasField("transport_socket")
