"""Runs code that cannot be trusted to end, on the one thread that everything runs on.

A hook that loops or blocks would stop every connection of the proxy. The kernel's interval timer ends it: SIGALRM is
handled between two steps of the interpreter, and interrupts a system call, so the exception comes out of whatever the
hook was doing. It is none that `except Exception` catches, and code that swallows it all the same gets another one a
moment later. Armed for the hook alone, at the price of two system calls. What nothing can end is a C function that
looks at no signals.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Generator
from time import monotonic
from types import FrameType
from typing import Any, Final

from pymesh_proxy.filters.containment import TooSlowError

log = logging.getLogger("pymesh.filter")

# Seconds between two lines about the same filter: more often nobody reads, and a log must not fill up.
COMPLAINT_INTERVAL: Final = 10.0
# Seconds after which a hook that has caught one interruption gets the next.
_AGAIN: Final = 0.01


class _Interrupted(BaseException):
    """The time of a hook is over."""


class AlarmContainment:
    """See filters.containment.Containment. There is one, since there is one SIGALRM; it is made on the main thread."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._armed = False
        self._silent_until: dict[str, float] = {}
        self._untold: dict[str, int] = {}
        signal.signal(signal.SIGALRM, self._interrupt)

    def _interrupt(self, _: int, __: FrameType | None) -> None:
        if self._armed:  # else it rang just as the hook came to its end
            raise _Interrupted

    def call(self, seconds: float, hook: Callable[..., Any], *arguments: object) -> Any:
        """See filters.containment.Containment."""
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
        try:
            self._armed = True
            result = hook(*arguments)
            self._armed = False
        except _Interrupted as error:
            raise TooSlowError from error
        except SystemExit as error:
            raise RuntimeError(f"it wanted to end the process: SystemExit({error.code})") from error
        else:
            return result
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    async def wait(self, seconds: float, awaited: Awaitable[Any]) -> Any:
        """See filters.containment.Containment. Each step between two waits is contained like a call."""
        try:
            async with asyncio.timeout(seconds) as limit:
                return await _Steps(self, seconds, awaited)
        except TimeoutError as error:
            if limit.expired():  # else it is the hook's own
                raise TooSlowError from error
            raise

    def complain(self, name: str, what: str, error: BaseException) -> None:
        """See filters.containment.Containment."""
        now = self._clock()
        if now < self._silent_until.get(name, 0.0):
            self._untold[name] = self._untold.get(name, 0) + 1
            return
        self._silent_until[name] = now + COMPLAINT_INTERVAL
        untold = self._untold.pop(name, 0)
        more = f" (and {untold} failures of it that were not told)" if untold else ""
        if isinstance(error, TooSlowError):
            log.error("filter %s: %s took too long, and was ended%s", name, what, more, exc_info=error)
        else:
            log.error("filter %s: %s failed%s", name, what, more, exc_info=error)


class _Steps:
    """Awaits what it is given, each step of it contained."""

    __slots__ = ("_awaited", "_containment", "_seconds")

    def __init__(self, containment: AlarmContainment, seconds: float, awaited: Awaitable[Any]) -> None:
        self._containment = containment
        self._seconds = seconds
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaited.__await__()
        step: Callable[..., Any] = steps.__next__
        argument: tuple[object, ...] = ()
        while True:
            try:
                waits_for = self._containment.call(self._seconds, step, *argument)
            except StopIteration as ended:
                return ended.value
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001  a cancellation, above all: it is for the hook to hear of
                step, argument = steps.throw, (error,)
            else:
                step, argument = steps.__next__, ()
