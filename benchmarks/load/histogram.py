"""Durations, counted in buckets that grow with them: a figure is off by less than one in 128, whatever its size.

As in HdrHistogram: between two powers of two there are as many buckets as between any other two, so microseconds and
minutes share one histogram of a few hundred numbers, which can be added to another and written down.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from math import ceil
from typing import Final, Self

# Buckets between two powers of two: 2 to the power of this.
_PRECISION: Final = 7
_WIDTH: Final = 1 << _PRECISION
# A part of its value, by which no figure is further off.
ERROR: Final = 1 / _WIDTH


class Histogram:
    """Counted durations, in whole nanoseconds. `least` and `most` are exact; both are 0 where nothing was counted."""

    __slots__ = ("_buckets", "count", "least", "most", "total")

    def __init__(self, values: Iterable[int] = ()) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0
        self.least = 0
        self.most = 0
        for value in values:
            self.record(value)

    def record(self, value: int) -> None:
        """Count one duration; a negative one, which only a clock that was set back makes, counts as none."""
        value = max(value, 0)
        index = _index(value)
        self._buckets[index] = self._buckets.get(index, 0) + 1
        self.least = min(self.least, value) if self.count else value
        self.most = max(self.most, value)
        self.count += 1
        self.total += value

    def quantile(self, part: float) -> int:
        """The duration that `part` (0 to 1) of all do not exceed: at most `ERROR` too long, and never too short.

        0 where nothing was counted.
        """
        return self.quantiles([part])[0]

    def quantiles(self, parts: Iterable[float]) -> list[int]:
        """As `quantile`, for several parts at the price of one."""
        if not self.count:
            return [0 for _ in parts]
        indices = sorted(self._buckets)
        counted = list(accumulate(self._buckets[index] for index in indices))
        ranks = (min(max(ceil(part * self.count), 1), self.count) for part in parts)
        return [max(min(_upper(indices[bisect_left(counted, rank)]), self.most), self.least) for rank in ranks]

    @property
    def mean(self) -> float:
        """Exact; 0 where nothing was counted."""
        return self.total / self.count if self.count else 0.0

    def __add__(self, other: "Histogram") -> "Histogram":
        """Both as one."""
        both = Histogram()
        both.count, both.total = self.count + other.count, self.total + other.total
        both.least = min(each.least for each in (self, other) if each.count) if both.count else 0
        both.most = max(self.most, other.most)
        both._buckets = dict(self._buckets)
        for index, count in other._buckets.items():
            both._buckets[index] = both._buckets.get(index, 0) + count
        return both

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.document() == other.document()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Histogram({self.count} from {self.least} to {self.most} ns)"

    def document(self) -> dict[str, object]:
        """Everything, for JSON."""
        return {
            "count": self.count, "total": self.total, "least": self.least, "most": self.most,
            "buckets": [[index, self._buckets[index]] for index in sorted(self._buckets)],
        }  # fmt: skip

    @classmethod
    def of(cls, document: Mapping[str, object]) -> Self:
        """What `document` wrote.

        Raises:
            ValueError: it did not, or not so.
        """
        made = cls()
        try:
            made.count, made.total, made.least, made.most = (
                _whole(document[name]) for name in ("count", "total", "least", "most")
            )
            buckets = document["buckets"]
            if not isinstance(buckets, list):
                raise TypeError("buckets are a list")
            made._buckets = {_whole(index): _whole(count) for index, count in buckets}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no histogram: {error!r}") from error
        if sum(made._buckets.values()) != made.count:
            raise ValueError("no histogram: its buckets do not add up to its count")
        return made


def _index(value: int) -> int:
    """The bucket of a value. Below 256 ns each value has its own."""
    shift = value.bit_length() - _PRECISION - 1
    return value if shift <= 0 else (shift << _PRECISION) + (value >> shift)


def _upper(index: int) -> int:
    """The largest value in a bucket."""
    if index < 2 * _WIDTH:
        return index
    shift = (index >> _PRECISION) - 1
    return ((index - (shift << _PRECISION) + 1) << shift) - 1


def _whole(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a whole number")
    return value
