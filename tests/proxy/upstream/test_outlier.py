"""Outlier detection: who is left out, for how long, and how many at most."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.upstream.endpoint import Endpoint, Health
from pymesh_proxy.upstream.outlier import ENFORCING, Ejection, OutlierDetector, OutlierSettings
from tests.proxy.upstream.endpoints import endpoints

ALL = OutlierSettings(max_ejection_percent=100)


def watching(them: Sequence[Endpoint], settings: OutlierSettings = ALL) -> OutlierDetector:
    detector = OutlierDetector("service", settings, random.Random(1).random)
    detector.follow(settings, them)
    return detector


def out(them: Sequence[Endpoint]) -> list[int]:
    return [number for number, endpoint in enumerate(them) if endpoint.flags & Health.FAILED_OUTLIER_CHECK]


def answer(detector: OutlierDetector, endpoint: Endpoint, *statuses: int, now: float = 0.0) -> None:
    for status in statuses:
        detector.answered(endpoint, status, now)


def test_five_failures_in_a_row_and_no_other_number() -> None:
    them = endpoints(1, 1)
    detector = watching(them)
    answer(detector, them[0], 500, 503, 500, 500, 200, 500, 500, 599, 500)
    assert out(them) == []
    assert them[0].healthy
    answer(detector, them[0], 500)
    assert out(them) == [0]
    assert not them[0].healthy
    assert detector.ejected == 1
    assert detector.stats.enforced[Ejection.CONSECUTIVE_5XX] == 1


def test_what_is_no_failure_of_the_server() -> None:
    them = endpoints(1)
    detector = watching(them)
    answer(detector, them[0], *[status for status in (404, 499, 600, 999, 101) for _ in range(9)])
    assert out(them) == []


def test_gateway_failures_are_enforced_only_where_that_is_asked_for() -> None:
    them = endpoints(1)
    detector = watching(them, replace(ALL, consecutive_gateway_failure=2, consecutive_5xx=0))
    answer(detector, them[0], 502, 500, 503, 504)
    assert out(them) == []
    assert detector.stats.detected[Ejection.CONSECUTIVE_GATEWAY_FAILURE] == 1
    enforced = {**ENFORCING, Ejection.CONSECUTIVE_GATEWAY_FAILURE: 100}
    detector.follow(replace(detector.settings, enforcing=enforced), them)
    answer(detector, them[0], 502, 502)
    assert out(them) == [0]


def test_a_share_is_enforced() -> None:
    them = endpoints(*[1] * 400)
    detector = watching(them, replace(ALL, consecutive_5xx=1, enforcing={**ENFORCING, Ejection.CONSECUTIVE_5XX: 25}))
    for endpoint in them:
        answer(detector, endpoint, 500)
    assert detector.stats.detected[Ejection.CONSECUTIVE_5XX] == 400
    assert 70 < len(out(them)) < 130


@pytest.mark.parametrize("timeout", [False, True])
def test_no_answer_is_as_good_as_a_bad_one(timeout: bool) -> None:
    them = endpoints(1)
    detector = watching(them)
    for _ in range(5):
        detector.failed(them[0], 0.0, timeout=timeout)
    assert out(them) == [0]
    assert detector.stats.detected[Ejection.CONSECUTIVE_5XX] == 1


def test_local_errors_are_told_apart_where_that_is_asked_for() -> None:
    them = endpoints(1, 1)
    settings = replace(ALL, split_local_origin=True, consecutive_local_origin_failure=3, consecutive_5xx=3)
    detector = watching(them, settings)
    for _ in range(2):
        detector.failed(them[0], 0.0)
        answer(detector, them[0], 500)
    assert out(them) == [], "two of each kind"
    detector.connected(them[0])
    for _ in range(2):
        detector.failed(them[0], 0.0)
    assert out(them) == [], "there was a connection between"
    detector.failed(them[0], 0.0)
    assert out(them) == [0]
    assert detector.stats.enforced[Ejection.CONSECUTIVE_LOCAL_ORIGIN_FAILURE] == 1


@pytest.mark.parametrize("split", [False, True])
def test_an_opaque_connection_ends_a_row_of_failures(split: bool) -> None:
    them = endpoints(1)
    detector = watching(them, replace(ALL, split_local_origin=split))
    for _ in range(3):
        for _ in range(4):
            detector.failed(them[0], 0.0)
        detector.relayed(them[0], 0.0)
    assert out(them) == []


# --- How many, how long --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "percent", "always", "most"),
    [(10, 10, False, 1), (9, 10, False, 0), (9, 10, True, 1), (4, 50, False, 2), (4, 100, False, 4), (3, 0, True, 1)],
)
def test_only_so_many_are_out(count: int, percent: int, always: bool, most: int) -> None:
    them = endpoints(*[1] * count)
    detector = watching(them, replace(ALL, max_ejection_percent=percent, always_eject_one=always, consecutive_5xx=1))
    for endpoint in them:
        answer(detector, endpoint, 500)
    assert len(out(them)) == most
    assert detector.stats.overflow == count - most


def test_the_time_out_grows_with_every_ejection_and_shrinks_with_good_behaviour() -> None:
    them = endpoints(1)
    detector = watching(them, replace(ALL, consecutive_5xx=1, base_ejection_time=30, max_ejection_time=70))

    def time_out(now: float) -> float:
        """Eject it, and count the seconds, by intervals of 10, until it is back."""
        answer(detector, them[0], 500, now=now)
        assert out(them) == [0]
        spent = 0.0
        while out(them):
            spent += 10
            detector.tick(now + spent)
        return spent

    # The tick that takes it back counts as good behaviour, as in Envoy.
    assert time_out(0) == 30
    detector._records[them[0]].multiplier = 1
    assert time_out(1000) == 60
    assert time_out(2000) == 60
    detector._records[them[0]].multiplier = 2
    assert time_out(3000) == 70, "max_ejection_time"
    for _ in range(9):
        detector.tick(4000)
    assert time_out(5000) == 30


def test_jitter_is_added() -> None:
    them = endpoints(1)
    settings = replace(ALL, consecutive_5xx=1, base_ejection_time=1, max_ejection_time_jitter=10)
    detector = OutlierDetector("service", settings, lambda: 0.5)
    detector.follow(settings, them)
    answer(detector, them[0], 500)
    detector.tick(5.9)
    assert out(them) == [0]
    detector.tick(6.0)
    assert out(them) == []


def test_whoever_comes_back_starts_anew() -> None:
    them = endpoints(1)
    detector = watching(them)
    answer(detector, them[0], *[500] * 9)
    detector.tick(1000)
    assert out(them) == []
    answer(detector, them[0], *[500] * 4)
    assert out(them) == []


# --- Rates ---------------------------------------------------------------------------------------------------------


def rates(detector: OutlierDetector, them: Sequence[Endpoint], percents: Sequence[int], volume: int = 100) -> None:
    """A good answer never more than four bad ones behind the last, so that only rates count."""
    for endpoint, percent in zip(them, percents, strict=True):
        for number in range(volume):
            answer(detector, endpoint, 200 if number * percent % 100 < percent else 500)
    detector.tick(1.0)


def test_a_success_rate_far_below_the_others() -> None:
    them = endpoints(*[1] * 6)
    detector = watching(them)
    rates(detector, them, [100, 100, 100, 100, 100, 50])
    assert out(them) == [5]
    assert detector.stats.enforced[Ejection.SUCCESS_RATE] == 1


@pytest.mark.parametrize(
    ("percents", "volume"),
    [
        ([100, 100, 100, 50], 100),
        ([100, 100, 100, 100, 100, 50], 99),
        ([50] * 6, 100),
        ([100, 96, 92, 97, 99, 94], 100),
    ],
)
def test_no_outlier_by_rate(percents: list[int], volume: int) -> None:
    them = endpoints(*[1] * len(percents))
    detector = watching(them, replace(ALL, consecutive_5xx=0))
    rates(detector, them, percents, volume)
    assert out(them) == []


def test_of_few_nobody_is_an_outlier_by_rate() -> None:
    them = endpoints(*[1] * 5)
    detector = watching(them, replace(ALL, consecutive_5xx=0, success_rate_stdev_factor=1.0))
    rates(detector, them[:4], [100, 100, 100, 50])
    assert out(them) == [], "only four have been asked often enough"
    rates(detector, them, [100, 100, 100, 50, 100])
    assert out(them) == [3]


def test_a_failure_percentage() -> None:
    them = endpoints(*[1] * 5)
    enforcing = {**ENFORCING, Ejection.FAILURE_PERCENTAGE: 100, Ejection.SUCCESS_RATE: 0}
    detector = watching(them, replace(ALL, consecutive_5xx=0, enforcing=enforcing))
    rates(detector, them, [100, 100, 16, 15, 14], 100)
    assert out(them) == [3, 4], "85 % failures are enough"


def test_rates_of_connections() -> None:
    them = endpoints(*[1] * 6)
    detector = watching(them, replace(ALL, split_local_origin=True, consecutive_local_origin_failure=0))
    for endpoint in them:
        for number in range(100):
            if endpoint is them[5] and number % 2:
                detector.failed(endpoint, 0.0)
            else:
                detector.connected(endpoint)
    detector.tick(1.0)
    assert out(them) == [5]
    assert detector.stats.enforced[Ejection.LOCAL_ORIGIN_SUCCESS_RATE] == 1


def test_an_interval_is_judged_by_itself() -> None:
    them = endpoints(*[1] * 6)
    detector = watching(them, replace(ALL, success_rate_request_volume=60))
    rates(detector, them, [100] * 6, 50)
    rates(detector, them, [100] * 5 + [50], 50)
    assert out(them) == [], "fifty requests in either"


# --- Who is watched ------------------------------------------------------------------------------------------------


def test_who_stays_keeps_its_record_and_others_are_unknown() -> None:
    old, stays, new = endpoints(1, 1, 1)
    detector = watching([old, stays], replace(ALL, consecutive_5xx=3))
    answer(detector, stays, 500, 500)
    detector.follow(detector.settings, [stays, new])
    answer(detector, old, 500, 500, 500)
    detector.failed(old, 0.0)
    answer(detector, stays, 500)
    assert (out([old]), out([stays])) == ([], [0])
    detector.end()
    assert stays.healthy, "nobody would ever take it back"


def test_a_good_health_check_takes_back_unless_it_is_not_to() -> None:
    them = endpoints(1)
    for wanted in (True, False):
        detector = watching(them, replace(ALL, consecutive_5xx=1, uneject_when_checked=wanted))
        answer(detector, them[0], 500)
        them[0].mark(Health.FAILED_ACTIVE_HC, on=True)
        detector.checked_healthy(them[0])
        assert out(them) == [0], "the threshold of the check is not reached yet"
        them[0].mark(Health.FAILED_ACTIVE_HC, on=False)
        detector.checked_healthy(them[0])
        assert out(them) == ([] if wanted else [0])


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["good", "bad", "silent", "connected", "tick"])), max_size=200
    ),
    st.integers(0, 100),
    st.booleans(),
)
def test_whatever_happens_the_limit_holds_and_counts_agree(
    events: list[tuple[int, str]], percent: int, split: bool
) -> None:
    them = endpoints(*[1] * 5)
    detector = watching(
        them,
        replace(ALL, consecutive_5xx=2, max_ejection_percent=percent, split_local_origin=split, base_ejection_time=3),
    )
    for now, (number, what) in enumerate(events):
        match what:
            case "good":
                detector.answered(them[number], 200, now)
            case "bad":
                detector.answered(them[number], 503, now)
            case "silent":
                detector.failed(them[number], now)
            case "connected":
                detector.connected(them[number])
            case _:
                detector.tick(now)
        assert detector.ejected == len(out(them))
        assert len(out(them)) * 100 <= percent * len(them)
    detected, enforced = detector.stats.detected, detector.stats.enforced
    assert sum(detected.values()) >= sum(enforced.values()) + detector.stats.overflow
    detector.tick(1e9)
    assert out(them) == [], "nobody is out for ever"
