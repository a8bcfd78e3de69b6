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
from itertools import groupby
from typing import Final, TypeVar

from pymesh.steps import Steps, whole
from pymesh_proxy.upstream.endpoint import Endpoint, Membership
from pymesh_proxy.upstream.pickers import (
    ByLocality,
    LeastRequest,
    NoChoice,
    Picker,
    Random,
    RandomChoice,
    RoundRobin,
    Scheduled,
)
from pymesh_proxy.upstream.priorities import OVERPROVISIONING, PANIC_THRESHOLD, Counts, Spread, spread
from pymesh_proxy.upstream.ring import DEFAULT_RING, RingSettings, Share, random_key
from pymesh_proxy.upstream.rings import Rings
from pymesh_proxy.upstream.schedule import Schedule

# No membership is ever of this version: how things are is still to be looked at.
_NEVER: Final = -1


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


class Balancer:
    """Picks endpoints of one cluster."""

    __slots__ = (
        "_balance", "_catching_up", "_later", "_levels", "_membership", "_only", "_pickers", "_random", "_rings",
        "_spread", "_version",
    )  # fmt: skip

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        balance: Balance,
        random: Random,
        before: "Balancer | None" = None,
        later: Callable[[Steps[None]], object] | None = None,
    ) -> None:
        """`before`: the one that was in force for the cluster; what it has worked out is not worked out again.

        `later` is given the work that takes long, to be done soon, in steps; without it that is done at once.
        """
        self._balance = balance
        self._random = random
        self._levels = _levels(endpoints)
        self._membership = endpoints[0].membership if endpoints else Membership()
        self._rings: Rings = Rings(balance.ring, endpoints, random, None if before is None else before._rings)
        self._later = later
        self._catching_up = False
        self._version = _NEVER

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

    @property
    def takes_long(self) -> bool:
        """Whether something is to be made before the first pick that should not be made in one piece."""
        if self._balance.policy is not Policy.RING_HASH:
            return False
        return any(self._rings.is_long(priority, shares) for priority, shares in self._all_shares())

    def catching_up(self) -> Steps[None]:
        """Make the rings for how things are now. Until that is done the rings from before serve."""
        for priority, shares in self._all_shares():
            yield from self._rings.making(priority, shares)
            yield
        self._catching_up = False
        self._version = _NEVER

    def _all_shares(self) -> list[tuple[int, list[Share]]]:
        """The shares of each priority that has traffic."""
        loads = spread([_count(level) for level in self._levels], self._balance.panic)
        return [
            (priority, self._shares(level, panic=panic))
            for priority, (level, panic) in enumerate(zip(self._levels, loads.panic, strict=True))
            if loads.healthy[priority] or loads.degraded[priority]
        ]

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
                found = self._ring(priority, self._shares(level, panic=panic))
            else:
                found = self._chooser(level, panic=panic, degraded=degraded)
            self._pickers[priority, degraded] = found
        return found

    def _ring(self, priority: int, shares: Sequence[Share]) -> Picker:
        """The ring; or, while it takes time to make it, what serves until then."""
        ready = self._rings.ready(priority, shares)
        if ready is not None:
            return ready
        meanwhile = self._rings.meanwhile(priority, shares)
        if meanwhile is None or self._later is None:
            return whole(self._rings.making(priority, shares))
        if not self._catching_up:
            self._catching_up = True
            self._later(self.catching_up())
        return meanwhile

    def _shares(self, level: Sequence[Endpoint], *, panic: bool) -> list[Share]:
        """As in Envoy, a ring holds healthy endpoints, or all, never the degraded ones by themselves."""
        usable = [endpoint for endpoint in level if panic or endpoint.healthy]
        shares: list[Share] = []
        if self._balance.by_locality and (total := sum(weight for weight, _ in _localities(level))):
            for weight, members in _localities(level):
                there = [endpoint for endpoint in members if panic or endpoint.healthy]
                shares += _weighed(there, weight / total) if weight else []
        else:
            shares = _weighed(usable, 1.0)
        return shares

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


def _weighed(endpoints: Sequence[Endpoint], part: float) -> list[Share]:
    total = sum(endpoint.weight for endpoint in endpoints)
    return [(endpoint, endpoint.weight * part / total) for endpoint in endpoints]


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
