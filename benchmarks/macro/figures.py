"""Values of several rounds: medians with their range, ratios round by round, and when there have been rounds enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Final

# Rounds below which no comparison is worth the name.
FEWEST_ROUNDS: Final = 5
# Rounds go on, up to twice as many as asked for, while the middle half of the ratios spreads over more than this part
# of their median. None is thrown away.
STEADY: Final = 0.08


@dataclass(frozen=True, slots=True)
class Summary:
    """What is reported of several values."""

    median: float
    least: float
    most: float


def summary(values: Sequence[float]) -> Summary:
    """Median and range of one value or more."""
    return Summary(median(values), min(values), max(values))


def ratios(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Each value next to the reference's of the same round: what disturbs both for a while cancels out.

    Empty where a reference is nothing: no number says how many times nothing something is.
    """
    if not all(reference):
        return []
    return [one / other for one, other in zip(values, reference, strict=True)]


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


def order(names: Sequence[str], number: int, turns: int = 2) -> list[str]:
    """Who is loaded when in a round: everybody in turn, then again backwards where there are two turns.

    So a machine that gets slower or faster meanwhile does so for all alike. Each takes each place over the rounds.
    """
    shift = number % len(names)
    turned = [*names[shift:], *names[:shift]]
    return turned + turned[::-1] if turns > 1 else turned
