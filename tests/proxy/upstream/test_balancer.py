"""Picking endpoints: fair shares, health, panic, and what was tried already."""

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.upstream.balancer import Balancer, LeastRequest, RandomChoice, RoundRobin, choose_weighted
from pymesh_proxy.upstream.endpoint import Endpoint

Make = Callable[[Sequence[Endpoint], Callable[[], float]], Balancer]
EVERY: list[Make] = [RoundRobin, LeastRequest, RandomChoice]


def endpoints(*weights: int) -> list[Endpoint]:
    return [Endpoint(f"10.0.0.{number}", 80, weight=weight) for number, weight in enumerate(weights)]


def picks(balancer: Balancer, count: int) -> Counter[str]:
    return Counter(found.host if (found := balancer.pick()) else "none" for _ in range(count))


@pytest.mark.parametrize("make", EVERY)
def test_no_endpoint_is_none_and_one_is_always_picked(make: Make) -> None:
    assert make([], random.Random(1).random).pick() is None
    (only,) = endpoints(3)
    balancer = make([only], random.Random(1).random)
    assert [balancer.pick(), balancer.pick([only])] == [only, only]


def test_round_robin_takes_each_in_turn_from_a_random_start() -> None:
    every = endpoints(1, 1, 1)
    balancer = RoundRobin(every, lambda: 0.5)
    assert [balancer.pick() for _ in range(4)] == [every[1], every[2], every[0], every[1]]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 1000))
def test_round_robin_keeps_to_the_weights_exactly(weights: list[int], seed: int) -> None:
    balancer = RoundRobin(endpoints(*weights), random.Random(seed).random)
    picks(balancer, seed % 7)
    total = sum(weights) * 3
    found = picks(balancer, total)
    for number, weight in enumerate(weights):
        assert abs(found[f"10.0.0.{number}"] - 3 * weight) <= 1


def test_weights_are_interleaved() -> None:
    balancer = RoundRobin(endpoints(5, 1, 1), lambda: 0.0)
    order = "".join(found.host[-1] for _ in range(7) if (found := balancer.pick()))
    assert order == "0010200", "not 0000012, which would hit one endpoint with a burst"


@pytest.mark.parametrize("make", [LeastRequest, RandomChoice])
def test_random_draws_follow_the_weights(make: Make) -> None:
    found = picks(make(endpoints(1, 3), random.Random(7).random), 4000)
    share = found["10.0.0.1"] / 4000
    assert 0.70 < share < 0.80 if make is RandomChoice else share > 0.70


def test_least_request_prefers_the_idle_one() -> None:
    busy, idle = endpoints(1, 1)
    busy.active = 10
    found = picks(LeastRequest([busy, idle], random.Random(7).random), 4000)
    # The busy one only when both draws hit it: a quarter.
    assert 0.20 < found[busy.host] / 4000 < 0.30
    assert picks(LeastRequest([busy, idle], random.Random(7).random, 8), 4000)[busy.host] < 100


@pytest.mark.parametrize("make", EVERY)
def test_unhealthy_endpoints_are_passed_over(make: Make) -> None:
    every = endpoints(1, 1, 2)
    balancer = make(every, random.Random(3).random)
    every[0].healthy = False
    assert set(picks(balancer, 100)) == {"10.0.0.1", "10.0.0.2"}


@pytest.mark.parametrize("make", EVERY)
def test_in_a_panic_all_are_used(make: Make) -> None:
    every = endpoints(1, 1, 1)
    balancer = make(every, random.Random(3).random)
    every[0].healthy = every[1].healthy = False
    assert set(picks(balancer, 200)) == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}


@pytest.mark.parametrize("weights", [(1, 1), (1, 2)])
def test_a_panic_threshold_of_zero_means_no_panic(weights: tuple[int, int]) -> None:
    every = endpoints(*weights)
    for endpoint in every:
        endpoint.healthy = False
    draw = random.Random(3).random
    for balancer in (RoundRobin(every, draw, panic=0.0), LeastRequest(every, draw, panic=0.0),
                     RandomChoice(every, draw, panic=0.0)):  # fmt: skip
        assert balancer.pick() is None


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 5, 1)])
def test_a_retry_goes_to_an_endpoint_not_yet_tried(make: Make, weights: tuple[int, ...]) -> None:
    every = endpoints(*weights)
    balancer = make(every, random.Random(3).random)
    for _ in range(50):
        assert balancer.pick(every[:2]) is every[2]
        assert balancer.pick(every) in every, "all tried: any of them again"


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any), st.floats(0, 1, exclude_max=True))
def test_a_weighted_choice_is_one_with_a_weight(weights: list[int], point: float) -> None:
    chosen = choose_weighted(list(enumerate(weights)), lambda: point)
    assert weights[chosen] > 0


def test_a_weighted_choice_splits_the_range() -> None:
    choices = [("a", 90), ("b", 0), ("c", 10)]
    points = [0.0, 0.899, 0.9, 0.9999]
    assert [choose_weighted(choices, lambda point=point: point) for point in points] == ["a", "a", "c", "c"]
