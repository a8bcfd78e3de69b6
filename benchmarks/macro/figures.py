"""From rounds to figures: medians with their range, ratios round by round, and when there have been rounds enough."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Final

# Rounds below which no comparison is worth the name.
FEWEST_ROUNDS: Final = 5
# Rounds go on, up to twice as many as asked for, while the middle half of the ratios spreads over more than this part
# of their median. None is thrown away.
STEADY: Final = 0.08


@dataclass(frozen=True, slots=True)
class Round:
    """One proxy under load, once or in several turns.

    Attributes:
        requests: answered.
        seconds: of load, by wrk's clock.
        cpu_seconds: user and system time of the proxy's processes.
        load_cpu_seconds: the same of wrk and the upstream, which share the other core.
        errors: how many of which kind; empty in a round that counts.
    """

    requests: int
    seconds: float
    cpu_seconds: float
    load_cpu_seconds: float
    errors: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "Round") -> "Round":
        """Both turns as one."""
        return Round(
            self.requests + other.requests,
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.load_cpu_seconds + other.load_cpu_seconds,
            Counter(self.errors) + Counter(other.errors),
        )

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU per request."""
        return self.cpu_seconds / self.requests * 1e6

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def busy(self) -> float:
        """How much of one core the proxy had, 0 to 1: far below 1 it was not the limit, or somebody else was there."""
        return self.cpu_seconds / self.seconds

    @property
    def load_busy(self) -> float:
        """How much of one core the load generator and the upstream had: near 1 they were the limit."""
        return self.load_cpu_seconds / self.seconds


@dataclass(frozen=True, slots=True)
class Summary:
    """What is reported of several values."""

    median: float
    least: float
    most: float


def summary(values: Sequence[float]) -> Summary:
    """Median and range of one value or more."""
    return Summary(median(values), min(values), max(values))


def ratios(rounds: Sequence[Round], reference: Sequence[Round]) -> list[float]:
    """CPU per request next to the reference's in the same round: what disturbs both for a while cancels out."""
    return [one.cpu_us / other.cpu_us for one, other in zip(rounds, reference, strict=True)]


def spread(values: Sequence[float]) -> float:
    """The width of the middle half, in parts of the median; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    lower, _, upper = quantiles(values, n=4, method="inclusive")
    return (upper - lower) / median(values)


def enough(values: Sequence[float], wanted: int) -> bool:
    """Whether so many rounds will do, given their ratios: those wanted, or up to twice as many where they scatter."""
    return len(values) >= wanted and (spread(values) <= STEADY or len(values) >= 2 * wanted)


def counted(errors: Mapping[str, int]) -> str:
    """Errors for people: `3 status, 1 timeout`."""
    return ", ".join(f"{count} {kind}" for kind, count in errors.items())


def order(names: Sequence[str], number: int) -> list[str]:
    """Who is loaded when in a round: everybody in turn, then again backwards.

    So a machine that gets slower or faster meanwhile does so for all alike. Each takes each place over the rounds.
    """
    shift = number % len(names)
    turned = [*names[shift:], *names[:shift]]
    return turned + turned[::-1]
