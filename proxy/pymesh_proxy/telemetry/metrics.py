"""Counters of the data path, and how Prometheus sees them.

On the path a metric is an integer in a slots object, found once per connection or cluster; Prometheus' own types cost
ten times as much and are made only when somebody scrapes. Names are Envoy's, so that its dashboards work.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Final, Literal, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from pymesh_proxy.telemetry.exposition import label, written
from pymesh_proxy.telemetry.filter_metrics import FilterMetrics

# Milliseconds; Istio's request duration buckets. Floats: comparing them with integers costs twice as much.
DURATION_BUCKETS: Final = (
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0,
)  # fmt: skip


class HttpStats:
    """Downstream HTTP, one per `stat_prefix`."""

    __slots__ = (
        "buckets",
        "classes",
        "cx_active",
        "cx_total",
        "duration_sum",
        "filter_errors",
        "protocol_errors",
        "rq_total",
    )

    def __init__(self) -> None:
        self.cx_total = self.cx_active = self.rq_total = 0
        self.protocol_errors = self.filter_errors = 0
        self.classes = [0] * 10  # by hundreds; a peer may well answer 999
        self.buckets = [0] * (len(DURATION_BUCKETS) + 1)
        self.duration_sum = 0.0

    def completed(self, status: int, milliseconds: float) -> None:
        """Count one finished request; status 0 is one that the client gave up before it was answered."""
        self.classes[status // 100] += 1
        self.buckets[bisect_left(DURATION_BUCKETS, milliseconds)] += 1
        self.duration_sum += milliseconds

    @property
    def rq_active(self) -> int:
        """Requests that have begun and are not complete."""
        return self.rq_total - sum(self.classes)


class ClusterStats:
    """Upstream traffic of one cluster."""

    __slots__ = (
        "bytes_received", "bytes_sent", "classes", "cx_active", "cx_connect_fail", "cx_destroyed", "cx_overflow",
        "cx_total", "rq_active", "rq_pending_overflow", "rq_retry", "rq_retry_overflow", "rq_timeout", "rq_total",
    )  # fmt: skip

    def __init__(self) -> None:
        self.cx_total = self.cx_active = self.cx_connect_fail = self.cx_destroyed = self.cx_overflow = 0
        self.rq_total = self.rq_active = self.rq_timeout = self.rq_pending_overflow = 0
        self.rq_retry = self.rq_retry_overflow = 0
        self.bytes_sent = self.bytes_received = 0
        self.classes = [0] * 10


class TcpStats:
    """Opaque TCP, one per `stat_prefix`."""

    __slots__ = ("bytes_received", "bytes_sent", "cx_active", "cx_failed", "cx_total")

    def __init__(self) -> None:
        self.cx_total = self.cx_active = self.cx_failed = self.bytes_sent = self.bytes_received = 0


class ListenerStats:
    """Connections as they arrive, one per listener."""

    __slots__ = ("cx_refused", "cx_tls_error", "cx_total", "no_filter_chain", "refusals")

    def __init__(self) -> None:
        self.cx_total = self.cx_refused = self.cx_tls_error = self.no_filter_chain = 0
        self.refusals: dict[str, int] = {}


class Flow(Protocol):
    """An opaque connection that is open."""

    def catch_up(self) -> None:
        """Count what has moved since it was last counted."""


class Stats:
    """Every counter of this proxy. `flows` are those that are counted while they last."""

    def __init__(self) -> None:
        self.flows: set[Flow] = set()
        self.http: dict[str, HttpStats] = {}
        self.tcp: dict[str, TcpStats] = {}
        self.clusters: dict[str, ClusterStats] = {}
        self.listeners: dict[str, ListenerStats] = {}
        self.filters = FilterMetrics()
        self.gauges: dict[str, tuple[str, float]] = {}  # name: (help, value), set by the composition root

    def collect(self) -> Iterator[Metric | str]:
        """See exposition.Collector."""
        for flow in self.flows:
            flow.catch_up()
        yield from self._counters(
            "envoy_http_downstream_", "envoy_http_conn_manager_prefix", self.http, (*HttpStats.__slots__, "rq_active")
        )
        yield from self._counters(
            "envoy_cluster_upstream_", "envoy_cluster_name", self.clusters, ClusterStats.__slots__
        )
        yield from self._counters("envoy_tcp_downstream_", "envoy_tcp_prefix", self.tcp, TcpStats.__slots__)
        yield from self._counters(
            "envoy_listener_downstream_", "envoy_listener_address", self.listeners, ListenerStats.__slots__
        )
        yield from self._classes("envoy_http_downstream_rq_xx", "envoy_http_conn_manager_prefix", self.http)
        yield from self._classes("envoy_cluster_upstream_rq_xx", "envoy_cluster_name", self.clusters)
        yield self._durations()
        yield self._refusals()
        yield from self.filters.collect()
        for name, (text, value) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value=value)

    @staticmethod
    def _counters(prefix: str, key: str, found: Mapping[str, object], names: Sequence[str]) -> Iterator[str]:
        rows = [(label(key, of), stats) for of, stats in found.items()]
        for name in names:
            if name in {"buckets", "classes", "duration_sum", "refusals"}:
                continue
            kind: Literal["counter", "gauge"] = "gauge" if name.endswith("_active") else "counter"
            full = f"{prefix}{name.removesuffix('_total')}"
            yield from written(kind, full, f"Envoy's {name}", rows, attrgetter(name))

    @staticmethod
    def _classes(name: str, key: str, found: Mapping[str, HttpStats | ClusterStats]) -> Iterator[str]:
        rows = (
            (f'{label(key, of)},envoy_response_code_class="{digit}"', stats.classes[digit])
            for of, stats in tuple(found.items())  # which may change between two pieces
            for digit in range(1, 6)
        )
        yield from written("counter", name, "Responses by class of status", rows, int)

    def _durations(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(
            "envoy_http_downstream_rq_time",
            "Time from the request head to the last byte of the response, milliseconds",
            labels=["envoy_http_conn_manager_prefix"],
        )
        bounds = [*(str(float(bound)) for bound in DURATION_BUCKETS), "+Inf"]
        for key, stats in self.http.items():
            family.add_metric([key], list(zip(bounds, accumulate(stats.buckets), strict=True)), stats.duration_sum)
        return family

    def _refusals(self) -> CounterMetricFamily:
        family = CounterMetricFamily(
            "pymesh_listener_refused", "Connections refused, by reason", labels=["envoy_listener_address", "reason"]
        )
        for key, stats in self.listeners.items():
            for reason, count in stats.refusals.items():
                family.add_metric([key, reason], count)
        return family
