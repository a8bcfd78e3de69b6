"""Istio's standard metrics of everything that was reported: the names, labels and their order that its tools ask for.

Every proxy has the same metrics of its own traffic. These here are for whoever cannot reach the proxies; scraping both
counts every request twice (`deploy/prometheus` drops these where it scrapes the proxies).
Source: https://istio.io/latest/docs/reference/config/metrics/
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from pymesh.peer_metadata import UNKNOWN_VALUE
from pymesh_controlplane.telemetry.entries import Flight

HTTP_LABELS: Final = (
    "reporter",
    "source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
    "source_principal", "source_app", "source_version", "source_cluster",
    "destination_workload", "destination_workload_namespace", "destination_principal", "destination_app",
    "destination_version", "destination_service", "destination_canonical_service", "destination_canonical_revision",
    "destination_service_name", "destination_service_namespace", "destination_cluster",
    "request_protocol", "response_code", "grpc_response_status", "response_flags", "connection_security_policy",
)  # fmt: skip
TCP_LABELS: Final = tuple(label for label in HTTP_LABELS if label not in {"response_code", "grpc_response_status"})

# Envoy's default buckets, which Istio's dashboards know.
BUCKETS: Final = (
    0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000,
)  # fmt: skip
# Label sets, of about 1.5 KiB each. What is beyond is counted, and seen in pymesh_telemetry_series_dropped_total.
MAX_SERIES: Final = 10_000

Labels = tuple[str, ...]


class Histogram:
    """Counts by bucket; the last is +Inf."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(BUCKETS, value)] += 1
        self.total += value


class HttpSeries:
    """Requests that share all labels."""

    __slots__ = ("milliseconds", "received", "requests", "sent")

    def __init__(self) -> None:
        self.requests = 0
        self.milliseconds, self.received, self.sent = Histogram(), Histogram(), Histogram()


class TcpSeries:
    """Connections of opaque bytes that share all labels. They are reported at their end: opened is closed."""

    __slots__ = ("connections", "received", "sent")

    def __init__(self) -> None:
        self.connections = self.received = self.sent = 0


class IstioMetrics:
    """The counts since the collector started.

    Attributes:
        dropped: flights that would have needed a label set beyond MAX_SERIES.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._http: dict[Labels, HttpSeries] = {}
        self._tcp: dict[Labels, TcpSeries] = {}

    def add(self, flight: Flight) -> None:
        """Count one flight."""
        labels = labels_of(flight)
        if flight.protocol == "tcp":
            tcp = self._tcp.get(labels)
            if tcp is None:
                if self._full():
                    return
                tcp = self._tcp[labels] = TcpSeries()
            tcp.connections += 1
            tcp.received += flight.received
            tcp.sent += flight.sent
            return
        http = self._http.get(labels)
        if http is None:
            if self._full():
                return
            http = self._http[labels] = HttpSeries()
        http.requests += 1
        http.milliseconds.observe(flight.milliseconds)
        http.received.observe(flight.received)
        http.sent.observe(flight.sent)

    def _full(self) -> bool:
        full = len(self._http) + len(self._tcp) >= MAX_SERIES
        self.dropped += full
        return full

    def families(self) -> Iterator[Metric]:
        """Everything, for prometheus_client; may be called in a thread, beside `add`."""
        requests = CounterMetricFamily("istio_requests", "Requests.", labels=HTTP_LABELS)
        for labels, http in list(self._http.items()):
            requests.add_metric(labels, http.requests)
        yield requests
        for name, text, field in (
            ("istio_request_duration_milliseconds", "Milliseconds from the first byte to the last.", "milliseconds"),
            ("istio_request_bytes", "Bytes of the bodies of requests.", "received"),
            ("istio_response_bytes", "Bytes of the bodies of responses.", "sent"),
        ):
            family = HistogramMetricFamily(name, text, labels=HTTP_LABELS)
            for labels, http in list(self._http.items()):
                histogram: Histogram = getattr(http, field)
                bounds = (*(f"{bound:g}" for bound in BUCKETS), "+Inf")
                family.add_metric(
                    labels,
                    list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True)),
                    histogram.total,
                )
            yield family
        for name, text, field in (
            ("istio_tcp_connections_opened", "Connections of opaque bytes that began.", "connections"),
            ("istio_tcp_connections_closed", "Connections of opaque bytes that ended.", "connections"),
            ("istio_tcp_received_bytes", "Bytes from clients, over connections of opaque bytes.", "received"),
            ("istio_tcp_sent_bytes", "Bytes to clients, over connections of opaque bytes.", "sent"),
        ):
            counter = CounterMetricFamily(name, text, labels=TCP_LABELS)
            for labels, tcp in list(self._tcp.items()):
                counter.add_metric(labels, getattr(tcp, field))
            yield counter


def labels_of(flight: Flight) -> Labels:
    """The labels of a flight: HTTP_LABELS, or TCP_LABELS for a connection of opaque bytes."""
    source, destination, service = flight.source, flight.destination, flight.service
    answer = () if flight.protocol == "tcp" else (str(flight.status), flight.grpc_status)
    return (
        flight.side,
        source.workload, source.canonical_service, source.canonical_revision, source.namespace,
        flight.source_principal or UNKNOWN_VALUE, source.app, source.version, source.cluster,
        destination.workload, destination.namespace, flight.destination_principal or UNKNOWN_VALUE, destination.app,
        destination.version, service.host, destination.canonical_service, destination.canonical_revision,
        service.name, service.namespace, destination.cluster,
        flight.protocol, *answer, flight.flag, flight.security,
    )  # fmt: skip
