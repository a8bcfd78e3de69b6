"""Waiting returns what it waited for, and says what never came."""

import itertools

import pytest

from tests.support.waiting import eventually, eventually_sync


def test_the_first_truthy_result_is_returned() -> None:
    numbers = itertools.count()
    assert eventually_sync(lambda: next(numbers), interval=0) == 1


def test_failed_asserts_and_refused_connects_mean_not_yet() -> None:
    answers = iter([AssertionError(), ConnectionRefusedError()])

    def condition() -> str:
        for error in answers:
            raise error
        return "there"

    assert eventually_sync(condition, interval=0) == "there"


def test_any_other_error_ends_the_wait() -> None:
    with pytest.raises(ZeroDivisionError):
        eventually_sync(lambda: 1 // 0)


def test_a_condition_that_never_holds_says_what_was_missing() -> None:
    with pytest.raises(AssertionError, match="the door: not within 0 s; at last it was False"):
        eventually_sync(lambda: False, what="the door", timeout=0)


async def test_coroutines_are_awaited_and_their_last_error_is_told() -> None:
    async def condition() -> str:
        return "there"

    async def refused() -> bool:
        raise ConnectionRefusedError("port 1")

    assert await eventually(condition) == "there"
    with pytest.raises(AssertionError, match="ConnectionRefusedError: port 1"):
        await eventually(refused, timeout=0)
