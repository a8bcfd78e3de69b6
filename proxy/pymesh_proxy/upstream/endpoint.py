"""An upstream address and what is going on there: the state that outlives configuration.

An `Endpoint` is made once for a (cluster, address) pair and found again by every later snapshot, so that counts in
flight and idle connections survive a push. Pure: the idle connections are only held here, never touched.
"""

from collections.abc import Mapping
from typing import Protocol

from pymesh.peer_metadata import UNKNOWN, Peer


class PooledConnection(Protocol):
    """An upstream connection as a pool sees it."""

    def close(self) -> None:
        """Close it; it is no longer needed."""


class Endpoint:
    """One address of one cluster.

    Attributes:
        host, port: where it is; `host` is an IP address.
        weight: share of the cluster's traffic, at least 1.
        hostname: the name it was resolved from, or its name in the cluster; may be empty.
        metadata: `envoy.transport_socket_match` values, as in {"tlsMode": "istio"}.
        labels: what pilot says about the workload behind it (`workload`, `namespace`, `version` ...), for telemetry.
        peer: that workload, for metrics.
        active: requests and opaque connections in flight.
        idle: idle upstream connections, the most recently used last.
        healthy: whether the balancer may pick it.
        retired: no longer in the configuration: its connections are closed, not pooled, once they are idle.
    """

    __slots__ = (
        "active", "healthy", "host", "hostname", "idle", "labels", "metadata", "peer", "port", "retired", "weight",
    )  # fmt: skip

    def __init__(
        self,
        host: str,
        port: int,
        *,
        weight: int = 1,
        hostname: str = "",
        metadata: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        peer: Peer = UNKNOWN,
    ) -> None:
        self.host = host
        self.port = port
        self.weight = weight
        self.hostname = hostname
        self.metadata: Mapping[str, str] = metadata or {}
        self.labels: Mapping[str, str] = labels or {}
        self.peer = peer
        self.active = 0
        self.healthy = True
        self.retired = False
        self.idle: list[PooledConnection] = []

    @property
    def address(self) -> str:
        """`10.0.0.1:80` or `[fd00::1]:80`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def retire(self) -> None:
        """Take it out of use: close what is idle now; what is in flight ends by itself and is not pooled."""
        self.retired = True
        idle, self.idle = self.idle, []
        for connection in idle:
            connection.close()

    def __repr__(self) -> str:
        state = "retired" if self.retired else "healthy" if self.healthy else "unhealthy"
        return f"<Endpoint {self.address} {state}, {self.active} active, {len(self.idle)} idle>"
