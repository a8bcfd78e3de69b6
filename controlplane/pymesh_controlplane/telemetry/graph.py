"""Who talks to whom, how often and how well, over the last minutes. Pure: time is an argument.

What is reported is counted in buckets of one second, by the edge it belongs to; a question about the last N seconds
adds up N buckets. A request between two sidecars is reported twice, by its source and by its destination. An answer
takes the source's word where there is one, since the source also knows of what never arrived, and the destination's
otherwise (a caller without a sidecar). Never both: a request counts once.

Time is the collector's own: a report counts in the second in which it came. Clocks of machines differ; the interval at
which proxies send is about a second, so windows shorter than a few seconds say little.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from heapq import nlargest
from math import ceil, floor, log
from typing import Final, Literal, NamedTuple, TypeAlias

from pymesh import names

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Reporter: TypeAlias = Literal["source", "destination"]

# Seconds that are kept: what a person asks about a change just made, and what `pymesh shift` watches.
KEEP: Final = 300
# Edges in one second. A mesh of a thousand workloads has a few thousand; what is beyond counts as OTHER, visibly.
MAX_EDGES: Final = 4_000
# Cells (an edge in a second) in all, of about 1 KiB each; the oldest seconds go first, and `covered` says so.
MAX_CELLS: Final = 50_000
# Edges in one answer, the busiest: some 4 MB. Hosts that an app made up must not make it one that nobody takes.
MAX_ANSWERED: Final = 5_000
# Durations are counted in classes whose bounds are this factor apart: a percentile is off by 2.5 % at most.
_RATIO: Final = 1.05
# Milliseconds of the lowest class, and how many there are: up to about an hour.
_LOWEST: Final = 0.01
_CLASSES: Final = 400
_LOG_RATIO: Final = log(_RATIO)

UNKNOWN: Final = "unknown"


class Party(NamedTuple):
    """One end of an edge: a workload (a Deployment's name, say), its namespace and its version label."""

    workload: str = UNKNOWN
    namespace: str = UNKNOWN
    version: str = UNKNOWN


class Edge(NamedTuple):
    """What one count is about.

    Attributes:
        source: who asked.
        destination: who answered; unknown where nobody did, as when a service has no healthy endpoint.
        service: the host that was asked for, `reviews.bookinfo.svc.cluster.local`.
        subset: the subset of it, as the DestinationRule calls it, where a route chose one; only the source knows.
        protocol: `http`, `grpc` or `tcp`.
    """

    source: Party
    destination: Party
    service: str
    subset: str = ""
    protocol: str = "http"


OTHER: Final = Edge(Party("other", "other", "other"), Party("other", "other", "other"), "other", "", "other")


@dataclass(slots=True)
class Cell:
    """Counts: requests (for tcp: connections that ended), those that failed, those under mTLS, bytes, durations."""

    requests: int = 0
    failed: int = 0
    mtls: int = 0
    received: int = 0
    sent: int = 0
    classes: Counter[int] = field(default_factory=Counter)

    def add(self, other: "Cell") -> None:
        """Count what `other` counts as well."""
        self.requests += other.requests
        self.failed += other.failed
        self.mtls += other.mtls
        self.received += other.received
        self.sent += other.sent
        self.classes.update(other.classes)

    def quantile(self, share: float) -> float | None:
        """Milliseconds within which `share` of the requests were answered; None if none has a duration."""
        rank = ceil(share * self.classes.total())
        for number, count in sorted(self.classes.items()):
            rank -= count
            if rank <= 0:
                return round(float(_LOWEST * _RATIO ** (number + 0.5)), 3)
        return None

    def numbers(self) -> dict[str, Json]:
        """`requests`, `failed`, `errors` (their share, 0 to 1), `p50_ms` and `p99_ms` (null if unknown)."""
        return {
            "requests": self.requests,
            "failed": self.failed,
            "errors": round(self.failed / self.requests, 4) if self.requests else 0.0,
            "p50_ms": self.quantile(0.5),
            "p99_ms": self.quantile(0.99),
        }


Bucket: TypeAlias = dict[tuple[Edge, Reporter], Cell]


class Traffic:
    """The counts of the last KEEP seconds. All times are seconds of one monotonic clock.

    Attributes:
        overflowed: reports that were counted as OTHER.
    """

    def __init__(self, now: float) -> None:
        self.overflowed = 0
        self._since = now
        self._buckets: deque[tuple[int, Bucket]] = deque()
        self._cells = 0

    def add(
        self,
        now: float,
        edge: Edge,
        reporter: Reporter,
        *,
        failed: bool = False,
        mtls: bool = False,
        milliseconds: float | None = None,
        received: int = 0,
        sent: int = 0,
    ) -> None:
        """Count one request, or one connection that ended, as `reporter` tells of it.

        Args:
            now: when the report came.
            edge: what it belongs to.
            reporter: which end of the edge tells of it.
            failed: whether it is an error.
            mtls: whether both ends proved who they are.
            milliseconds: how long it took; None for connections, whose length says nothing about how well it went.
            received, sent: bytes of bodies, from the reporter's downstream and to it.
        """
        bucket = self._bucket(int(now))
        cell = bucket.get((edge, reporter))
        if cell is None:
            if len(bucket) >= MAX_EDGES:
                edge = OTHER
                self.overflowed += 1
            cell = bucket.get((edge, reporter))
            if cell is None:
                cell = bucket[edge, reporter] = Cell()
                self._cells += 1
        cell.requests += 1
        cell.failed += failed
        cell.mtls += mtls
        cell.received += received
        cell.sent += sent
        if milliseconds is not None:
            cell.classes[_class_of(milliseconds)] += 1

    def graph(self, now: float, window: float, namespace: str = "") -> dict[str, Json]:
        """Who talked to whom in the last `window` seconds, in or into or out of `namespace` (empty: any).

        Returns:
            `{"window": as asked, at most KEEP, "covered": seconds that there are counts of, by which rates are made,
            "omitted": how many edges are too many to be told, "edges": [...]}`, the edges busiest first, each
            `{"source": {"workload", "namespace", "version"}, "destination": {"workload", "namespace", "version",
            "service"}, "protocol": "http" | "grpc" | "tcp", "reporter": "source" | "destination", "rate": per second,
            "mtls": share 0..1, "requests": int, "failed": int, "errors": share 0..1, "p50_ms", "p99_ms": float or null,
            "bytes_received", "bytes_sent": int}`. For tcp, requests are connections that ended.
        """
        window = _window(window)
        covered = self._covered(now, window)
        asked = [
            ((edge, reporter), cell)
            for (edge, reporter), cell in _merged(self._told(now, window)).items()
            if namespace in {"", edge.source.namespace, edge.destination.namespace}
        ]
        busiest = nlargest(MAX_ANSWERED, asked, key=lambda item: item[1].requests)
        edges = [_edge(edge, reporter, cell, covered) for (edge, reporter), cell in busiest]
        edges.sort(key=lambda edge: (-float(str(edge["requests"])), str(edge)))
        omitted = len(asked) - len(edges)
        return {"window": window, "covered": round(covered, 1), "edges": [*edges], "omitted": omitted}

    def stats(self, now: float, window: float, service: str, namespace: str) -> dict[str, Json]:
        """How well each version of `service` answered in the last `window` seconds.

        Args:
            now: the time.
            window: seconds, at most KEEP.
            service: the name of a Service of `namespace`, or a whole host name.
            namespace: of the Service.

        Returns:
            `{"service": host, "window": seconds, "covered": seconds, "versions": {VERSION: NUMBERS},
            "subsets": {SUBSET: NUMBERS}}` with NUMBERS as `{"requests": int, "failed": int, "errors": share 0..1,
            "p50_ms": float or null, "p99_ms": float or null}`. Versions are the `version` labels of the pods that
            answered, `unknown` for requests that nobody answered. Subsets are what the callers' routes chose, so they
            also have the requests to a subset without endpoints; requests of callers without a sidecar are in no
            subset. A version or subset without requests is absent.
        """
        window = _window(window)
        host = service if "." in service else names.service_host(service, namespace)
        versions: dict[str, Cell] = {}
        subsets: dict[str, Cell] = {}
        for (edge, _), cell in self._told(now, window).items():
            if edge.service == host:
                versions.setdefault(edge.destination.version, Cell()).add(cell)
                if edge.subset:
                    subsets.setdefault(edge.subset, Cell()).add(cell)
        return {
            "service": host,
            "window": window,
            "covered": round(self._covered(now, window), 1),
            "versions": {name: cell.numbers() for name, cell in sorted(versions.items())},
            "subsets": {name: cell.numbers() for name, cell in sorted(subsets.items())},
        }

    def _bucket(self, second: int) -> Bucket:
        if not self._buckets or self._buckets[-1][0] < second:
            self._buckets.append((second, {}))
        while len(self._buckets) > 1 and (self._buckets[0][0] <= second - KEEP or self._cells > MAX_CELLS):
            gone, bucket = self._buckets.popleft()
            self._cells -= len(bucket)
            self._since = max(self._since, float(gone + 1))
        return self._buckets[-1][1]

    def _covered(self, now: float, window: float) -> float:
        """Seconds from the first bucket of the window, which counts as a whole, to now."""
        return max(now - max(float(floor(now - window)), self._since), 1.0)

    def _told(self, now: float, window: float) -> Bucket:
        """The counts of the window, those of the better reporter only."""
        total: Bucket = {}
        for second, bucket in self._buckets:
            if floor(now - window) <= second <= now:
                for key, cell in bucket.items():
                    total.setdefault(key, Cell()).add(cell)
        sources = {_pair(edge) for edge, reporter in total if reporter == "source"}
        covered = sources | {_vague(pair) for pair in sources}
        return {
            (edge, reporter): cell
            for (edge, reporter), cell in total.items()
            if reporter == "source" or not covered.intersection(_likenesses(edge, cell))
        }


Pair: TypeAlias = tuple[str, str, str, str, str]


def _pair(edge: Edge) -> Pair:
    """What the reports of both ends agree on."""
    source, destination = edge.source, edge.destination
    return source.workload, source.namespace, destination.workload, destination.namespace, edge.service


def _vague(pair: Pair) -> Pair:
    """The same by the words of a destination that knows less."""
    _, namespace, destination, destination_namespace, _ = pair
    return UNKNOWN, namespace, destination, destination_namespace, UNKNOWN


def _likenesses(edge: Edge, cell: Cell) -> tuple[Pair, ...]:
    """What a source's report of the same would say, as far as the destination knows.

    Under mutual TLS the source has a proxy, which reports as well. Of opaque bytes the destination then knows no more
    of the source than its namespace, and an Envoy does not know which service was asked for.
    """
    pair = _pair(edge)
    if not cell.mtls or UNKNOWN not in {edge.source.workload, edge.service}:
        return (pair,)
    return pair, _vague(pair)


def _merged(told: Bucket) -> Bucket:
    """`told` without the subsets, which nobody wants to see as edges of their own."""
    result: Bucket = {}
    for (edge, reporter), cell in told.items():
        result.setdefault((edge._replace(subset=""), reporter), Cell()).add(cell)
    return result


def _edge(edge: Edge, reporter: Reporter, cell: Cell, covered: float) -> dict[str, Json]:
    return {
        "source": dict(edge.source._asdict()),
        "destination": {**edge.destination._asdict(), "service": edge.service},
        "protocol": edge.protocol,
        "reporter": reporter,
        "rate": round(cell.requests / covered, 3),
        "mtls": round(cell.mtls / cell.requests, 4),
        **cell.numbers(),
        "bytes_received": cell.received,
        "bytes_sent": cell.sent,
    }


def _window(seconds: float) -> float:
    return min(max(seconds, 1.0), float(KEEP))


def _class_of(milliseconds: float) -> int:
    if milliseconds <= _LOWEST:
        return 0
    return min(floor(log(milliseconds / _LOWEST) / _LOG_RATIO), _CLASSES - 1)
