"""How many endpoints each cluster has and how they fare, as Prometheus sees it. Names are Envoy's."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pymesh_proxy.telemetry.exposition import pieces
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

    def collect(self) -> Iterator[Metric]:
        """See exposition.Collector."""
        rows = list(self._read())
        yield from _membership(rows)
        yield from _outliers([(row.cluster, (row.outlier, row.ejected)) for row in rows if row.outlier is not None])
        yield from _checks([(row.cluster, (row.endpoints, row.checks)) for row in rows if row.checks is not None])


def _membership(rows: Sequence[ClusterHealth]) -> Iterator[Metric]:
    every = [(row.cluster, row.endpoints) for row in rows]
    yield from _gauge("membership_total", every, len)
    yield from _gauge("membership_healthy", every, _healthy)
    yield from _gauge("membership_degraded", every, _degraded)
    # All endpoints of a cluster have the same membership.
    shared = [(row.cluster, row.endpoints[0].membership) for row in rows if row.endpoints]
    yield from _counter("membership_change", shared, lambda membership: membership.changes)
    yield from _counter("lb_healthy_panic", shared, lambda membership: membership.panics)


def _outliers(rows: Sequence[tuple[str, tuple[OutlierStats, int]]]) -> Iterator[Metric]:
    yield from _gauge("outlier_detection_ejections_active", rows, lambda row: row[1])
    if not rows:
        return
    stats = [(cluster, found) for cluster, (found, _) in rows]
    name = "outlier_detection_ejections"
    yield from _counter(f"{name}_enforced", stats, lambda found: sum(found.enforced.values()))
    yield from _counter(f"{name}_overflow", stats, lambda found: found.overflow)
    for kind in Ejection:
        detected = [(cluster, found.detected[kind]) for cluster, found in stats]
        yield from _counter(f"{name}_detected_{kind.value}", detected, int)
        enforced = [(cluster, found.enforced[kind]) for cluster, found in stats]
        yield from _counter(f"{name}_enforced_{kind.value}", enforced, int)


def _checks(rows: Sequence[tuple[str, tuple[tuple[Endpoint, ...], HealthStats]]]) -> Iterator[Metric]:
    endpoints = [(cluster, found) for cluster, (found, _) in rows]
    yield from _gauge("health_check_healthy", endpoints, lambda found: _healthy(found) + _degraded(found))
    yield from _gauge("health_check_degraded", endpoints, _degraded)
    stats = [(cluster, found) for cluster, (_, found) in rows]
    for name in HealthStats.__slots__:
        yield from _counter(f"health_check_{name}", stats, attrgetter(name))


def _healthy(endpoints: tuple[Endpoint, ...]) -> int:
    return sum(endpoint.healthy for endpoint in endpoints)


def _degraded(endpoints: tuple[Endpoint, ...]) -> int:
    return sum(endpoint.degraded for endpoint in endpoints)


def _gauge(name: str, rows: Sequence[tuple[str, R]], value: Callable[[R], float]) -> Iterator[Metric]:
    yield from _family(GaugeMetricFamily, name, rows, value)


def _counter(name: str, rows: Sequence[tuple[str, R]], value: Callable[[R], float]) -> Iterator[Metric]:
    yield from _family(CounterMetricFamily, name, rows, value)


def _family(
    kind: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    rows: Sequence[tuple[str, R]],
    value: Callable[[R], float],
) -> Iterator[Metric]:
    """A family in pieces: its value for each cluster of `rows`."""
    for piece in pieces(rows):
        family = kind(f"envoy_cluster_{name}", f"Envoy's {name}", labels=["envoy_cluster_name"])
        for cluster, found in piece:
            family.add_metric([cluster], value(found))
        yield family
