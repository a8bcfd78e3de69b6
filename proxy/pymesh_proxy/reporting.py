"""The reporters of one proxy: one for each collector that the configuration in force names, whoever names it."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.config.model import GrpcAccessLog, Tracing
from pymesh_proxy.control.grpc_cluster import ClusterChannel, Mesh
from pymesh_proxy.control.reporter import CallReceiver, Counts, Reporter, StreamReceiver
from pymesh_proxy.telemetry import als, otlp
from pymesh_proxy.telemetry.record import RequestRecord

# Seconds that a reporter whose collector is no longer configured has for what it still holds.
FAREWELL: Final = 5.0


# What spans are called beside the logs, in metrics.
SPANS: Final = "spans"
# A batch of spans goes when it is so old (seconds) or so large (bytes). Traces are looked at later than logs.
SPANS_INTERVAL: Final = 2.0
SPANS_BYTES: Final = 64 * 1024

Collector: TypeAlias = GrpcAccessLog | Tracing


class Reporters:
    """Every reporter of one proxy.

    Attributes:
        node: how the proxy introduces itself; set before the first record by whoever knows.
    """

    def __init__(self, mesh: Mesh, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """`spawn` runs a coroutine in a task that somebody owns."""
        self.node = NodeMessage()
        self._mesh = mesh
        self._spawn = spawn
        self._rng = random.Random()  # noqa: S311 - spreads reconnects, nothing secret
        self._reporters: dict[Collector, tuple[Reporter, asyncio.Task[None]]] = {}
        self._channels: dict[str, ClusterChannel] = {}
        self._counts: dict[tuple[str, str], Counts] = {}  # by cluster and log, also of reporters that are gone

    def get(self, to: Collector) -> Reporter:
        """The reporter to that collector; made when it is first asked for."""
        found = self._reporters.get(to)
        if found is None:
            reporter = self._log(to) if isinstance(to, GrpcAccessLog) else self._spans(to)
            found = self._reporters[to] = reporter, self._spawn(reporter.run())
        return found[0]

    def retain(self, wanted: Iterable[Collector]) -> None:
        """Let those go that the configuration in force does not ask for, once they have sent what they hold."""
        for to in self._reporters.keys() - set(wanted):
            reporter, task = self._reporters.pop(to)
            self._spawn(self._dismiss(reporter, task))

    async def finish(self, within: float) -> None:
        """Send everything that waits, and have it confirmed, as far as that is done `within` seconds."""
        reporters = [reporter for reporter, _ in self._reporters.values()]
        await asyncio.gather(*(reporter.finish(within) for reporter in reporters))

    async def close(self) -> None:
        """Close the connections. The tasks end with their owner."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """See exposition.Collector."""
        labels = ["cluster", "log"]
        sent = CounterMetricFamily("pymesh_telemetry_sent", "Entries handed over to a collector", labels=labels)
        text = "Entries lost: the queue was full, the connection broke, or the collector refused them"
        dropped = CounterMetricFamily("pymesh_telemetry_dropped", text, labels=labels)
        connected = GaugeMetricFamily("pymesh_telemetry_connected", "1 if the last batch was taken", labels=labels)
        for key, counts in self._counts.items():
            sent.add_metric(key, counts.sent)
            dropped.add_metric(key, counts.dropped)
            connected.add_metric(key, float(counts.connected))
        yield from (sent, dropped, connected)

    def _channel(self, cluster: str) -> ClusterChannel:
        """One connection to a collector, for all that is reported to it."""
        found = self._channels.get(cluster)
        if found is None:
            found = self._channels[cluster] = ClusterChannel(self._mesh, cluster)
        return found

    def _log(self, log: GrpcAccessLog) -> Reporter:
        name = f"{log.log_name}_{log.kind}"
        return Reporter(
            f"access log {name} to {log.cluster}",
            als.HttpEncoder(log.request_headers, log.response_headers) if log.kind == "http" else _tcp_entry,
            StreamReceiver(
                self._channel(log.cluster),
                als.METHOD,
                lambda: als.identifier(self.node, log.log_name),
                als.http_message if log.kind == "http" else als.tcp_message,
            ),
            self._counts.setdefault((log.cluster, name), Counts()),
            flush_interval=log.flush_interval,
            flush_bytes=log.flush_bytes,
            rng=self._rng,
        )

    def _spans(self, tracing: Tracing) -> Reporter:
        def join(spans: Sequence[bytes], dropped: int) -> bytes:  # noqa: ARG001 - OTLP has no word for it
            return otlp.export_request(otlp.resource(self.node, tracing.service_name), spans)

        return Reporter(
            f"spans to {tracing.cluster}",
            otlp.span,
            CallReceiver(self._channel(tracing.cluster), otlp.METHOD, join),
            self._counts.setdefault((tracing.cluster, SPANS), Counts()),
            flush_interval=SPANS_INTERVAL,
            flush_bytes=SPANS_BYTES,
            rng=self._rng,
        )

    async def _dismiss(self, reporter: Reporter, task: asyncio.Task[None]) -> None:
        await reporter.finish(FAREWELL)
        task.cancel()


def _tcp_entry(record: RequestRecord, request: Head | None, response: Head | None) -> bytes:  # noqa: ARG001 - as Encode
    return als.tcp_entry(record).SerializeToString()
