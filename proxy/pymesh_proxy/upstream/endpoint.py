"""An upstream address and what is going on there: the state that outlives configuration.

An `Endpoint` is made once for a (cluster, address) pair and found again by every later snapshot, so that counts in
flight and idle connections survive a push. Pure: the idle connections are only held here, never touched.
"""

import enum
from collections.abc import Mapping
from typing import Final, Protocol

from pymesh.peer_metadata import UNKNOWN, Peer


class PooledConnection(Protocol):
    """An upstream connection as a pool sees it."""

    def close(self) -> None:
        """Close it; it is no longer needed."""


class Health(enum.IntFlag):
    """Why an endpoint is unhealthy or degraded, by Envoy's names (Upstream::Host::HealthFlag)."""

    FAILED_ACTIVE_HC = 1
    FAILED_OUTLIER_CHECK = 2
    FAILED_EDS_HEALTH = 4
    DEGRADED_ACTIVE_HC = 8
    DEGRADED_EDS_HEALTH = 16
    ACTIVE_HC_TIMEOUT = 32  # says more of FAILED_ACTIVE_HC
    EDS_STATUS_DRAINING = 64


_UNHEALTHY: Final = int(
    Health.FAILED_ACTIVE_HC | Health.FAILED_OUTLIER_CHECK | Health.FAILED_EDS_HEALTH | Health.EDS_STATUS_DRAINING
)
_DEGRADED: Final = int(Health.DEGRADED_ACTIVE_HC | Health.DEGRADED_EDS_HEALTH)


class Membership:
    """What the endpoints of one cluster have in common, from snapshot to snapshot.

    Attributes:
        version: grows whenever one of them comes, goes or changes, so that a balancer knows when to look again.
        changes: how often endpoints came or went (Envoy's membership_change).
        panics: picks made in a panic (lb_healthy_panic).
    """

    __slots__ = ("changes", "panics", "version")

    def __init__(self) -> None:
        self.version = self.changes = self.panics = 0


class Endpoint:
    """One address of one cluster.

    Attributes:
        host, port: where it is; `host` is an IP address.
        address: the same as text: `10.0.0.1:80` or `[fd00::1]:80`.
        weight: share of the cluster's traffic, at least 1.
        hostname: the name it was resolved from, or its name in the cluster; may be empty.
        metadata: `envoy.transport_socket_match` values, as in {"tlsMode": "istio"}.
        labels: what pilot says about the workload behind it (`workload`, `namespace`, `version` ...), for telemetry.
        peer: that workload, for metrics.
        active: requests and opaque connections in flight.
        idle: idle upstream connections, the most recently used last.
        priority: its level; traffic goes to a higher number as the lower ones fail.
        locality: (region, zone, sub_zone), and `locality_weight` the share of that locality; 0 where none is given.
        flags: what is wrong with it (`Health`); changed by `mark` only.
        healthy: nothing is; the balancer may pick it.
        degraded: picked only where healthy ones are not enough.
        membership: of its cluster.
        check_host, check_port: of its health checks, where those differ from its own; empty and 0 otherwise.
        checked: whether it is to be checked actively, if its cluster is.
        retired: no longer in the configuration: its connections are closed, not pooled, once they are idle.
    """

    __slots__ = (
        "active", "address", "check_host", "check_port", "checked", "degraded", "flags", "healthy", "host", "hostname",
        "idle", "labels", "locality", "locality_weight", "membership", "metadata", "peer", "port", "priority",
        "retired", "weight",
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
        membership: Membership | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.weight = weight
        self.hostname = hostname
        self.metadata: Mapping[str, str] = metadata or {}
        self.labels: Mapping[str, str] = labels or {}
        self.peer = peer
        self.priority = 0
        self.locality = ("", "", "")
        self.locality_weight = 0
        self.membership = membership or Membership()
        self.check_host, self.check_port, self.checked = "", 0, True
        self.active = 0
        self.flags = 0
        self.healthy = True
        self.degraded = False
        self.retired = False
        self.idle: list[PooledConnection] = []

    def mark(self, flags: int, *, on: bool) -> None:
        """Set or clear some `Health` flags."""
        after = self.flags | flags if on else self.flags & ~flags
        if after == self.flags:
            return
        self.flags = after
        self.healthy = not after & (_UNHEALTHY | _DEGRADED)
        self.degraded = not after & _UNHEALTHY and bool(after & _DEGRADED)
        self.membership.version += 1

    @property
    def health_flags(self) -> str:
        """As Envoy's /clusters shows them: `healthy`, or `/failed_active_hc/failed_outlier_check`."""
        return "".join(f"/{flag.name}".lower() for flag in Health if self.flags & flag) or "healthy"

    def retire(self) -> None:
        """Take it out of use: close what is idle now; what is in flight ends by itself and is not pooled."""
        self.retired = True
        idle, self.idle = self.idle, []
        for connection in idle:
            connection.close()

    def __repr__(self) -> str:
        state = "retired" if self.retired else self.health_flags
        return f"<Endpoint {self.address} {state}, {self.active} active, {len(self.idle)} idle>"
