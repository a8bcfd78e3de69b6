"""How much of the traffic each priority gets, and where health is not believed. Pure.

Traffic goes to priority 0 as long as enough of its endpoints are healthy, and spills over gradually: a level's health
is the share of its healthy endpoints, times 1.4 and at most 100 %, and each level takes as much of the traffic as its
health allows. What remains goes to degraded endpoints in the same way. If health is below the panic threshold, it is
more likely reported wrongly than true of so many, and all endpoints of the level are used.

Source: Envoy's documentation, "Priority levels" and "Panic threshold", and to the percent its
LoadBalancerBase::recalculatePerPriorityState.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

# Envoy's healthy_panic_threshold default, as a share of the endpoints.
PANIC_THRESHOLD: Final = 0.5
# Envoy's overprovisioning factor, percent: a level with 72 % of its endpoints healthy still takes all of its traffic.
OVERPROVISIONING: Final = 140


class Counts(NamedTuple):
    """The endpoints of one priority: all, and how many of them are healthy or degraded."""

    total: int
    healthy: int
    degraded: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """Percent of the traffic for the healthy and the degraded endpoints of each priority, 100 in all.

    `panic` tells for each priority whether all of its endpoints are used.
    """

    healthy: tuple[int, ...]
    degraded: tuple[int, ...]
    panic: tuple[bool, ...]

    def choose(self, number: int) -> tuple[int, bool]:
        """The priority for a random `number` (or a hash), and whether its degraded endpoints are meant."""
        percent = number % 100 + 1
        for degraded, loads in ((False, self.healthy), (True, self.degraded)):
            for priority, load in enumerate(loads):
                percent -= load
                if percent <= 0:
                    return priority, degraded
        raise ValueError("loads do not add up to 100")


def spread(levels: Sequence[Counts], panic: float = PANIC_THRESHOLD) -> Spread:
    """How traffic is spread over `levels`, priority 0 first; at least one. `panic` is a share, 0 for never."""
    health = [_availability(level.healthy, level.total) for level in levels]
    degradation = [_availability(level.degraded, level.total) for level in levels]
    available = min(100, sum(health) + sum(degradation))
    if available == 0:
        return _nothing(levels, panic)
    healthy, first_healthy, left = _distribute(health, 100, available)
    degraded, first_degraded, left = _distribute(degradation, left, available)
    if first_healthy is not None:  # what rounding has left over
        healthy[first_healthy] += left
    elif first_degraded is not None:
        degraded[first_degraded] += left
    in_panic = tuple(available < 100 and _in_panic(level, panic) for level in levels)
    if all(in_panic):
        return _by_size(levels)
    return Spread(tuple(healthy), tuple(degraded), in_panic)


def _availability(count: int, total: int) -> int:
    return min(100, OVERPROVISIONING * count // total) if total else 0


def _distribute(available: Sequence[int], load: int, total: int) -> tuple[list[int], int | None, int]:
    """The load of each level, the first level that is available at all, and the load that is left."""
    loads = []
    for level in available:
        loads.append(min(load, level * 100 // total))
        load -= loads[-1]
    return loads, next((number for number, level in enumerate(available) if level), None), load


def _in_panic(level: Counts, panic: float) -> bool:
    share = (level.healthy + level.degraded) / level.total if level.total else 0.0
    return share < panic


def _nothing(levels: Sequence[Counts], panic: float) -> Spread:
    """Nobody is available: a panic everywhere, or, where panic is switched off, all to the first level, in vain."""
    if panic > 0:
        return _by_size(levels)
    none = (0,) * len(levels)
    return Spread((100, *none[1:]), none, (False,) * len(levels))


def _by_size(levels: Sequence[Counts]) -> Spread:
    """A panic everywhere: by the number of endpoints, whatever their health."""
    total = sum(level.total for level in levels)
    loads = [100 * level.total // total if total else 0 for level in levels]
    first = next((number for number, level in enumerate(levels) if level.total), 0)
    loads[first] += 100 - sum(loads)
    return Spread(tuple(loads), (0,) * len(levels), (True,) * len(levels))
