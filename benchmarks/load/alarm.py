"""An alarm at an exact time, for an event loop whose own timers know only whole milliseconds.

Linux' timerfd fires within some ten microseconds of its time (timerfd_create(2)). CPython has it from 3.13 on
(`os.timerfd_create`); until then it is called through ctypes.
"""

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1
_SECOND: Final = 1_000_000_000


class _Timerspec(ctypes.Structure):
    """struct itimerspec: interval and value, each seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long), ("value_ns", ctypes.c_long),
    )  # fmt: skip


_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """Calls `ring` once for each time that it is set; setting it anew moves it. Close it at the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._fd: int = _LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = loop
        self._ring = ring
        loop.add_reader(self._fd, self._fired)

    def set(self, when: int) -> None:
        """Ring at `when`, in nanoseconds of `time.monotonic_ns()`; at once where that is past."""
        spec = _Timerspec(0, 0, *divmod(max(when, 1), _SECOND))
        if _LIBC.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """It does not ring any more."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _fired(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it was moved after it fired
            os.read(self._fd, 8)
            self._ring()
