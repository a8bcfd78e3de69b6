"""Istio's standard metrics: names, labels, buckets, counting, and Prometheus' text. For the proxies and the collector.

A series is found once by its labels and is plain integers from then on; the text is made when somebody asks for it,
which costs a tenth of making it with prometheus_client's types. Source: Istio's "Standard Metrics" page; the order of
the labels is that of Istio's telemetry filter (istio/proxy, istio_stats.cc).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final, Generic, TypeAlias, TypeVar

from pymesh.steps import Steps

HTTP_LABELS: Final = (
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
)
TCP_LABELS: Final = tuple(name for name in HTTP_LABELS if name not in {"response_code", "grpc_response_status"})

# Envoy's, for every histogram: milliseconds and bytes alike.
BUCKETS: Final = (
    0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000,
)  # fmt: skip

# The same for floats: comparing them with integers costs twice as much.
_MILLISECONDS: Final = tuple(float(bound) for bound in BUCKETS)

# Series of one kind that a process keeps. A series of requests is 66 lines of some 900 bytes when it is scraped, so
# that these are 16 MB; a sidecar in a busy mesh has some hundreds.
MAX_SERIES: Final = 256
# Every label of what is counted beyond it, but for the reporter.
OVERFLOW: Final = "overflow"

Labels: TypeAlias = tuple[str, ...]


class Histogram:
    """Values by BUCKETS, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum: float = 0


class Requests:
    """Requests with the same labels. Their number is that of the values in any of the histograms."""

    __slots__ = ("durations", "request_bytes", "response_bytes")

    def __init__(self) -> None:
        self.durations = Histogram()  # milliseconds
        self.request_bytes = Histogram()
        self.response_bytes = Histogram()

    def add(self, milliseconds: float, request_bytes: int, response_bytes: int) -> None:
        """Count one request."""
        histogram = self.durations
        histogram.counts[bisect_left(_MILLISECONDS, milliseconds)] += 1
        histogram.sum += milliseconds
        histogram = self.request_bytes
        if request_bytes:
            histogram.counts[bisect_left(BUCKETS, request_bytes)] += 1
            histogram.sum += request_bytes
        else:  # most have no body
            histogram.counts[0] += 1
        histogram = self.response_bytes
        histogram.counts[bisect_left(BUCKETS, response_bytes)] += 1
        histogram.sum += response_bytes


class Connections:
    """Opaque connections with the same labels. `sent` is what went to the client."""

    __slots__ = ("closed", "opened", "received", "sent")

    def __init__(self) -> None:
        self.opened = self.closed = self.sent = self.received = 0


S = TypeVar("S")


class Table(Generic[S]):
    """The series of one kind, by their labels. Bounded; what does not fit is counted, in one series by reporter.

    At most `limit` in all, and `share` of one owner, so that none takes the others' room by making up labels.
    """

    def __init__(self, names: tuple[str, ...], make: Callable[[], S], limit: int, share: int) -> None:
        self.overflowed = 0  # how often a series was asked for that did not fit
        self._limit = limit
        self._share = share
        self._owned: Counter[str] = Counter()
        self._names = names
        self._make = make
        self._series: dict[Labels, tuple[str, S]] = {}

    def get(self, labels: Labels, owner: str = "") -> tuple[S, bool]:
        """The series with these labels, and whether it is theirs alone, so that it may be remembered for them.

        A new one is `owner`'s.
        """
        found = self._series.get(labels)
        if found is not None:
            return found[1], True
        own = len(self._series) < self._limit and self._owned[owner] < self._share
        if own:
            self._owned[owner] += 1
        else:
            self.overflowed += 1
            labels = (labels[0],) + (OVERFLOW,) * (len(labels) - 1)
        if labels not in self._series:
            pairs = zip(self._names, labels, strict=True)
            text = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
            self._series[labels] = (text, self._make())
        return self._series[labels][1], own

    def __iter__(self) -> Iterator[tuple[str, S]]:
        """The labels as Prometheus writes them, and the series."""
        return iter(list(self._series.values()))

    def items(self) -> Iterator[tuple[Labels, S]]:
        """Labels and series."""
        return ((labels, series) for labels, (_, series) in self._series.items())


class IstioMetrics:
    """All standard metrics of one process: at most `limit` series of each kind, `share` of them one owner's."""

    def __init__(self, limit: int = MAX_SERIES, share: int | None = None) -> None:
        self.requests = Table(HTTP_LABELS, Requests, limit, share or limit)
        self.connections = Table(TCP_LABELS, Connections, limit, share or limit)

    def text(self) -> str:
        """Everything in Prometheus' text format, version 0.0.4. May be made in a thread, while others count."""
        return "".join(self._parts())

    def writing(self) -> Steps[str]:
        """`text` in steps of a series."""
        found: list[str] = []
        for part in self._parts():
            found.append(part)
            yield
        return "".join(found)

    def _parts(self) -> Iterator[str]:
        """Some lines at a time: what a metric is, or one of its series."""
        for name, help_text, value in _REQUEST_COUNTERS:
            yield from _counter(name, help_text, self.requests, value)
        for name, help_text, histogram in _REQUEST_HISTOGRAMS:
            yield from _histogram(name, help_text, self.requests, histogram)
        for name, help_text, value_of in _CONNECTION_COUNTERS:
            yield from _counter(name, help_text, self.connections, value_of)
        overflowed = self.requests.overflowed + self.connections.overflowed
        name = "pymesh_istio_series_overflow_total"
        yield _head(name, f"Counted with the labels {OVERFLOW!r}: too many series", "counter")
        yield f"{name} {overflowed}\n"


_REQUEST_COUNTERS: Final[tuple[tuple[str, str, Callable[[Requests], int]], ...]] = (
    ("istio_requests_total", "Requests", lambda series: sum(series.durations.counts)),
)
_REQUEST_HISTOGRAMS: Final[tuple[tuple[str, str, Callable[[Requests], Histogram]], ...]] = (
    (
        "istio_request_duration_milliseconds",
        "Time from the request's head to the last byte of the response",
        lambda series: series.durations,
    ),
    ("istio_request_bytes", "Size of request bodies", lambda series: series.request_bytes),
    ("istio_response_bytes", "Size of response bodies", lambda series: series.response_bytes),
)
_CONNECTION_COUNTERS: Final[tuple[tuple[str, str, Callable[[Connections], int]], ...]] = (
    ("istio_tcp_connections_opened_total", "Opaque connections opened", lambda series: series.opened),
    ("istio_tcp_connections_closed_total", "Opaque connections closed", lambda series: series.closed),
    ("istio_tcp_sent_bytes_total", "Bytes sent to the client over opaque connections", lambda series: series.sent),
    (
        "istio_tcp_received_bytes_total",
        "Bytes received from the client over opaque connections",
        lambda series: series.received,
    ),
)
_BOUNDS: Final = (*(f"{bound:g}" if bound < 1 else str(int(bound)) for bound in BUCKETS), "+Inf")


def _head(name: str, help_text: str, kind: str) -> str:
    return f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n"


def _counter(name: str, help_text: str, table: Table[S], value: Callable[[S], int]) -> Iterator[str]:
    yield _head(name, help_text, "counter")
    for labels, series in table:
        yield f"{name}{{{labels}}} {value(series)}\n"


def _histogram(name: str, help_text: str, table: Table[S], histogram: Callable[[S], Histogram]) -> Iterator[str]:
    yield _head(name, help_text, "histogram")
    for labels, series in table:
        values = histogram(series)
        counts = list(accumulate(values.counts))
        buckets = zip(_BOUNDS, counts, strict=True)
        lines = [f'{name}_bucket{{{labels},le="{bound}"}} {count}\n' for bound, count in buckets]
        lines.append(f"{name}_sum{{{labels}}} {values.sum:.10g}\n{name}_count{{{labels}}} {counts[-1]}\n")
        yield "".join(lines)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
