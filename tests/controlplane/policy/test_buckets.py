"""Token buckets: exact, whatever the times and rates."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_controlplane.policy import buckets
from pymesh_controlplane.policy.buckets import NANOSECONDS, Buckets
from pymesh_controlplane.policy.rules import Rate

KEY = ("someone",)
SECOND = NANOSECONDS


def let_in(bucket: Buckets, now: int, key: tuple[str, ...] = KEY) -> bool:
    if bucket.wait(key, now):
        return False
    bucket.take(key, now)
    return True


def test_a_burst_and_then_the_rate() -> None:
    """Ten a second, five at once: five, then one every 100 ms."""
    bucket = Buckets(Rate(10, 1, 5))
    assert [let_in(bucket, 0) for _ in range(6)] == [True] * 5 + [False]
    assert bucket.wait(KEY, 0) == SECOND // 10
    assert not let_in(bucket, SECOND // 10 - 1)
    assert let_in(bucket, SECOND // 10)
    assert not let_in(bucket, SECOND // 10)


def test_thirds_of_a_second_are_not_rounded_away() -> None:
    """3 a second, a burst of 3, and 4 that come with every second of a thousand: 3000 get in, not 2999."""
    bucket = Buckets(Rate(3, 1, 3))
    assert sum(let_in(bucket, second * SECOND) for second in range(1000) for _ in range(4)) == 3000


def test_keys_are_counted_apart() -> None:
    """And no two keys are one: ("a", "b") is not ("ab", "")."""
    bucket = Buckets(Rate(1, 1, 1))
    assert let_in(bucket, 0, ("a", "b"))
    assert let_in(bucket, 0, ("ab", ""))
    assert not let_in(bucket, 0, ("a", "b"))


def test_too_many_keys_share_one_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes up keys does not get around the limit, and memory is bounded."""
    monkeypatch.setattr(buckets, "MAX_KEYS", 10)
    bucket = Buckets(Rate(1, 60, 1))
    assert sum(let_in(bucket, 1, (str(number),)) for number in range(1000)) == 11
    assert len(bucket) == 11
    assert bucket.overflows == 990
    assert let_in(bucket, 61 * SECOND, ("new",)), "those that are full again make room"
    assert len(bucket) == 1


def test_a_new_rate_forgets_nothing_that_was_spent() -> None:
    """Three of ten are spent; of the five that hold now, two are left."""
    bucket = Buckets(Rate(10, 60, 10))
    for _ in range(3):
        assert let_in(bucket, 5)
    bucket.change(Rate(5, 60, 5), 5)
    assert [let_in(bucket, 5) for _ in range(3)] == [True, True, False]
    bucket.change(Rate(5, 60, 2), 5)
    assert not let_in(bucket, 5 + 11 * SECOND)
    assert let_in(bucket, 5 + 12 * SECOND)


def test_counted_by_something_else_everything_begins_anew() -> None:
    """The old keys mean nothing then."""
    bucket = Buckets(Rate(1, 60, 1, ("source.principal",)))
    assert let_in(bucket, 0)
    bucket.change(Rate(1, 60, 1, ("request.path",)), 0)
    assert let_in(bucket, 0)


_RATES = st.builds(Rate, st.integers(1, 1000), st.sampled_from([1, 60, 3600]), st.integers(1, 50))
_TIMES = st.lists(st.integers(0, 10 * SECOND), max_size=120)


@given(_RATES, _TIMES)
def test_in_no_stretch_of_time_more_than_burst_and_rate(rate: Rate, gaps: list[int]) -> None:
    """Between any two of the requests that were let in."""
    bucket, now, when = Buckets(rate), 10**18, []
    for gap in gaps:
        now += gap
        wait = bucket.wait(KEY, now)
        if let_in(bucket, now):
            assert wait == 0
            when.append(now)
        else:
            assert bucket.wait(KEY, now + wait) == 0, "it says when to come back"
            assert bucket.wait(KEY, now + wait - 1) > 0
    for first in range(len(when)):
        for last in range(first, len(when)):
            elapsed = Fraction(when[last] - when[first], SECOND)
            assert last - first + 1 <= rate.burst + elapsed * rate.requests / rate.period
