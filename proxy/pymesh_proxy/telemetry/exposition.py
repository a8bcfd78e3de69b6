"""Metrics for one scrape, and how they are written for Prometheus; no registry, nothing that lives on.

The classes are those of prometheus_client as far as they are used here, which with all that it loads would be a tenth
of an idle sidecar's memory. Source: prometheus.io/docs/instrumenting/exposition_formats, the text format.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import inf, isinf, isnan
from typing import ClassVar, Final, Protocol

from pymesh.steps import Steps, whole

# Lines between two chances for others: about 0.2 ms.
_LINES_AT_ONCE: Final = 100


class Metric:
    """A family of samples: the same name and meaning, told apart by labels. `name` is without a counter's `_total`."""

    kind: ClassVar[str] = "untyped"
    suffix: ClassVar[str] = ""

    def __init__(self, name: str, documentation: str, value: float | None = None, labels: Sequence[str] = ()) -> None:
        """With `value` where there is one sample only, without labels."""
        self.name = name.removesuffix(self.suffix)
        self.documentation = documentation
        self.samples: list[tuple[str, list[tuple[str, str]], float]] = []  # suffix of the name, labels, value
        self._labels = labels
        if value is not None:
            self.add_metric((), value)

    def add_metric(self, labels: Sequence[str], value: float) -> None:
        """A sample; values of the labels in the order of their names."""
        self._add(self.suffix, labels, value)

    def lines(self) -> Iterator[str]:
        """In the text format."""
        yield f"# HELP {self.name}{self.suffix} {_escaped(self.documentation)}\n"
        yield f"# TYPE {self.name}{self.suffix} {self.kind}\n"
        for suffix, labels, value in self.samples:
            shown = ",".join(f'{name}="{_quoted(text)}"' for name, text in sorted(labels))
            yield (
                f"{self.name}{suffix}{{{shown}}} {_number(value)}\n"
                if shown
                else (f"{self.name}{suffix} {_number(value)}\n")
            )

    def _add(self, suffix: str, labels: Sequence[str], value: float, *more: tuple[str, str]) -> None:
        self.samples.append((suffix, [*zip(self._labels, labels, strict=True), *more], value))


class CounterMetricFamily(Metric):
    """What only grows."""

    kind = "counter"
    suffix = "_total"


class GaugeMetricFamily(Metric):
    """What goes up and down."""

    kind = "gauge"


class HistogramMetricFamily(Metric):
    """Values by buckets: of each bound how many were not above it, the last one `+Inf`."""

    kind = "histogram"

    def add_histogram(self, labels: Sequence[str], buckets: Sequence[tuple[str, int]], sum_value: float) -> None:
        """The counts of one series, cumulative, by bound."""
        for bound, count in buckets:
            self._add("_bucket", labels, count, ("le", bound))
        self._add("_count", labels, buckets[-1][1])
        self._add("_sum", labels, sum_value)


class SummaryMetricFamily(Metric):
    """How many there were, and their sum."""

    kind = "summary"

    def add_summary(self, labels: Sequence[str], count_value: float, sum_value: float) -> None:
        """Those of one series."""
        self._add("_count", labels, count_value)
        self._add("_sum", labels, sum_value)


class Collector(Protocol):
    """What has metrics to tell."""

    def collect(self) -> Iterator[Metric]:
        """Every family with its current values."""


def render(collectors: Iterable[Collector]) -> bytes:
    """All of their metrics in the text format."""
    return whole(rendering(collectors))


def rendering(collectors: Iterable[Collector]) -> Steps[bytes]:
    """`render` in steps: the metrics of a thousand clusters take longer than a request should have to wait."""
    found: list[str] = []
    for collector in collectors:
        for family in collector.collect():
            for number, line in enumerate(family.lines()):
                if not number % _LINES_AT_ONCE:
                    yield
                found.append(line)
    return "".join(found).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")


def _number(value: float) -> str:
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "+Inf" if value == inf else "-Inf"
    return repr(float(value))
