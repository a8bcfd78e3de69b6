"""What becomes of what is reported: it is counted by edge and by label, and kept for a while. Pure; time is given."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as PrometheusCollector

from pymesh import telemetry_tags
from pymesh.istio_metrics import IstioMetrics
from pymesh_controlplane.telemetry import istio
from pymesh_controlplane.telemetry.entries import Entry, Flight, Reader
from pymesh_controlplane.telemetry.graph import Edge, Party, Traffic
from pymesh_controlplane.telemetry.reporter import Reporter
from pymesh_controlplane.telemetry.ring import Ring

# Streams that have lost entries and are remembered. Of more, the one that was silent for longest is forgotten; what it
# has lost stays in the sum, and would be added once more should it speak again.
MAX_LOSERS: Final = 10_000
# Istio's series of one kind: four times what a sidecar keeps, since the whole mesh is here; 60 MB of text if all are
# used. Beyond a hundred services or so, scrape the proxies.
MAX_SERIES: Final = 1_000
# Of these, those that one proxy reported first, which keeps as many itself: an app that asks for ever new hosts uses up
# its own, and no others'.
MAX_SERIES_OF_ONE: Final = 256


class Collector(PrometheusCollector):
    """All that is known of the mesh's traffic, in memory.

    Attributes:
        traffic: the counts of the last minutes, by edge.
        ring: the last flights.
        refused: entries that were not taken, by reason, and streams that were, as `stream`.
        streams: how many proxies report now.
        entries: how many were taken.
    """

    def __init__(self, now: float, wall: float) -> None:
        """Begin at `now`, seconds of the monotonic clock, which is `wall` in Unix time."""
        self.traffic = Traffic(now)
        # In microseconds: nobody reports a million a second, so a later collector begins with a larger number.
        self.ring = Ring(int(wall * 1e6))
        self.refused: Counter[str] = Counter()
        self.streams = 0
        self.entries = 0
        self._istio = IstioMetrics(MAX_SERIES, MAX_SERIES_OF_ONE)
        self._reader = Reader()
        self._lost: dict[tuple[str, str, str], int] = {}
        self._lost_before = 0

    def take(self, entries: Sequence[Entry], reporter: Reporter, now: float) -> None:
        """Count and keep what `reporter` says in `entries` of one message, or in a part of it."""
        if entries:
            self._note_losses(entries[0], reporter)
        for flight in self._reader.read(entries, reporter, self.refused):
            self.entries += 1
            self.ring.add(flight)
            istio.count(self._istio, flight)
            self.traffic.add(
                now,
                _edge(flight),
                flight.side,
                failed=flight.failed,
                mtls=flight.mtls,
                milliseconds=None if flight.protocol == "tcp" else flight.milliseconds,
                received=flight.received,
                sent=flight.sent,
            )

    @property
    def lost(self) -> int:
        """Entries that the proxies say they have lost, since they started."""
        return self._lost_before + sum(self._lost.values())

    def _note_losses(self, first: Entry, reporter: Reporter) -> None:
        told = first.common_properties.custom_tags.get(telemetry_tags.DROPPED, "0")
        if not told.isdecimal() or len(told) > 18:
            self.refused["dropped_total"] += 1
        elif told != "0":
            # Requests and connections have a stream each, with losses of its own.
            self._lost_by((reporter.peer.namespace, reporter.pod, type(first).__name__), int(told))

    def _lost_by(self, stream: tuple[str, str, str], told: int) -> None:
        before = self._lost.pop(stream, 0)
        if told < before:  # it has started anew
            self._lost_before += before
        if len(self._lost) >= MAX_LOSERS:
            self._lost_before += self._lost.pop(next(iter(self._lost)))
        self._lost[stream] = told

    def istio_text(self) -> str:
        """Istio's standard metrics of everything, in Prometheus' text format."""
        return self._istio.text()

    def collect(self) -> Iterator[Metric]:
        """The collector's own numbers, for prometheus_client."""
        refused = CounterMetricFamily(
            "pymesh_telemetry_refused", "Streams and entries that were not taken, by reason.", labels=("reason",)
        )
        for reason, count in sorted(self.refused.items()):
            refused.add_metric((reason,), count)
        yield refused
        for name, text, count in (
            ("entries", "Entries taken.", self.entries),
            ("lost", "Entries that proxies say they have lost.", self.lost),
            ("evicted", "Records that went to make room for newer ones.", self.ring.evicted),
            ("edges_overflowed", "Entries counted under no edge of their own.", self.traffic.overflowed),
        ):
            yield CounterMetricFamily(f"pymesh_telemetry_{name}", text, value=count)
        for name, text, number in (
            ("streams", "Proxies that report now.", self.streams),
            ("records", "Records that are kept.", len(self.ring)),
            ("record_bytes", "Bytes of the records that are kept.", self.ring.size),
        ):
            yield GaugeMetricFamily(f"pymesh_telemetry_{name}", text, value=number)


def _edge(flight: Flight) -> Edge:
    source, destination = flight.source, flight.destination
    return Edge(
        Party(source.workload, source.namespace, source.version),
        Party(destination.workload, destination.namespace, destination.version),
        flight.service.host,
        flight.subset,
        flight.protocol,
    )
