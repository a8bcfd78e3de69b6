"""Waiting for a condition, not for a time: tests poll what they mean, and say what was missing when it never came.

    address = eventually_sync(lambda: server.address, what="the server's address")
    await eventually(lambda: len(proxy.connections) == 2)

An `AssertionError` or `OSError` in the condition means "not yet", so `assert` and a refused connect both work.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

# Seconds. Generous, since it is only ever spent by a test that fails: two busy cores may starve a process for seconds.
DEADLINE = 10.0
# Seconds between two looks: short beside a process start, long beside a look.
INTERVAL = 0.02

NOT_YET = (AssertionError, OSError)


def eventually_sync(
    condition: Callable[[], T], *, what: str = "", timeout: float = DEADLINE, interval: float = INTERVAL
) -> T:
    """The first truthy result of `condition`, which is called until then.

    Raises:
        AssertionError: nothing truthy within `timeout` seconds; the text has `what` and the last result or error.
    """
    deadline = time.monotonic() + timeout
    while True:
        error: Exception | None = None
        result: object = None
        try:
            if result := condition():
                return result
        except NOT_YET as caught:
            error = caught
        if time.monotonic() >= deadline:
            raise _never(what, timeout, result, error) from error
        time.sleep(interval)


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]], *, what: str = "", timeout: float = DEADLINE, interval: float = INTERVAL
) -> T: ...


@overload
async def eventually(
    condition: Callable[[], T], *, what: str = "", timeout: float = DEADLINE, interval: float = INTERVAL
) -> T: ...


async def eventually(
    condition: Callable[[], object], *, what: str = "", timeout: float = DEADLINE, interval: float = INTERVAL
) -> object:
    """As `eventually_sync`, for a condition that may be a coroutine function; the event loop runs on meanwhile."""
    deadline = time.monotonic() + timeout
    while True:
        error: Exception | None = None
        result: object = None
        try:
            answer = condition()
            result = await answer if inspect.isawaitable(answer) else answer
            if result:
                return result
        except NOT_YET as caught:
            error = caught
        if time.monotonic() >= deadline:
            raise _never(what, timeout, result, error) from error
        await asyncio.sleep(interval)


def _never(what: str, timeout: float, result: object, error: Exception | None) -> AssertionError:
    last = f"{type(error).__name__}: {error}" if error else f"it was {result!r}"
    return AssertionError(f"{what or 'the condition'}: not within {timeout:g} s; at last {last}")
