"""Which endpoint of a cluster takes the next request. Pure: randomness is an argument.

A balancer is made with the endpoints of one snapshot and lives as long as they do; all it remembers is whose turn it
is. Health and counts in flight are read from the endpoints at each pick.

Unhealthy endpoints are passed over, unless fewer than half of the endpoints are healthy: then health is more likely
reported wrongly than true of so many, and all of them are used (Envoy's healthy_panic_threshold, 50 % by default and
never at 0; Envoy measures it per priority, as this does, since a cluster's `endpoints` are those of one priority).
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from typing import Final, Protocol, TypeVar

from pymesh_proxy.upstream.endpoint import Endpoint

# Envoy's healthy_panic_threshold default, as a share of the endpoints.
PANIC_THRESHOLD: Final = 0.5

Random = Callable[[], float]


class Balancer(Protocol):
    """Picks endpoints of one cluster."""

    def pick(self, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The endpoint for the next attempt, or None if the cluster has none.

        Those in `tried`, the ones earlier attempts went to, are avoided as long as there is another usable one.
        """


def usable(endpoints: Sequence[Endpoint], tried: Collection[Endpoint], panic: float) -> Sequence[Endpoint]:
    """The endpoints to choose from: healthy or all in a panic, without `tried` unless nothing would be left."""
    healthy = [endpoint for endpoint in endpoints if endpoint.healthy]
    all_of_them = len(healthy) == len(endpoints) or len(healthy) < panic * len(endpoints)
    candidates = endpoints if all_of_them else healthy
    if not tried:
        return candidates
    untried = [endpoint for endpoint in candidates if endpoint not in tried]
    return untried or candidates


class RoundRobin:
    """Each in turn; with weights, smoothly interleaved in proportion to them.

    The turn starts at a random place, so that many proxies with the same configuration do not all begin with the same
    endpoint. The weighted order is nginx's smooth weighted round robin: every endpoint gains its weight each round, the
    richest is picked and pays the total.
    """

    __slots__ = ("_credit", "_endpoints", "_equal", "_next", "_panic")

    def __init__(self, endpoints: Sequence[Endpoint], random: Random, panic: float = PANIC_THRESHOLD) -> None:
        self._endpoints = tuple(endpoints)
        self._panic = panic
        self._equal = len({endpoint.weight for endpoint in endpoints}) <= 1
        self._next = int(random() * len(endpoints)) if endpoints else 0
        # A random start for the weighted order too: the same total, so the proportions are not touched.
        self._credit = {endpoint: endpoint.weight * random() for endpoint in endpoints}

    def pick(self, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """See `Balancer.pick`."""
        if not self._equal:
            return self._pick_weighted(tried)
        endpoints = self._endpoints
        if not endpoints:
            return None
        chosen = endpoints[self._next % len(endpoints)]
        self._next += 1
        if chosen.healthy and not tried:
            return chosen
        candidates = usable(endpoints, tried, self._panic)
        if not candidates:
            return None
        return chosen if chosen in candidates else candidates[self._next % len(candidates)]

    def _pick_weighted(self, tried: Collection[Endpoint]) -> Endpoint | None:
        candidates = usable(self._endpoints, tried, self._panic)
        if not candidates:
            return None
        credit = self._credit
        total = 0
        for endpoint in candidates:
            credit[endpoint] += endpoint.weight
            total += endpoint.weight
        chosen = max(candidates, key=credit.__getitem__)
        credit[chosen] -= total
        return chosen


class LeastRequest:
    """Of `choices` endpoints drawn at random, the one with the fewest requests in flight (Envoy LEAST_REQUEST).

    With weights, endpoints are drawn in proportion to them, and the load compared is `(active + 1) / weight`. Envoy
    instead schedules by `weight / (active + 1)` when weights differ; both lean to the large and the idle.
    """

    __slots__ = ("_choices", "_draw", "_endpoints", "_panic", "_random")

    def __init__(
        self, endpoints: Sequence[Endpoint], random: Random, choices: int = 2, panic: float = PANIC_THRESHOLD
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._panic = panic
        self._random = random
        self._choices = choices
        self._draw = _Draw(self._endpoints, random)

    def pick(self, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """See `Balancer.pick`."""
        draw = self._draw
        if tried or not draw.all_usable():
            draw = _Draw(usable(self._endpoints, tried, self._panic), self._random)
        best = draw.one()
        if best is None or len(draw.endpoints) == 1:
            return best
        for _ in range(self._choices - 1):
            other = draw.one()
            if other is not None and (other.active + 1) * best.weight < (best.active + 1) * other.weight:
                best = other
        return best


class RandomChoice:
    """Any of them, in proportion to their weights (Envoy RANDOM)."""

    __slots__ = ("_draw", "_endpoints", "_panic", "_random")

    def __init__(self, endpoints: Sequence[Endpoint], random: Random, panic: float = PANIC_THRESHOLD) -> None:
        self._endpoints = tuple(endpoints)
        self._panic = panic
        self._random = random
        self._draw = _Draw(self._endpoints, random)

    def pick(self, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """See `Balancer.pick`."""
        if not tried and self._draw.all_usable():
            return self._draw.one()
        return _Draw(usable(self._endpoints, tried, self._panic), self._random).one()


class _Draw:
    """Draws endpoints in proportion to their weights."""

    __slots__ = ("_bounds", "_random", "endpoints")

    def __init__(self, endpoints: Sequence[Endpoint], random: Random) -> None:
        self.endpoints = endpoints
        self._random = random
        equal = len({endpoint.weight for endpoint in endpoints}) <= 1
        self._bounds = None if equal else list(accumulate(endpoint.weight for endpoint in endpoints))

    def all_usable(self) -> bool:
        return all(endpoint.healthy for endpoint in self.endpoints)

    def one(self) -> Endpoint | None:
        if not self.endpoints:
            return None
        if self._bounds is None:
            return self.endpoints[int(self._random() * len(self.endpoints))]
        return self.endpoints[bisect_right(self._bounds, self._random() * self._bounds[-1])]


T = TypeVar("T")


def choose_weighted(choices: Sequence[tuple[T, int]], random: Random) -> T:
    """One of `choices`, (value, weight) with at least one weight above 0: for weighted clusters, once per request."""
    if len(choices) == 1:
        return choices[0][0]
    point = random() * sum(weight for _, weight in choices)
    for value, weight in choices:
        point -= weight
        if point < 0:
            return value
    return next(value for value, weight in reversed(choices) if weight)  # float rounding at the upper end
