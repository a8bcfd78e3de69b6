"""How many endpoints each cluster has and how they fare, as Prometheus sees it. Names are Envoy's."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.health import HealthStats
from pymesh_proxy.upstream.outlier import OutlierStats


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
        yield from _outliers([(row.cluster, row.outlier, row.ejected) for row in rows if row.outlier is not None])
        yield from _checks([(row.cluster, row.endpoints, row.checks) for row in rows if row.checks is not None])


def _membership(rows: Iterable[ClusterHealth]) -> Iterator[Metric]:
    total, healthy, degraded = (_gauge(f"membership_{word}") for word in ("total", "healthy", "degraded"))
    change, panic = _counter("membership_change"), _counter("lb_healthy_panic")
    for row in rows:
        labels = [row.cluster]
        total.add_metric(labels, len(row.endpoints))
        healthy.add_metric(labels, sum(endpoint.healthy for endpoint in row.endpoints))
        degraded.add_metric(labels, sum(endpoint.degraded for endpoint in row.endpoints))
        if row.endpoints:
            change.add_metric(labels, row.endpoints[0].membership.changes)
            panic.add_metric(labels, row.endpoints[0].membership.panics)
    yield from (total, healthy, degraded, change, panic)


def _outliers(rows: Iterable[tuple[str, OutlierStats, int]]) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily] = {}

    def count(name: str, cluster: str, value: int) -> None:
        family = families.setdefault(name, _counter(f"outlier_detection_ejections_{name}"))
        family.add_metric([cluster], value)

    active = _gauge("outlier_detection_ejections_active")
    for cluster, stats, ejected in rows:
        active.add_metric([cluster], ejected)
        count("enforced", cluster, sum(stats.enforced.values()))
        count("overflow", cluster, stats.overflow)
        for kind in stats.detected:
            count(f"detected_{kind.value}", cluster, stats.detected[kind])
            count(f"enforced_{kind.value}", cluster, stats.enforced[kind])
    yield active
    yield from families.values()


def _checks(rows: Iterable[tuple[str, tuple[Endpoint, ...], HealthStats]]) -> Iterator[Metric]:
    counters = {name: _counter(f"health_check_{name}") for name in HealthStats.__slots__}
    healthy, degraded = _gauge("health_check_healthy"), _gauge("health_check_degraded")
    for cluster, endpoints, stats in rows:
        healthy.add_metric([cluster], sum(endpoint.healthy or endpoint.degraded for endpoint in endpoints))
        degraded.add_metric([cluster], sum(endpoint.degraded for endpoint in endpoints))
        for name, family in counters.items():
            family.add_metric([cluster], getattr(stats, name))
    yield from (healthy, degraded, *counters.values())


def _gauge(name: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"envoy_cluster_{name}", f"Envoy's {name}", labels=["envoy_cluster_name"])


def _counter(name: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"envoy_cluster_{name}", f"Envoy's {name}", labels=["envoy_cluster_name"])
