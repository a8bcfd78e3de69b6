"""What a turn of load showed, and the figures that are made of it."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from benchmarks.load.histogram import Histogram

# In `Sample.most`: milliseconds by which the generator itself was late, where that is too much to trust its latencies.
LATE: Final = "generator_late_ms"


# Figures that every scenario has, not made of samples: bytes resident before the first request, and after the last.
RSS_IDLE: Final = "rss_idle_bytes"
RSS_LOADED: Final = "rss_loaded_bytes"


class Unit(Enum):
    """What the cost of is told. The value is the word for people."""

    REQUEST = "request"
    CONNECTION = "connection"
    CHECK = "check"
    GIGABYTE = "GB"

    @property
    def plural(self) -> str:
        """`requests`."""
        return self.value if self is Unit.GIGABYTE else f"{self.value}s"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one turn of load showed of one contender. Turns of a round are added: by what happened, not by their rates.

    Attributes:
        units: requests answered, connections served, or gigabytes (10^9 bytes) moved.
        seconds: of saturating load.
        cpu: seconds of user and system time while those units were served, by part of the contender.
        load_cpu: the same of the load generator and the upstream, which share the other core.
        errors: how many of which kind; empty in a turn that counts.
        latencies: at a fixed rate, from when each request was due.
        most: the largest seen of something, by the name of its figure.
    """

    units: float = 0.0
    seconds: float = 0.0
    cpu: Mapping[str, float] = field(default_factory=dict)
    load_cpu: float = 0.0
    errors: Mapping[str, int] = field(default_factory=dict)
    latencies: Histogram = field(default_factory=Histogram)
    most: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: "Sample") -> "Sample":
        """Both as one."""
        names = [*self.cpu, *(name for name in other.cpu if name not in self.cpu)]
        largest = dict(self.most)
        for name, value in other.most.items():
            largest[name] = max(value, largest.get(name, value))
        return Sample(
            self.units + other.units,
            self.seconds + other.seconds,
            {name: self.cpu.get(name, 0.0) + other.cpu.get(name, 0.0) for name in names},
            self.load_cpu + other.load_cpu,
            Counter(self.errors) + Counter(other.errors),
            self.latencies + other.latencies,
            largest,
        )

    @property
    def cpu_seconds(self) -> float:
        """Of all parts."""
        return sum(self.cpu.values())

    @property
    def busy(self) -> float:
        """How much of one core the proxy had, 0 to 1: far below 1 it was not the limit, or somebody else was there."""
        return self.cpu_seconds / self.seconds

    @property
    def load_busy(self) -> float:
        """How much of one core the load generator and the upstream had: near 1 they were the limit."""
        return self.load_cpu / self.seconds


@dataclass(frozen=True, slots=True)
class Figure:
    """Something told of a contender, one value a round.

    Attributes:
        name: as programs read it, with its unit.
        title: the head of its column.
        of: the figure of a sample.
        digits: behind the point.
        percent: shown as a percentage, of 1.
    """

    name: str
    title: str
    of: Callable[[Sample], float]
    digits: int = 1
    percent: bool = False

    def text(self, value: float) -> str:
        """The value for people."""
        return f"{value:.0%}" if self.percent else f"{value:,.{self.digits}f}"


def cost(unit: Unit) -> Figure:
    """CPU for one unit, of all parts of the contender: seconds a gigabyte, else microseconds."""
    if unit is Unit.GIGABYTE:
        return Figure("cpu_s_per_gb", "CPU s/GB", lambda sample: sample.cpu_seconds / sample.units, 2)
    return Figure(
        f"cpu_us_per_{unit.value}", f"CPU µs/{unit.value}", lambda sample: sample.cpu_seconds / sample.units * 1e6
    )


def part_of_cost(part: str, unit: Unit) -> Figure:
    """CPU for one unit of one part of the contender."""
    scale, digits = (1.0, 2) if unit is Unit.GIGABYTE else (1e6, 1)
    return Figure(
        f"{cost(unit).name}_{part}",
        f"{part}'s",
        lambda sample: sample.cpu.get(part, 0.0) / sample.units * scale,
        digits,
    )


def throughput(unit: Unit) -> Figure:
    """Units a second while saturated."""
    digits = 2 if unit is Unit.GIGABYTE else 0
    return Figure(
        f"{unit.plural.lower()}_per_second", f"{unit.plural}/s", lambda sample: sample.units / sample.seconds, digits
    )


BUSY: Final = Figure("core", "core", lambda sample: sample.busy, percent=True)


def percentile(percent: float) -> Figure:
    """Milliseconds that so many of a hundred answers did not exceed, at the fixed rate."""
    return Figure(
        f"p{percent:g}_ms", f"p{percent:g} ms", lambda sample: sample.latencies.quantile(percent / 100) / 1e6, 2
    )


PERCENTILES: Final = tuple(percentile(percent) for percent in (50, 90, 99, 99.9))


def largest(name: str, title: str, digits: int = 1, scale: float = 1.0) -> Figure:
    """The largest value of what a sample calls `name`, times `scale`."""
    return Figure(name, title, lambda sample: sample.most.get(name, 0.0) * scale, digits)
