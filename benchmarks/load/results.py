"""What was found, and the JSON in which it travels from the process that measured to the one that asked."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from benchmarks.load.histogram import Histogram

_SECOND: Final = 1_000_000_000
# Nanoseconds by which one request in a hundred may be sent late before the schedule counts as not kept, unless that is
# less than a tenth of what was measured.
LATE: Final = 500_000
LATE_PART: Final = 0.1


@dataclass(frozen=True, slots=True)
class Latencies:
    """Requests sent by a schedule. Times are nanoseconds from when a request was *due* to its answer's last byte.

    Attributes:
        target: the URL.
        rate: requests due a second.
        connections: that carried them, one request at a time each.
        seconds: that the schedule lasted, warm-up not counted.
        began: `time.monotonic()` at its start, warm-up not counted; the same clock for all processes of the machine.
        windows: the answers of each `window` seconds, by when their requests were due.
        window: seconds.
        late: how late each request was handed over by the generator itself: its own fault, within the figures.
        queued: requests that found every connection busy, and so waited.
        reconnects: connections made anew because one ended.
        statuses: how many answers with which status.
        errors: requests that have no place in `windows`, by what became of them: `status 503` (400 and above),
            `timeout`, `reset`, `closed`, `refused`, `protocol` (no HTTP), `short` (another body than expected), …
        examples: the words of the first error of each kind.
        cpu_seconds: user and system time of the generator, warm-up included.
    """

    target: str
    rate: float
    connections: int
    seconds: float
    began: float
    window: float
    windows: tuple[Histogram, ...]
    late: Histogram
    queued: int
    reconnects: int
    statuses: Mapping[str, int]
    errors: Mapping[str, int]
    examples: Mapping[str, str]
    cpu_seconds: float

    @property
    def histogram(self) -> Histogram:
        """All answers."""
        return added(self.windows)

    @property
    def kept_schedule(self) -> bool:
        """Whether the figures are the target's. If not, the generator was too slow, or had too little of a core."""
        return self.late.quantile(0.99) <= max(LATE, LATE_PART * self.histogram.quantile(0.99))

    def between(self, begin: float, end: float) -> Histogram:
        """Answers to requests due from `begin` to `end`, by `time.monotonic()`: windows that are wholly within."""
        return added(
            histogram
            for number, histogram in enumerate(self.windows)
            if begin <= self.began + number * self.window and self.began + (number + 1) * self.window <= end
        )

    def document(self) -> dict[str, Any]:
        """For JSON; the figures people ask for first, in milliseconds."""
        all_answers = self.histogram
        return {
            "target": self.target, "rate": self.rate, "connections": self.connections, "seconds": self.seconds,
            "answered": all_answers.count, "errors": dict(self.errors), "examples": dict(self.examples),
            "kept_schedule": self.kept_schedule, "latency_ms": figures(all_answers), "late_ms": figures(self.late),
            "queued": self.queued, "reconnects": self.reconnects, "statuses": dict(self.statuses),
            "cpu_seconds": self.cpu_seconds, "began": self.began, "window": self.window,
            "late": self.late.document(), "windows": [one.document() for one in self.windows],
        }  # fmt: skip

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What `document` wrote."""
        names = (
            "target", "rate", "connections", "seconds", "began", "window", "queued", "reconnects", "statuses", "errors",
            "examples", "cpu_seconds",
        )  # fmt: skip
        return cls(
            **{name: document[name] for name in names},
            late=Histogram.of(document["late"]),
            windows=tuple(Histogram.of(one) for one in document["windows"]),
        )


@dataclass(frozen=True, slots=True)
class Churned:
    """Connections that lived for one request.

    Attributes:
        connections: at a time.
        seconds: from the first one's begin to the last one's end.
        histogram: of each that had its answer, from before the connect to the answer's last byte, in nanoseconds. It
            is no latency under load: who waits for an answer before asking again sees no stall but his own.
        resumed: how many took up a TLS session.
        errors, examples: as in `Latencies`.
    """

    target: str
    connections: int
    seconds: float
    histogram: Histogram
    resumed: int
    errors: Mapping[str, int]
    examples: Mapping[str, str]
    cpu_seconds: float

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "target": self.target, "connections": self.connections, "seconds": self.seconds,
            "made": self.histogram.count, "resumed": self.resumed, "errors": dict(self.errors),
            "examples": dict(self.examples), "took_ms": figures(self.histogram), "cpu_seconds": self.cpu_seconds,
            "histogram": self.histogram.document(),
        }  # fmt: skip

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What `document` wrote."""
        names = ("target", "connections", "seconds", "resumed", "errors", "examples", "cpu_seconds")
        return cls(**{name: document[name] for name in names}, histogram=Histogram.of(document["histogram"]))


@dataclass(frozen=True, slots=True)
class Held:
    """Connections that are kept: how many were wanted, how many are there, and what became of the others."""

    target: str
    connections: int
    there: int
    errors: Mapping[str, int]
    examples: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What `document` wrote."""
        return cls(**document)


@dataclass(frozen=True, slots=True)
class Streamed:
    """Bytes that went to and fro. `seconds` from the first connect until the last byte was back."""

    target: str
    connections: int
    seconds: float
    sent: int
    received: int
    errors: Mapping[str, int]
    examples: Mapping[str, str]
    cpu_seconds: float

    @property
    def moved(self) -> int:
        """Bytes that what is between has moved, in both directions."""
        return self.sent + self.received

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "gigabytes_per_second": self.moved / 1e9 / self.seconds}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What `document` wrote."""
        return cls(**{name: value for name, value in document.items() if name != "gigabytes_per_second"})


def added(histograms: Iterable[Histogram]) -> Histogram:
    """Several as one."""
    return sum(histograms, Histogram())


def figures(histogram: Histogram) -> dict[str, float]:
    """p50, p90, p99, p99.9, most and mean, in milliseconds."""
    p50, p90, p99, p999 = histogram.quantiles([0.5, 0.9, 0.99, 0.999])
    named = {"p50": p50, "p90": p90, "p99": p99, "p99.9": p999, "max": histogram.most, "mean": histogram.mean}
    return {name: round(value / 1e6, 4) for name, value in named.items()}
