"""Which endpoint of a cluster takes the next request. Pure: randomness is an argument.

    Balancer              which priority, healthy or degraded endpoints, or all of them in a panic (priorities.py)
      └ ByLocality        which locality, in proportion to weight and health, where that is configured
        └ RoundRobin, LeastRequest, RandomChoice, Scheduled, Ring: which endpoint

A balancer is made with the endpoints of one snapshot and lives as long as they do. It looks at their health again when
their membership says that something has changed; until then a pick costs a comparison more than the choice itself.
"""

import enum
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from typing import Final, Protocol, TypeVar

from pymesh_proxy.upstream.endpoint import Endpoint, Membership
from pymesh_proxy.upstream.priorities import OVERPROVISIONING, PANIC_THRESHOLD, Counts, Spread, spread
from pymesh_proxy.upstream.ring import DEFAULT_RING, Places, Ring, RingSettings, random_key
from pymesh_proxy.upstream.schedule import Schedule

Random = Callable[[], float]

# Draws for an endpoint that earlier attempts did not go to, before one is looked for (Istio asks Envoy for five).
DRAWS: Final = 5


class Policy(enum.Enum):
    """How one of several equal endpoints is chosen (envoy Cluster.LbPolicy)."""

    ROUND_ROBIN = "round_robin"
    LEAST_REQUEST = "least_request"
    RANDOM = "random"
    RING_HASH = "ring_hash"


@dataclass(frozen=True, slots=True)
class Balance:
    """How a cluster's traffic is spread.

    Attributes:
        choices: endpoints that LEAST_REQUEST compares.
        bias: how much requests in flight count against weights (LeastRequestLbConfig.active_request_bias).
        panic: share of healthy endpoints below which health is not believed; 0 for never.
        by_locality: localities get traffic by their weights, less what of them is not healthy.
    """

    policy: Policy = Policy.ROUND_ROBIN
    choices: int = 2
    bias: float = 1.0
    ring: RingSettings = DEFAULT_RING
    panic: float = PANIC_THRESHOLD
    by_locality: bool = False


EVENLY: Final = Balance()


class Picker(Protocol):
    """Chooses one of some endpoints."""

    def pick(self, tried: Collection[Endpoint], key: int | None) -> Endpoint | None:
        """One of them, not of `tried` if there are others; None if there is none. `key` is the request's hash."""


class Balancer:
    """Picks endpoints of one cluster."""

    __slots__ = ("_balance", "_levels", "_membership", "_only", "_pickers", "_places", "_random", "_spread", "_version")

    def __init__(
        self, endpoints: Sequence[Endpoint], balance: Balance, random: Random, before: "Balancer | None" = None
    ) -> None:
        """`before`: the one that was in force for the cluster; what it has worked out is not worked out again."""
        self._balance = balance
        self._random = random
        self._levels = _levels(endpoints)
        self._membership = endpoints[0].membership if endpoints else Membership()
        self._places: Places = Places(balance.ring, endpoints, None if before is None else before._places)
        self._look()

    def pick(self, tried: Collection[Endpoint] = (), key: int | None = None) -> Endpoint | None:
        """The endpoint for the next attempt, or None if the cluster has none.

        Those in `tried`, the ones earlier attempts went to, are avoided as long as there is another usable one. `key`
        is the request's hash (64 bits), for RING_HASH; without one it is as good as random.
        """
        if self._version != self._membership.version:
            self._look()
        only = self._only
        return self._pick_anywhere(tried, key) if only is None else only.pick(tried, key)

    def _look(self) -> None:
        """How things are, after a change of membership or health."""
        self._version = self._membership.version
        self._pickers: dict[tuple[int, bool], Picker] = {}
        self._spread: Spread = spread([_count(level) for level in self._levels], self._balance.panic)
        everything = next((priority for priority, load in enumerate(self._spread.healthy) if load == 100), None)
        if everything is None or self._spread.panic[everything]:
            self._only: Picker | None = None
        else:
            self._only = self._picker(everything, degraded=False)

    def _pick_anywhere(self, tried: Collection[Endpoint], key: int | None) -> Endpoint | None:
        """Where traffic is spread over priorities, or in a panic."""
        if key is None:
            key = random_key(self._random)
        priority, degraded = self._spread.choose(key)
        if self._spread.panic[priority]:
            self._membership.panics += 1
        return self._picker(priority, degraded=degraded).pick(tried, key)

    def _picker(self, priority: int, *, degraded: bool) -> Picker:
        found = self._pickers.get((priority, degraded))
        if found is None:
            level, panic = self._levels[priority], self._spread.panic[priority]
            if self._balance.policy is Policy.RING_HASH:
                found = self._ring(level, panic=panic)
            else:
                found = self._chooser(level, panic=panic, degraded=degraded)
            self._pickers[priority, degraded] = found
        return found

    def _ring(self, level: Sequence[Endpoint], *, panic: bool) -> Ring:
        """As in Envoy, a ring holds healthy endpoints, or all, never the degraded ones by themselves."""
        usable = [endpoint for endpoint in level if panic or endpoint.healthy]
        shares: list[tuple[Endpoint, float]] = []
        if self._balance.by_locality and (total := sum(weight for weight, _ in _localities(level))):
            for weight, members in _localities(level):
                there = [endpoint for endpoint in members if panic or endpoint.healthy]
                shares += _shares(there, weight / total) if weight else []
        else:
            shares = _shares(usable, 1.0)
        return Ring(shares, self._balance.ring, self._places, self._random)

    def _chooser(self, level: Sequence[Endpoint], *, panic: bool, degraded: bool) -> Picker:
        def eligible(endpoint: Endpoint) -> bool:
            return panic or (endpoint.degraded if degraded else endpoint.healthy)

        def choose(endpoints: Sequence[Endpoint]) -> Picker:
            return _choose([endpoint for endpoint in endpoints if eligible(endpoint)], self._balance, self._random)

        if self._balance.by_locality and not panic:
            weighted = [
                (effective, choose(members))
                for weight, members in _localities(level)
                if (effective := _effective(weight, len(members), sum(map(eligible, members))))
            ]
            if weighted:
                return ByLocality(weighted, self._random)
        return choose(level)


def _levels(endpoints: Sequence[Endpoint]) -> list[list[Endpoint]]:
    """The endpoints of each priority, priority 0 first; there is always one level."""
    levels: list[list[Endpoint]] = [
        [] for _ in range(max((endpoint.priority for endpoint in endpoints), default=0) + 1)
    ]
    for endpoint in endpoints:
        levels[endpoint.priority].append(endpoint)
    return levels


def _count(level: Sequence[Endpoint]) -> Counts:
    healthy = sum(endpoint.healthy for endpoint in level)
    return Counts(len(level), healthy, sum(endpoint.degraded for endpoint in level))


def _localities(level: Sequence[Endpoint]) -> list[tuple[int, list[Endpoint]]]:
    """Weight and endpoints of each locality of a level, in the order of their names."""
    groups = groupby(sorted(level, key=_locality), key=_locality)
    return [(members[0].locality_weight, members) for _, found in groups if (members := list(found))]


def _locality(endpoint: Endpoint) -> tuple[str, str, str]:
    return endpoint.locality


def _effective(weight: int, total: int, eligible: int) -> float:
    """A locality's weight, less what of it is not eligible beyond what overprovisioning makes good."""
    return weight * min(1.0, OVERPROVISIONING / 100 * eligible / total)


def _shares(endpoints: Sequence[Endpoint], whole: float) -> list[tuple[Endpoint, float]]:
    total = sum(endpoint.weight for endpoint in endpoints)
    return [(endpoint, endpoint.weight * whole / total) for endpoint in endpoints]


def _choose(endpoints: Sequence[Endpoint], balance: Balance, random: Random) -> Picker:
    if len(endpoints) < 2:
        return NoChoice(endpoints[0] if endpoints else None)
    weighted = len({endpoint.weight for endpoint in endpoints}) > 1
    match balance.policy:
        case Policy.LEAST_REQUEST if weighted:
            bias = balance.bias
            schedule = Schedule(endpoints, lambda one: one.weight / float((one.active + 1) ** bias), random)
            return Scheduled(endpoints, schedule, random)
        case Policy.LEAST_REQUEST:
            return LeastRequest(endpoints, random, balance.choices)
        case Policy.RANDOM:
            return RandomChoice(endpoints, random)
        case _ if weighted:
            return Scheduled(endpoints, Schedule(endpoints, lambda one: one.weight, random), random)
        case _:
            return RoundRobin(endpoints, random)


# --- The choice among equals ---------------------------------------------------------------------------------------


class NoChoice:
    """The only endpoint there is, or none."""

    __slots__ = ("_endpoint",)

    def __init__(self, endpoint: Endpoint | None) -> None:
        self._endpoint = endpoint

    def pick(self, tried: Collection[Endpoint], key: int | None) -> Endpoint | None:
        """See `Picker.pick`."""
        return self._endpoint


class RoundRobin:
    """Each in turn (Envoy ROUND_ROBIN)."""

    __slots__ = ("_endpoints", "_random", "_turn")

    def __init__(self, endpoints: Sequence[Endpoint], random: Random) -> None:
        self._endpoints = endpoints
        self._random = random
        # A random start, so that many proxies with the same configuration do not all begin with the same endpoint.
        start = int(random() * len(endpoints))
        self._turn = cycle((*endpoints[start:], *endpoints[:start])).__next__

    def pick(self, tried: Collection[Endpoint], key: int | None) -> Endpoint | None:
        """See `Picker.pick`."""
        chosen = self._turn()
        return _untried(self._turn, self._endpoints, tried, self._random) if tried and chosen in tried else chosen


class LeastRequest:
    """Of some endpoints drawn at random, the one with the fewest requests in flight (Envoy LEAST_REQUEST)."""

    __slots__ = ("_choices", "_endpoints", "_random")

    def __init__(self, endpoints: Sequence[Endpoint], random: Random, choices: int) -> None:
        self._endpoints = endpoints
        self._random = random
        self._choices = choices

    def pick(self, tried: Collection[Endpoint], key: int | None) -> Endpoint | None:
        """See `Picker.pick`."""
        chosen = self._draw()
        return _untried(self._draw, self._endpoints, tried, self._random) if tried and chosen in tried else chosen

    def _draw(self) -> Endpoint:
        endpoints, random = self._endpoints, self._random
        count = len(endpoints)
        best = endpoints[int(random() * count)]
        left = self._choices
        while left > 1:  # half the price of a loop over a range
            left -= 1
            other = endpoints[int(random() * count)]
            if other.active < best.active:
                best = other
        return best


class RandomChoice:
    """Any of them (Envoy RANDOM, which knows no weights)."""

    __slots__ = ("_endpoints", "_random")

    def __init__(self, endpoints: Sequence[Endpoint], random: Random) -> None:
        self._endpoints = endpoints
        self._random = random

    def pick(self, tried: Collection[Endpoint], key: int | None) -> Endpoint | None:
        """See `Picker.pick`."""
        chosen = self._draw()
        return _untried(self._draw, self._endpoints, tried, self._random) if tried and chosen in tried else chosen

    def _draw(self) -> Endpoint:
        return self._endpoints[int(self._random() * len(self._endpoints))]


class Scheduled:
    """Each in turn, in proportion to what it weighs: for weights that differ.

    LEAST_REQUEST weighs by `weight / (active + 1) ** bias`, as it was at an endpoint's last turn.
    """

    __slots__ = ("_endpoints", "_random", "_schedule")

    def __init__(self, endpoints: Sequence[Endpoint], schedule: Schedule[Endpoint], random: Random) -> None:
        self._endpoints = endpoints
        self._schedule = schedule
        self._random = random

    def pick(self, tried: Collection[Endpoint], key: int | None) -> Endpoint | None:
        """See `Picker.pick`."""
        turn = self._schedule.next
        chosen = turn()
        return _untried(turn, self._endpoints, tried, self._random) if tried and chosen in tried else chosen


class ByLocality:
    """A locality in proportion to its weight, then one of its endpoints (Envoy locality_weighted_lb_config)."""

    __slots__ = ("_schedule",)

    def __init__(self, localities: Sequence[tuple[float, Picker]], random: Random) -> None:
        self._schedule = Schedule(localities, lambda locality: locality[0], random)

    def pick(self, tried: Collection[Endpoint], key: int | None) -> Endpoint | None:
        """See `Picker.pick`. Where all of a locality was tried, another one has its turn."""
        chosen = self._schedule.next()[1].pick(tried, key)
        for _ in range(DRAWS if tried else 0):
            if chosen not in tried:
                break
            chosen = self._schedule.next()[1].pick(tried, key)
        return chosen


def _untried(
    draw: Callable[[], Endpoint], endpoints: Sequence[Endpoint], tried: Collection[Endpoint], random: Random
) -> Endpoint:
    """Another draw, or any that was not tried; one that was, if all were."""
    for _ in range(DRAWS):
        chosen = draw()
        if chosen not in tried:
            return chosen
    rest = [endpoint for endpoint in endpoints if endpoint not in tried]
    return rest[int(random() * len(rest))] if rest else chosen


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
