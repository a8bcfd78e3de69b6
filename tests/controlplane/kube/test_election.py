"""The rules of a Lease: who may claim it, and when."""

from datetime import UTC, datetime

from pymesh_controlplane.kube.election import DURATION, RENEW_DEADLINE, RETRY_PERIOD, Candidate, Record, timestamp

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
STAMP = "2026-11-23T12:00:00.000000Z"
OTHER = Record("b", DURATION, STAMP, STAMP, 3)


def test_a_lease_that_nobody_made_is_ours() -> None:
    assert Candidate("a").claim(None, 0.0, NOW) == Record("a", DURATION, STAMP, STAMP, 0)


def test_our_own_is_renewed_and_keeps_when_it_was_acquired() -> None:
    found = Record("a", DURATION, "before", "before", 3)
    assert Candidate("a").claim(found, 0.0, NOW) == Record("a", DURATION, "before", STAMP, 3)


def test_another_ones_is_taken_when_we_have_seen_it_unchanged_for_as_long_as_it_says() -> None:
    """Whatever the times in it say: they are of another clock."""
    candidate = Candidate("a")
    assert candidate.claim(OTHER, 100.0, NOW) is None
    assert candidate.claim(OTHER, 100.0 + DURATION - 0.1, NOW) is None
    assert candidate.claim(OTHER, 100.0 + DURATION, NOW) == Record("a", DURATION, STAMP, STAMP, 4)


def test_a_renewal_starts_the_wait_anew() -> None:
    candidate = Candidate("a")
    candidate.claim(OTHER, 0.0, NOW)
    assert candidate.claim(OTHER._replace(renewed="later"), 14.0, NOW) is None
    assert candidate.claim(OTHER._replace(renewed="later"), 28.0, NOW) is None
    assert candidate.claim(OTHER._replace(renewed="later"), 29.0, NOW) is not None


def test_one_that_was_given_back_is_free_at_once() -> None:
    given_back = Candidate("b").give_back(OTHER, NOW)
    assert given_back is not None
    assert given_back.holder == ""
    assert Candidate("a").claim(given_back, 0.0, NOW) == Record("a", DURATION, STAMP, STAMP, 4)


def test_only_our_own_is_given_back() -> None:
    assert Candidate("a").give_back(OTHER, NOW) is None
    assert Candidate("a").give_back(None, NOW) is None


def test_the_holder_gives_up_well_before_others_may_take_over() -> None:
    """client-go's numbers: 15, 10, 2."""
    assert (DURATION, RENEW_DEADLINE, RETRY_PERIOD) == (15, 10.0, 2.0)


def test_a_time_has_six_digits_behind_the_point_also_when_they_are_zero() -> None:
    """Go reads a MicroTime by a fixed layout."""
    assert timestamp(NOW) == STAMP
