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
_NOT_FOR_HOOKS: Final = "it raised {}, which is not for a hook to raise"
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
        self._tasks: set[asyncio.Task[Any]] = set()
        self._handler = self._interrupt  # always the same object, to be recognised
        signal.signal(signal.SIGALRM, self._handler)

    def _interrupt(self, _: int, __: FrameType | None) -> None:
        if self._armed:  # else it rang just as the hook came to its end
            raise _Interrupted

    def call(self, seconds: float, hook: Callable[..., Any], *arguments: object) -> Any:
        """See filters.containment.Containment."""
        try:
            return self.limited(seconds, hook, *arguments)
        except Exception:
            raise
        except BaseException as error:
            raise RuntimeError(_NOT_FOR_HOOKS.format(type(error).__name__)) from error

    def limited(self, seconds: float, hook: Callable[..., Any], *arguments: object) -> Any:
        """What `hook` returns, and what it raises; TooSlowError after so many seconds."""
        if signal.getsignal(signal.SIGALRM) is not self._handler:  # a hook has put its own in place
            signal.signal(signal.SIGALRM, self._handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
            try:
                self._armed = True
                return hook(*arguments)
            finally:
                self._armed = False
        except _Interrupted as error:
            self._armed = False
            raise TooSlowError from error
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    async def wait(self, seconds: float, awaited: Awaitable[Any]) -> Any:
        """See filters.containment.Containment. Each step between two waits is contained like a call.

        It runs in a task of its own, so that nobody waits for one that does not let itself be cancelled.
        """
        task = asyncio.get_running_loop().create_task(self._steps(seconds, awaited))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait((task,), timeout=seconds)
        finally:
            task.cancel()  # of no effect on one that is done
        if not task.done():
            raise TooSlowError
        if task.cancelled():
            raise RuntimeError("it was cancelled from within")
        return task.result()

    async def _steps(self, seconds: float, awaited: Awaitable[Any]) -> Any:
        try:
            return await _Steps(self, seconds, awaited)
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise RuntimeError(_NOT_FOR_HOOKS.format(type(error).__name__)) from error

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has heard of it; of one that came too late nobody has to

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
                waits_for = self._containment.limited(self._seconds, step, *argument)
            except StopIteration as ended:
                return ended.value
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001  a cancellation, above all: it is for the hook to hear of
                step, argument = steps.throw, (error,)
            else:
                step, argument = steps.__next__, ()
