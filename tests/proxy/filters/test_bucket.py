"""A rate that a sidecar goes on with: as the service would have, or, of several sidecars, each with its part."""

from hypothesis import given
from hypothesis import strategies as st

from pymesh_controlplane.policy.buckets import NANOSECONDS, Buckets, Spent, full_in
from pymesh_controlplane.policy.rules import Rate
from pymesh_proxy.filters.bucket import Bucket, Level


def level(rate: Rate, said: Spent, sidecars: int = 1) -> Level:
    return Level(rate.requests, rate.period, rate.burst, sidecars, full_in(rate, said))


def test_who_was_refused_is_let_in_when_he_was_told_and_then_at_the_rate() -> None:
    """Six a minute, one at once, spent four seconds ago."""
    found = level(Rate(6, 60, 1), Spent(6 * NANOSECONDS, 0)).bucket(100.0)
    assert (found.wait(100.0), found.wait(105.0)) == (6.0, 1.0)
    assert not found.take(105.9)
    assert found.take(106.0)
    assert not found.take(107.0)
    assert found.wait(107.0) == 9.0
    assert found.take(116.0)


def test_who_was_let_in_has_what_was_left() -> None:
    found = level(Rate(60, 60, 5), Spent(0, 2)).bucket(100.0)
    assert [found.take(100.0) for _ in range(3)] == [True, True, False]
    assert found.wait(100.0) == 1.0
    assert [found.take(200.0) for _ in range(6)] == 5 * [True] + [False], "and in time all of the burst"


def test_of_several_sidecars_each_has_its_part() -> None:
    """Three of them let in what one would, and each at most one request more."""
    rate, said = Rate(60, 60, 10), Spent(0, 6)
    buckets = [level(rate, said, sidecars=3).bucket(0.0) for _ in range(3)]
    let_in = sum(found.take(step / 10) for step in range(601) for found in buckets)
    assert 6 + 60 <= let_in <= 6 + 60 + 3
    told = level(rate, Spent(NANOSECONDS, 0), sidecars=3).bucket(0.0)
    assert (told.take(0.9), told.take(1.0), told.take(1.1)) == (False, True, False), "a promise is kept"
    assert round(told.wait(1.1), 6) == 2.9


@given(
    rate=st.builds(Rate, st.integers(1, 50), st.sampled_from([1, 60, 3600]), st.integers(1, 20)),
    gaps=st.lists(st.integers(0, 3 * NANOSECONDS), min_size=1, max_size=40),
    last=st.integers(0, 39),
)
def test_alone_it_decides_as_the_service_would_have(rate: Rate, gaps: list[int], last: int) -> None:
    """From any moment on; a request may come up to one interval later, since tokens are told whole."""
    service, now = Buckets(rate), 0
    here: Bucket | None = None
    ahead = 0
    for number, gap in enumerate(gaps):
        now += gap
        wait = service.wait((), now)
        left = 0 if wait else service.take((), now)
        if here is not None:
            let_in = here.take(now / NANOSECONDS - 1e-6)  # (rounding)
            ahead += let_in - (not wait)
            assert -1 <= ahead <= 0
        elif number >= last:
            here = level(rate, Spent(wait, left)).bucket(now / NANOSECONDS)
