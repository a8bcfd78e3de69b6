"""How many endpoints each cluster has and how they fare, as Prometheus sees it. Names are Envoy's."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple, TypeVar

from pymesh_proxy.telemetry.exposition import label, written
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.health import HealthStats
from pymesh_proxy.upstream.outlier import Ejection, OutlierStats

R = TypeVar("R")


class ClusterHealth(NamedTuple):
    """One cluster: its endpoints, and what has been found out about them, where anything is looked for."""

    cluster: str
    endpoints: tuple[Endpoint, ...]
    outlier: OutlierStats | None = None
    ejected: int = 0
    checks: HealthStats | None = None


class UpstreamMetrics:
    """Metrics made of what `read` gives when somebody scrapes."""

    def __init__(self, read: Callable[[], Iterable[ClusterHealth]]) -> None:
        self._read = read

    def collect(self) -> Iterator[str]:
        """See exposition.Collector."""
        rows = [(label("envoy_cluster_name", row.cluster), row) for row in self._read()]
        yield from _membership(rows)
        yield from _outliers([(of, (row.outlier, row.ejected)) for of, row in rows if row.outlier is not None])
        yield from _checks([(of, (row.endpoints, row.checks)) for of, row in rows if row.checks is not None])


# Rows are of a cluster each: its label, and what is told of it.


def _membership(rows: Sequence[tuple[str, ClusterHealth]]) -> Iterator[str]:
    every = [(of, row.endpoints) for of, row in rows]
    yield from _gauge("membership_total", every, len)
    yield from _gauge("membership_healthy", every, _healthy)
    yield from _gauge("membership_degraded", every, _degraded)
    # All endpoints of a cluster have the same membership.
    shared = [(of, row.endpoints[0].membership) for of, row in rows if row.endpoints]
    yield from _counter("membership_change", shared, lambda membership: membership.changes)
    yield from _counter("lb_healthy_panic", shared, lambda membership: membership.panics)


def _outliers(rows: Sequence[tuple[str, tuple[OutlierStats, int]]]) -> Iterator[str]:
    yield from _gauge("outlier_detection_ejections_active", rows, lambda row: row[1])
    if not rows:
        return
    stats = [(of, found) for of, (found, _) in rows]
    name = "outlier_detection_ejections"
    yield from _counter(f"{name}_enforced", stats, lambda found: sum(found.enforced.values()))
    yield from _counter(f"{name}_overflow", stats, lambda found: found.overflow)
    for kind in Ejection:
        detected = [(of, found.detected[kind]) for of, found in stats]
        yield from _counter(f"{name}_detected_{kind.value}", detected, int)
        enforced = [(of, found.enforced[kind]) for of, found in stats]
        yield from _counter(f"{name}_enforced_{kind.value}", enforced, int)


def _checks(rows: Sequence[tuple[str, tuple[tuple[Endpoint, ...], HealthStats]]]) -> Iterator[str]:
    endpoints = [(of, found) for of, (found, _) in rows]
    yield from _gauge("health_check_healthy", endpoints, lambda found: _healthy(found) + _degraded(found))
    yield from _gauge("health_check_degraded", endpoints, _degraded)
    stats = [(of, found) for of, (_, found) in rows]
    for name in HealthStats.__slots__:
        yield from _counter(f"health_check_{name}", stats, attrgetter(name))


def _healthy(endpoints: tuple[Endpoint, ...]) -> int:
    return sum(endpoint.healthy for endpoint in endpoints)


def _degraded(endpoints: tuple[Endpoint, ...]) -> int:
    return sum(endpoint.degraded for endpoint in endpoints)


def _gauge(name: str, rows: Sequence[tuple[str, R]], value: Callable[[R], float]) -> Iterator[str]:
    return written("gauge", f"envoy_cluster_{name}", f"Envoy's {name}", rows, value)


def _counter(name: str, rows: Sequence[tuple[str, R]], value: Callable[[R], float]) -> Iterator[str]:
    return written("counter", f"envoy_cluster_{name}", f"Envoy's {name}", rows, value)
