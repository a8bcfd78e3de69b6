"""Picking endpoints: fair shares, health, panic, priorities, localities, and what was tried already."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.upstream.balancer import Balance, Balancer, Policy, choose_weighted
from pymesh_proxy.upstream.endpoint import Endpoint, Health
from pymesh_proxy.upstream.hashing import xxh64
from tests.proxy.upstream.endpoints import degrade, endpoints, fail, heal

KEYS = st.integers(0, 2**64 - 1)


def balancer(them: Sequence[Endpoint], policy: Policy = Policy.ROUND_ROBIN, seed: int = 3, **more: object) -> Balancer:
    return Balancer(them, Balance(policy, **more), random.Random(seed).random)  # type: ignore[arg-type]  # one test each


def picks(picker: Balancer, count: int) -> Counter[str]:
    return Counter(found.host if (found := picker.pick()) else "none" for _ in range(count))


@pytest.mark.parametrize("policy", Policy)
def test_no_endpoint_is_none_and_one_is_always_picked(policy: Policy) -> None:
    assert balancer([], policy).pick() is None
    (only,) = endpoints(3)
    picker = balancer([only], policy)
    assert [picker.pick(), picker.pick([only])] == [only, only]


def test_round_robin_takes_each_in_turn_from_a_random_start() -> None:
    every = endpoints(1, 1, 1)
    picker = Balancer(every, Balance(), lambda: 0.5)
    assert [picker.pick() for _ in range(4)] == [every[1], every[2], every[0], every[1]]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 1000))
def test_round_robin_keeps_to_the_weights_exactly(weights: list[int], seed: int) -> None:
    picker = balancer(endpoints(*weights), seed=seed)
    picks(picker, seed % 7)
    found = picks(picker, sum(weights) * 3)
    for number, weight in enumerate(weights):
        assert abs(found[f"10.0.0.{number}"] - 3 * weight) <= 1


def test_weights_are_interleaved() -> None:
    picker = balancer(endpoints(5, 1, 1))
    order = [found.host[-1] for _ in range(70) if (found := picker.pick())]
    longest = max(len(run) for run in "".join(order).replace("1", " ").replace("2", " ").split())
    assert longest < 5, "a burst for one endpoint"


@pytest.mark.parametrize("policy", [Policy.ROUND_ROBIN, Policy.LEAST_REQUEST, Policy.RING_HASH])
def test_weights_count(policy: Policy) -> None:
    share = picks(balancer(endpoints(1, 3), policy, seed=7), 4000)["10.0.0.1"] / 4000
    assert 0.70 < share < 0.80


def test_random_knows_no_weights() -> None:
    assert 0.45 < picks(balancer(endpoints(1, 3), Policy.RANDOM, seed=7), 4000)["10.0.0.1"] / 4000 < 0.55


def test_least_request_prefers_the_idle_one() -> None:
    busy, idle = endpoints(1, 1)
    busy.active = 10
    # The busy one only when both draws hit it: a quarter.
    assert 0.20 < picks(balancer([busy, idle], Policy.LEAST_REQUEST), 4000)[busy.host] / 4000 < 0.30
    assert picks(balancer([busy, idle], Policy.LEAST_REQUEST, choices=8), 4000)[busy.host] < 100


def test_with_weights_least_request_divides_them_by_what_is_in_flight() -> None:
    large, small = endpoints(2, 1)
    large.active = 3  # 2 / 4 against 1 / 1
    assert 0.30 < picks(balancer([large, small], Policy.LEAST_REQUEST), 3000)[large.host] / 3000 < 0.36
    assert 0.63 < picks(balancer([large, small], Policy.LEAST_REQUEST, bias=0.0), 3000)[large.host] / 3000 < 0.70


# --- Health, panic, priorities -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", Policy)
def test_unhealthy_endpoints_are_passed_over_while_they_are(policy: Policy) -> None:
    every = endpoints(1, 1, 2)
    picker = balancer(every, policy)
    fail(every[0])
    assert set(picks(picker, 100)) == {"10.0.0.1", "10.0.0.2"}
    heal(every[0])
    assert set(picks(picker, 100)) == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}


@pytest.mark.parametrize("policy", Policy)
def test_in_a_panic_all_are_used_and_that_is_counted(policy: Policy) -> None:
    every = endpoints(1, 1, 1)
    picker = balancer(every, policy)
    fail(*every[:2])
    assert set(picks(picker, 200)) == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}
    assert every[0].membership.panics == 200


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("weights", [(1, 1), (1, 2)])
def test_a_panic_threshold_of_zero_means_no_panic(policy: Policy, weights: tuple[int, ...]) -> None:
    every = endpoints(*weights)
    fail(*every)
    assert balancer(every, policy, panic=0.0).pick() is None
    assert every[0].membership.panics == 0


def levels(*sizes: int) -> list[list[Endpoint]]:
    """Endpoints of priorities 0, 1 ..."""
    every = endpoints(*([1] * sum(sizes)))
    found = []
    for priority, size in enumerate(sizes):
        found.append(every[:size])
        for endpoint in every[:size]:
            endpoint.priority = priority
        every = every[size:]
    return found


@pytest.mark.parametrize("policy", Policy)
def test_traffic_spills_over_gradually(policy: Policy) -> None:
    first, second = levels(5, 5)
    picker = balancer([*first, *second], policy)
    assert set(picks(picker, 1000)) == {one.host for one in first}
    fail(first[0])
    assert set(picks(picker, 1000)) == {one.host for one in first[1:]}, "80 % times 1.4 is more than all"
    fail(*first[:3])  # 40 % times 1.4 is 56
    found = picks(picker, 10_000)
    assert 0.41 < sum(found[one.host] for one in second) / 10_000 < 0.47
    assert sum(found[one.host] for one in first[:3]) == 0, "no panic: all in all there is enough"
    fail(*first)
    assert set(picks(picker, 1000)) == {one.host for one in second}


@pytest.mark.parametrize("policy", [Policy.ROUND_ROBIN, Policy.LEAST_REQUEST, Policy.RANDOM])
def test_degraded_endpoints_take_what_the_healthy_ones_cannot(policy: Policy) -> None:
    every = endpoints(1, 1, 1, 1)
    picker = balancer(every, policy)
    degrade(every[0])
    assert picks(picker, 1000)[every[0].host] == 0, "75 % times 1.4: the healthy ones are enough"
    degrade(every[1])
    found = picks(picker, 10_000)
    assert 0.27 < (found[every[0].host] + found[every[1].host]) / 10_000 < 0.33, "50 % times 1.4 is 70"


# --- Localities ----------------------------------------------------------------------------------------------------


def place(them: Sequence[Endpoint], zone: str, weight: int) -> None:
    for endpoint in them:
        endpoint.locality, endpoint.locality_weight = ("r", zone, ""), weight


@pytest.mark.parametrize("policy", Policy)
def test_localities_share_by_weight_not_by_size(policy: Policy) -> None:
    every = endpoints(1, 1, 1, 1)
    place(every[:1], "a", 3)
    place(every[1:], "b", 1)
    assert 0.70 < picks(balancer(every, policy, by_locality=True), 4000)[every[0].host] / 4000 < 0.80
    assert 0.20 < picks(balancer(every, policy), 4000)[every[0].host] / 4000 < 0.30, "unless that is asked for"


def test_a_locality_gives_up_what_of_it_is_not_healthy() -> None:
    every = endpoints(*[1] * 8)
    place(every[:4], "a", 1)
    place(every[4:], "b", 1)
    fail(*every[:2])  # 50 % times 1.4 is 70: 0.7 against 1
    found = picks(balancer(every, by_locality=True), 1700)
    assert sum(found[one.host] for one in every[:4]) == pytest.approx(700, abs=3)


@pytest.mark.parametrize("policy", Policy)
def test_localities_without_any_weight_are_one_pool(policy: Policy) -> None:
    every = endpoints(1, 1, 1, 1)
    place(every[:1], "a", 0)
    place(every[1:], "b", 0)
    assert set(picks(balancer(every, policy, by_locality=True), 400)) == {one.host for one in every}


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 2)), max_size=8),
    st.sampled_from(Policy),
    st.booleans(),
    st.floats(0, 1),
    st.integers(0, 1000),
)
def test_whatever_fails_somebody_usable_is_picked(
    drawn: list[tuple[int, str, int, int]], policy: Policy, by_locality: bool, panic: float, seed: int
) -> None:
    every = endpoints(*(1 + weight for _, _, weight, _ in drawn))
    for endpoint, (priority, zone, weight, health) in zip(every, drawn, strict=True):
        endpoint.priority = priority
        endpoint.locality, endpoint.locality_weight = ("", zone, ""), weight
        endpoint.mark((0, Health.FAILED_OUTLIER_CHECK, Health.DEGRADED_EDS_HEALTH)[health], on=True)
    picker = balancer(every, policy, seed, by_locality=by_locality, panic=panic)
    for _ in range(20):
        before = every[0].membership.panics if every else 0
        found = picker.pick()
        if found is not None and every[0].membership.panics == before:
            assert found.healthy or found.degraded
        if not by_locality and policy is not Policy.RING_HASH:  # both may have a share for whom nobody is left
            assert (found is not None) or not any(one.healthy or one.degraded for one in every)


# --- Retries, keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 5, 1)])
def test_a_retry_goes_to_an_endpoint_not_yet_tried(policy: Policy, weights: tuple[int, ...]) -> None:
    every = endpoints(*weights)
    picker = balancer(every, policy)
    for _ in range(50):
        assert picker.pick(every[:2]) is every[2]
        assert picker.pick(every) in every, "all tried: any of them again"


@pytest.mark.parametrize("count", [2, 5, 8])
def test_the_same_key_stays_unless_its_endpoint_fails(count: int) -> None:
    every = endpoints(*[1] * count)
    picker = balancer(every, Policy.RING_HASH)
    keys = [xxh64(b"user-%d" % number) for number in range(500)]
    before = [picker.pick((), key) for key in keys]
    gone = every[-1]
    fail(gone)
    after = [picker.pick((), key) for key in keys]
    stayed = [new is old for old, new in zip(before, after, strict=True) if old is not gone]
    # The others get places more, as the ring is to have no fewer of them: some of their keys change hands.
    assert sum(stayed) >= 0.8 * len(stayed)
    assert gone not in after
    heal(gone)
    assert [picker.pick((), key) for key in keys] == before


@given(st.integers(1, 8), KEYS)
def test_a_key_leads_to_one_endpoint(count: int, key: int) -> None:
    every = endpoints(*[1] * count)
    assert balancer(every, Policy.RING_HASH, 1).pick((), key) is balancer(every, Policy.RING_HASH, 2).pick((), key)


def test_other_policies_know_no_keys() -> None:
    every = endpoints(1, 1)
    picker = balancer(every)
    assert all(one is not other for one, other in pairwise(picker.pick((), 7) for _ in range(5)))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any), st.floats(0, 1, exclude_max=True))
def test_a_weighted_choice_is_one_with_a_weight(weights: list[int], point: float) -> None:
    chosen = choose_weighted(list(enumerate(weights)), lambda: point)
    assert weights[chosen] > 0


def test_a_weighted_choice_splits_the_range() -> None:
    choices = [("a", 90), ("b", 0), ("c", 10)]
    points = [0.0, 0.899, 0.9, 0.9999]
    assert [choose_weighted(choices, lambda point=point: point) for point in points] == ["a", "a", "c", "c"]
