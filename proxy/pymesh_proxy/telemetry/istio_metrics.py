"""Records → Istio's standard metrics, as this proxy sees its traffic.

A request costs one lookup by what its labels depend on, and some integer adds; the labels are made once. An opaque
connection is counted while it lasts: whatever has moved since is added when somebody asks (Istio: every five seconds).
"""

from collections.abc import Hashable
from typing import Final, Protocol

from pymesh.istio_metrics import MAX_SERIES, Connections, IstioMetrics, Labels, Requests
from pymesh.peer_metadata import UNKNOWN_VALUE
from pymesh.steps import Steps
from pymesh_proxy.errors import Flag
from pymesh_proxy.telemetry.peers import Peers
from pymesh_proxy.telemetry.record import RequestRecord

# Remembered ways to a series. There may be a few more than series, as two may lead to the same labels.
MAX_REMEMBERED: Final = 4 * MAX_SERIES
_NO_FLAG: Final = Flag.NONE


class Flow(Protocol):
    """An opaque connection that is open."""

    record: RequestRecord

    def moved(self) -> tuple[int, int]:
        """Bytes received from the client and sent to it, so far."""


class _Counted:
    """What of an open connection is in the counters already."""

    __slots__ = ("received", "sent", "series")

    def __init__(self, series: Connections) -> None:
        self.series = series
        self.received = self.sent = 0

    def catch_up(self, received: int, sent: int) -> None:
        self.series.received += received - self.received
        self.series.sent += sent - self.sent
        self.received, self.sent = received, sent


class IstioReporter:
    """Counts what this proxy does, in Istio's words."""

    def __init__(self, peers: Peers, limit: int = MAX_SERIES) -> None:
        """`limit`: series of requests, and of connections."""
        self._peers = peers
        self._metrics = IstioMetrics(limit)
        self._requests: dict[Hashable, Requests] = {}
        self._open: dict[Flow, _Counted] = {}

    def request(self, record: RequestRecord) -> None:
        """Count a finished request."""
        facts = record.facts
        # A flag stands for itself: the hash of an enum's member is a call of Python code.
        key = (
            record.source, record.destination, record.service, facts.direction, facts.peer, record.upstream_peer,
            record.status, id(record.flag) if record.gave_up is _NO_FLAG else record.flags,
        )  # fmt: skip
        series = self._requests.get(key)
        if series is None:
            series = self._find(key, record)
        series.add((record.t_end - record.t_start) * 1000.0, record.bytes_received, record.bytes_sent)

    def _find(self, key: Hashable, record: RequestRecord) -> Requests:
        code, flag = str(record.status), record.flags
        series, own = self._metrics.requests.get(
            (*self._ends(record), "http", code, "", flag, record.security)  # the second is grpc_response_status
        )
        if own and len(self._requests) < MAX_REMEMBERED:
            self._requests[key] = series
        return series

    # --- Opaque connections ---

    def opened(self, flow: Flow) -> None:
        """Count a connection whose upstream is reached."""
        self._peers.settle(flow.record)
        counted = self._open[flow] = _Counted(self._connections(flow.record))
        counted.series.opened += 1

    def closed(self, flow: Flow) -> None:
        """Count the end of a connection; also of one that never reached its upstream."""
        if flow not in self._open:
            self.opened(flow)
        counted = self._open.pop(flow)
        counted.catch_up(*flow.moved())
        counted.series.closed += 1

    def _connections(self, record: RequestRecord) -> Connections:
        labels = (*self._ends(record), "tcp", record.flag.value, record.security)
        return self._metrics.connections.get(labels)[0]

    def writing(self) -> Steps[str]:
        """Everything, for Prometheus."""
        for flow, counted in self._open.items():
            counted.catch_up(*flow.moved())
        return (yield from self._metrics.writing()) + _REFUSED.format(self._peers.refused)

    # --- Labels ---

    def _ends(self, record: RequestRecord) -> Labels:
        """The labels from `reporter` to `destination_cluster`."""
        source, destination, service, facts = record.source, record.destination, record.service, record.facts
        if facts.direction == "inbound":
            reporter, caller, callee = "destination", facts.peer, facts.own if facts.peer else ""
        else:
            reporter, callee = "source", record.upstream_peer
            caller = self._peers.principal if callee else ""
        return (
            reporter,
            source.workload,
            source.canonical_service,
            source.canonical_revision,
            source.namespace,
            caller or UNKNOWN_VALUE,
            source.app,
            source.version,
            source.cluster,
            destination.workload,
            destination.namespace,
            callee or UNKNOWN_VALUE,
            destination.app,
            destination.version,
            service.host,
            destination.canonical_service,
            destination.canonical_revision,
            service.name,
            service.namespace,
            destination.cluster,
        )


_REFUSED: Final = (
    "# HELP pymesh_peer_metadata_refused_total Requests whose sender said to be a workload that it is not\n"
    "# TYPE pymesh_peer_metadata_refused_total counter\n"
    "pymesh_peer_metadata_refused_total {}\n"
)
