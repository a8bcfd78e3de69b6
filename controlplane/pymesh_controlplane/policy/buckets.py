"""Token buckets: so many requests in so much time, counted apart for each key. Pure: time is an argument.

Generic Cell Rate Algorithm (ITU-T I.371, annex A, "virtual scheduling"): of each key only the time is kept at which
its bucket will be full again. All of it is whole numbers, in units of a nanosecond divided by the rule's `requests`,
so that no request is gained or lost by rounding.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pymesh_controlplane.policy.rules import Rate

# Keys of one rule, 120 bytes each. The keys beyond share one bucket, so that nobody escapes a limit by making up keys.
MAX_KEYS: Final = 10_000
# Nanoseconds between two searches for keys whose buckets are full again, and which are forgotten for that.
SWEEP_INTERVAL: Final = 1_000_000_000
NANOSECONDS: Final = 1_000_000_000

_OVERFLOW: Final = b""


def nanoseconds(seconds: float) -> int:
    """Times are whole numbers here, so that nothing is gained or lost by rounding."""
    return int(seconds * NANOSECONDS)


@dataclass(frozen=True, slots=True)
class Spend:
    """What a request asks of one rate: `count` requests with this key. One on a `dry_run` refuses nobody."""

    rule: str
    rate: Rate
    key: tuple[str, ...]
    count: int = 1
    dry_run: bool = False

    @property
    def place(self) -> str:
        """Names the bucket among those of the rule, in 32 characters; counted by something else it is another."""
        return _digest((*self.rate.by, *self.key)).hex()


class Spent(NamedTuple):
    """What came of it.

    Attributes:
        wait: nanoseconds until it would be let in; 0 if it is now.
        left: requests that would be let in after it.
        overflow: the bucket is the one that keys share which are too many.
    """

    wait: int
    left: int
    overflow: bool = False


def full_in(rate: Rate, spent: Spent) -> float:
    """Seconds until a bucket is full again that has said this to one request; never less than it takes.

    Whoever has that can go on with it: a request is let in `burst - 1` requests before that moment, or later.
    """
    interval = rate.period / rate.requests
    if spent.wait:
        return spent.wait / NANOSECONDS + (rate.burst - 1) * interval
    return (rate.burst - spent.left) * interval


@dataclass(slots=True)
class Buckets:
    """The buckets of one rule. All times are nanoseconds of one clock that never goes back.

    Attributes:
        overflows: how often a key had to share the bucket of all that are too many.
    """

    rate: Rate
    overflows: int = 0
    _full_at: dict[bytes, int] = field(default_factory=dict)
    _swept: int = 0

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, key: Sequence[str], now: int, count: int = 1) -> int:
        """Nanoseconds until `count` requests with this key would be let in; 0 if they would be now. It costs nothing.

        More than the burst are never let in at once; they are said to have to wait until it is all there.
        """
        place = self._place(key, now)
        self.overflows += place == _OVERFLOW
        if count > self.rate.burst:
            return max(NANOSECONDS, -(-(self._full(place, now) - now * self.rate.requests) // self.rate.requests))
        room = (self.rate.burst - count) * self._cost
        overdraft = self._full(place, now) - now * self.rate.requests - room
        return max(0, -(-overdraft // self.rate.requests))

    def left(self, key: Sequence[str], now: int) -> int:
        """Requests with this key that would be let in now."""
        return self._left(self._full(self._place(key, now), now), now)

    def take(self, key: Sequence[str], now: int, count: int = 1) -> int:
        """Spend `count` requests of this key; `wait` was 0. How many are left, as `left` would say."""
        place = self._place(key, now)
        full = self._full_at[place] = self._full(place, now) + count * self._cost
        return self._left(full, now)

    def change(self, rate: Rate, now: int) -> None:
        """Go on with another rate: what was spent stays spent, as so many requests, as far as the new burst goes."""
        if rate.by != self.rate.by:
            self._full_at.clear()  # they were counted by something else
        spent = {place: self._full(place, now) - now * self.rate.requests for place in self._full_at}
        old, self.rate = self._cost, rate
        for place, debt in spent.items():
            requests = min(-(-debt // old), rate.burst)
            self._full_at[place] = now * rate.requests + requests * self._cost

    def _left(self, full: int, now: int) -> int:
        return self.rate.burst - -(-(full - now * self.rate.requests) // self._cost)

    @property
    def _cost(self) -> int:
        """What one request costs: period / requests, in our unit."""
        return self.rate.period * NANOSECONDS

    def _full(self, place: bytes, now: int) -> int:
        return max(self._full_at.get(place, 0), now * self.rate.requests)

    def _place(self, key: Sequence[str], now: int) -> bytes:
        place = _digest(key)
        if place in self._full_at or len(self._full_at) < MAX_KEYS:
            return place
        if now - self._swept >= SWEEP_INTERVAL:
            self._swept = now
            due = now * self.rate.requests
            self._full_at = {name: full for name, full in self._full_at.items() if full > due}
        return place if len(self._full_at) < MAX_KEYS else _OVERFLOW


def _digest(key: Sequence[str]) -> bytes:
    """A key of any length in 16 bytes; no two keys can be made to share them."""
    digest = hashlib.blake2b(digest_size=16)
    for part in key:
        data = part.encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()
