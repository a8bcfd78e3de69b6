"""Names to addresses for STRICT_DNS and LOGICAL_DNS clusters, without stopping the loop.

Names are resolved by the system (`getaddrinfo` in a worker thread), since that is the only resolver that honours
/etc/hosts, search domains and ndots exactly as the application beside us does. It says nothing of the record's
lifetime, so names are looked up again every `dns_refresh` seconds of their cluster.

A failed lookup keeps the last good addresses and is tried again with an exponential pause.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from pymesh_proxy.config.model import Cluster


class Publish(Protocol):
    """What is done with addresses that changed; `Configuration.apply_addresses` and what follows from it."""

    def __call__(self, cluster: str, addresses: Mapping[str, tuple[str, ...]]) -> None:
        """`addresses` are those of every name of `cluster` that was ever resolved, sorted as the resolver gave them."""


Lookup = Callable[[str, bool], Awaitable[tuple[str, ...]]]


class DnsResolver:
    """Keeps the names of DNS clusters resolved, one task each, for as long as `run` runs."""

    def __init__(self, publish: Publish, *, lookup: Lookup | None = None) -> None:
        raise NotImplementedError

    def follow(self, clusters: Mapping[str, Cluster]) -> None:
        """From now on resolve the names of these clusters, and no others: call it with each new snapshot's clusters."""
        raise NotImplementedError

    async def run(self) -> None:
        """Resolve until cancelled."""
        raise NotImplementedError
