"""What lives on from snapshot to snapshot for one cluster: counts in flight, who waits, whose turn it is."""

from collections import deque
from collections.abc import Collection
from typing import Final, Protocol

from pymesh_proxy.config.model import Cluster, TlsClient
from pymesh_proxy.errors import ProxyError
from pymesh_proxy.telemetry.metrics import ClusterStats
from pymesh_proxy.upstream.balancer import Balancer
from pymesh_proxy.upstream.connection import UpstreamConnection
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.outlier import OutlierDetector

# Destinations of ORIGINAL_DST clusters that are remembered with their idle connections; the oldest unused go first.
MAX_ORIGINAL_DESTINATIONS: Final = 1024


class Waiter(Protocol):
    """Who asked for a connection that was not there at once."""

    def upstream_ready(self, connection: UpstreamConnection) -> None:
        """Here it is. The waiter owns it now."""

    def connect_failed(self, error: ProxyError) -> None:
        """There will be none."""


class ClusterState:
    """What lives on from snapshot to snapshot for one cluster: counts in flight and who waits.

    `balancer` and `transports` belong to `cluster`, the compiled object they were made for; ORIGINAL_DST has no
    balancer, the connection's original destination is its endpoint. `outlier` is told what becomes of requests; None
    where nobody asked for that.
    """

    __slots__ = (
        "balancer", "cluster", "connections", "originals", "outlier", "retries", "stats", "transports", "waiting",
    )  # fmt: skip

    def __init__(self, stats: ClusterStats) -> None:
        self.cluster: Cluster | None = None
        self.balancer: Balancer | None = None
        self.outlier: OutlierDetector | None = None
        self.transports: dict[Endpoint, TlsClient | None] = {}
        self.originals: dict[tuple[str, int], Endpoint] = {}
        self.connections = 0
        self.retries = 0  # requests that are being tried again
        self.waiting: deque[tuple[Cluster, Endpoint, Waiter]] = deque()
        self.stats = stats

    @property
    def requests(self) -> int:
        """Requests in flight."""
        return self.stats.rq_active

    @property
    def in_use(self) -> bool:
        """Whether there is a request, a connection, or somebody who waits for one."""
        return bool(self.connections or self.requests or self.waiting)

    def pick(
        self,
        original_destination: tuple[str, int] | None,
        tried: Collection[Endpoint] = (),
        hash_key: int | None = None,
    ) -> Endpoint | None:
        """The endpoint for the next attempt; None if there is none. `hash_key` is that of the route's hash policy."""
        return self.original(original_destination) if self.balancer is None else self.balancer.pick(tried, hash_key)

    def original(self, address: tuple[str, int] | None) -> Endpoint | None:
        """The endpoint that stands for an original destination; kept, within bounds, so that its connections are."""
        if address is None:
            return None
        originals = self.originals
        endpoint = originals.get(address)
        if endpoint is None:
            if len(originals) >= MAX_ORIGINAL_DESTINATIONS:
                for key, old in list(originals.items()):
                    if not old.active:
                        for connection in tuple(old.idle):
                            connection.close()
                        del originals[key]
                        break
            endpoint = originals[address] = Endpoint(*address)
        return endpoint

    def retire_originals(self) -> None:
        """No connection to an original destination is to be used again."""
        originals, self.originals = self.originals, {}
        for endpoint in originals.values():
            endpoint.retire()

    def transport(self, cluster: Cluster, endpoint: Endpoint) -> TlsClient | None:
        """See `transport_of`.

        A request that began under another configuration asks with that one's cluster, and gets that one's answer.
        """
        if cluster is not self.cluster:
            return transport_of(cluster, endpoint)
        transports = self.transports
        if endpoint not in transports:
            transports[endpoint] = transport_of(cluster, endpoint)
        return transports[endpoint]


def transport_of(cluster: Cluster, endpoint: Endpoint) -> TlsClient | None:
    """TLS settings for `endpoint`: the first transport match that its metadata satisfies, else the cluster's."""
    for match in cluster.transport_matches:
        if all(endpoint.metadata.get(key) == value for key, value in match.metadata.items()):
            return match.tls
    return cluster.tls
