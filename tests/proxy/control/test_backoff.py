"""The waits between attempts."""

import random

from pymesh_proxy.control.backoff import FIRST, LONGEST, QUICK, Backoff


def test_waits_grow_to_their_limit_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(random.Random(1))
    for expected in (QUICK, FIRST, 2.0, 4.0, 8.0, 16.0, LONGEST, LONGEST, *[LONGEST] * 1000):
        assert expected / 2 <= backoff.delay() <= expected
    backoff.reset()
    assert backoff.delay() <= QUICK


def test_who_asks_for_it_waits_less_at_most() -> None:
    backoff = Backoff(random.Random(1), 1.5)
    assert all(backoff.delay() <= 1.5 for _ in range(20))


def test_the_proxies_of_a_mesh_do_not_come_back_together() -> None:
    waits = {Backoff(random.Random(seed)).delay() for seed in range(50)}
    assert len(waits) == 50
