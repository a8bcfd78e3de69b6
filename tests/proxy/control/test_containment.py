"""What ends hooks that do not end: with the real timer, on the real thread."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Iterator

import pytest

from pymesh_proxy.control.containment import COMPLAINT_INTERVAL, AlarmContainment
from pymesh_proxy.filters.containment import TooSlowError

# Seconds: enough for what is quick even on a busy machine, and little to wait for.
SOON = 0.05


@pytest.fixture
def containment() -> Iterator[AlarmContainment]:
    before = signal.getsignal(signal.SIGALRM)
    yield AlarmContainment()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0), "the timer is armed for the hook alone"
    signal.signal(signal.SIGALRM, before)


def loop() -> None:
    while True:
        pass


def careless() -> None:
    """Catches what it can, for ever."""
    while True:
        with contextlib.suppress(Exception):
            loop()


def stubborn() -> None:
    """Survives the first interruption, too."""
    try:
        loop()
    except BaseException:
        loop()
    raise AssertionError


def raises(error: BaseException) -> None:
    raise error


def test_what_ends_in_time_gives_its_result(containment: AlarmContainment) -> None:
    assert containment.call(5.0, lambda a, b: a + b, 1, 2) == 3


@pytest.mark.parametrize("hook", [loop, careless, stubborn, lambda: time.sleep(60)])
def test_what_does_not_end_is_ended(hook: object, containment: AlarmContainment) -> None:
    assert callable(hook)
    with pytest.raises(TooSlowError):
        containment.call(SOON, hook)


def test_its_own_exceptions_come_out(containment: AlarmContainment) -> None:
    with pytest.raises(ZeroDivisionError):
        containment.call(5.0, lambda: 1 // 0)
    for error in (SystemExit(3), asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt()):
        with pytest.raises(RuntimeError, match=f"it raised {type(error).__name__}"):
            containment.call(5.0, raises, error)


def test_a_late_alarm_ends_nothing(containment: AlarmContainment) -> None:
    containment.call(5.0, lambda: None)
    signal.raise_signal(signal.SIGALRM)


async def test_what_waits_is_ended_and_hears_of_it(containment: AlarmContainment) -> None:
    heard: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    with pytest.raises(TooSlowError):
        await containment.wait(SOON, waits())
    await asyncio.sleep(0)
    assert heard == ["cancelled"]


async def test_what_loops_after_it_has_waited_is_ended(containment: AlarmContainment) -> None:
    async def waits_then_loops() -> None:
        await asyncio.sleep(0)
        loop()

    with pytest.raises(TooSlowError):
        await containment.wait(SOON, waits_then_loops())


async def test_what_is_awaited_gives_its_result(containment: AlarmContainment) -> None:
    async def in_steps() -> int:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        return 7

    async def times_out() -> None:
        await asyncio.sleep(0)
        raise TimeoutError("of its own")

    assert await containment.wait(5.0, in_steps()) == 7
    with pytest.raises(TimeoutError, match="of its own"):
        await containment.wait(5.0, times_out())


async def test_what_is_cancelled_from_within_is_a_failure(containment: AlarmContainment) -> None:
    async def awaits_what_is_cancelled() -> None:
        inner = asyncio.get_running_loop().create_future()
        inner.cancel()
        await inner

    async def leaves() -> None:
        await asyncio.sleep(0)
        raise SystemExit

    with pytest.raises(RuntimeError, match="cancelled from within"):
        await containment.wait(5.0, awaits_what_is_cancelled())
    with pytest.raises(RuntimeError, match="it raised SystemExit, which is not for a hook to raise"):
        await containment.wait(5.0, leaves())


async def test_nobody_waits_for_what_does_not_let_itself_be_cancelled(containment: AlarmContainment) -> None:
    over = asyncio.Event()

    async def stays() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await over.wait()
        raise ValueError("too late for anybody to hear")

    with pytest.raises(TooSlowError):
        await containment.wait(SOON, stays())
    over.set()
    await asyncio.sleep(0)


def test_a_handler_that_a_hook_put_in_place_is_replaced(containment: AlarmContainment) -> None:
    containment.call(5.0, lambda: signal.signal(signal.SIGALRM, signal.SIG_IGN))
    with pytest.raises(TooSlowError):
        containment.call(SOON, loop)


async def test_a_request_that_goes_takes_its_hook_along(containment: AlarmContainment) -> None:
    async def for_ever() -> None:
        await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(containment.wait(60.0, for_ever()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_one_line_in_a_while_for_each_filter(caplog: pytest.LogCaptureFixture) -> None:
    before, now = signal.getsignal(signal.SIGALRM), 0.0
    try:
        containment = AlarmContainment(lambda: now)
    finally:
        signal.signal(signal.SIGALRM, before)
    with caplog.at_level(logging.ERROR, "pymesh.filter"):
        for _ in range(5):
            containment.complain("a:A", "on_request", ValueError("x"))
        containment.complain("b:B", "on_response", TooSlowError())
        now = COMPLAINT_INTERVAL
        containment.complain("a:A", "on_request", ValueError("x"))
    assert [record.getMessage() for record in caplog.records] == [
        "filter a:A: on_request failed",
        "filter b:B: on_response took too long, and was ended",
        "filter a:A: on_request failed (and 4 failures of it that were not told)",
    ]
