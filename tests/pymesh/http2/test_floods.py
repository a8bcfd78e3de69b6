"""So much at once, so much a second, and more beside a load of requests."""

from collections.abc import Callable

import pytest

from pymesh.http2.errors import ConnectionBrokenError, ErrorCode
from pymesh.http2.floods import NOISE, NOISE_PER_FRAME, NOISE_PER_SECOND, RESETS, RESETS_PER_SECOND, Patience


class Clock:
    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


def times(act: Callable[[], None]) -> int:
    """How often it goes well."""
    done = []
    with pytest.raises(ConnectionBrokenError, match="a flood of") as caught:
        done += (act() for _ in range(10**6))
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM
    return len(done)


def test_noise() -> None:
    clock = Clock()
    patience = Patience(clock)
    assert times(patience.noise) == NOISE
    clock.now += 3
    assert times(patience.noise) == 3 * NOISE_PER_SECOND - 1
    clock.now += 10**6
    assert times(patience.noise) == NOISE
    patience.messages += 5
    assert times(patience.noise) == 5 * NOISE_PER_FRAME - 1


def test_resets() -> None:
    clock = Clock()
    patience = Patience(clock)
    assert times(patience.reset) == RESETS
    clock.now += 0.5
    assert times(patience.reset) == RESETS_PER_SECOND / 2 - 1
    patience.ended += 7
    assert times(patience.reset) == 6


def test_an_honest_peer_goes_on_for_ever() -> None:
    clock = Clock()
    patience = Patience(clock)
    for _ in range(100_000):
        clock.now += 0.01
        patience.noise()
        patience.reset()


def test_a_thousand_questions_a_second_may_be_given_up_for_as_long_as_their_answers_are_late() -> None:
    """As an Envoy does that waits 200 ms for each: of one overloaded service, all the sooner."""
    clock = Clock()
    patience = Patience(clock)
    for _ in range(100):
        clock.now += 0.2
        for _ in range(200):
            patience.reset()


def test_what_is_earned_is_not_saved_up() -> None:
    patience = Patience(Clock())
    patience.messages = 10**6
    assert times(patience.noise) == NOISE
