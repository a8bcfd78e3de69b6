"""Choosing one of some endpoints that are equal to a balancer. Pure: randomness is an argument."""

from collections.abc import Callable, Collection, Sequence
from itertools import cycle
from typing import Final, Protocol

from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.schedule import Schedule

Random = Callable[[], float]

# Draws for an endpoint that earlier attempts did not go to, before one is looked for (Istio asks Envoy for five).
DRAWS: Final = 5


class Picker(Protocol):
    """Chooses one of some endpoints."""

    def pick(self, tried: Collection[Endpoint], key: int | None) -> Endpoint | None:
        """One of them, not of `tried` if there are others; None if there is none. `key` is the request's hash."""


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
