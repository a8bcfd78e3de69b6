"""Which request goes out on which connection, and what became of it: no sockets and no clock, time is an argument.

A request is *due* at its time in the schedule. It goes out then if a connection is free, and as soon as one is
otherwise; in both cases its latency counts from when it was due, so what a stall delays is in the figures. A generator
that waits for answers sends less while the server stalls, and so leaves out just the requests that would have shown it
("coordinated omission").
"""

from collections import Counter, deque
from collections.abc import Iterator
from typing import Final, Protocol

from benchmarks.load.answers import Answer
from benchmarks.load.failures import FailedError, Failures, judge
from benchmarks.load.histogram import Histogram

_SECOND: Final = 1_000_000_000


class Line(Protocol):
    """A connection, as far as this is concerned."""

    def send(self) -> None:
        """Send the request."""

    def abort(self) -> None:
        """End it at once."""


class Dispatch:
    """One run. All times are nanoseconds of one clock.

    Attributes:
        next_due: when to call `release` next; None when the schedule is at its end.
    """

    def __init__(
        self,
        offsets: Iterator[int],
        *,
        warm_up: int,
        lasting: int,
        window: int,
        timeout: int,
        body_bytes: int = -1,
    ) -> None:
        """The first `warm_up` of it is sent and waited for, and its errors count, but its latencies do not.

        Args:
            offsets: when requests are due, from the start of the warm-up on, in order.
            lasting: the time that counts, after the warm-up.
            window: the length of each histogram's part of that.
            timeout: after which an unanswered request is given up, from when it was due.
            body_bytes: of each answer; -1 for any.
        """
        self._offsets = offsets
        self._warm_up = warm_up
        self._window = window
        self._timeout = timeout
        self._body_bytes = body_bytes
        self._start = self._begin = 0
        self._free: deque[Line] = deque()
        self._busy: dict[Line, int] = {}
        self._queue: deque[int] = deque()
        self.next_due: int | None = None
        self.windows = [Histogram() for _ in range(max(-(-lasting // window), 1))]
        self.late = Histogram()
        self.queued = 0
        self.statuses: Counter[str] = Counter()
        self.failures = Failures()

    def start(self, at: int) -> None:
        """The schedule begins."""
        self._start = at
        self._begin = at + self._warm_up
        self._advance()

    @property
    def done(self) -> bool:
        """Whether every request of the schedule has come to its end."""
        return self.next_due is None and not self._queue and not self._busy

    def release(self, now: int) -> None:
        """Send what is due."""
        while self.next_due is not None and self.next_due <= now:
            due = self.next_due
            self._advance()
            if due >= self._begin:
                self.late.record(now - due)
            if self._free:
                self._send(self._free.popleft(), due)
            else:
                self.queued += due >= self._begin
                self._queue.append(due)

    def ready(self, line: Line) -> None:
        """A connection that is free: a new one, or one whose request has come to its end."""
        if self._queue:
            self._send(line, self._queue.popleft())
        else:
            self._free.append(line)

    def answered(self, line: Line, answer: Answer, now: int) -> None:
        """The answer to the request on it is complete. The connection is taken off: `ready` gives it back.

        Unasked-for answers count as errors of kind `protocol`.
        """
        due = self._busy.pop(line, None)
        if due is None:
            self.failed(line, FailedError("protocol", f"{answer.status} without a request"))
            return
        self.statuses[str(answer.status)] += 1
        if error := judge(answer, self._body_bytes):
            self.failures.add(error)
        elif due >= self._begin:
            self.windows[min((due - self._begin) // self._window, len(self.windows) - 1)].record(now - due)

    def failed(self, line: Line, error: FailedError) -> None:
        """The connection is of no use any more; the request on it, if there is one, has failed.

        A free connection that ends costs no request and is no error, unless something unasked-for came on it.
        """
        if self._busy.pop(line, None) is not None or error.kind == "protocol":
            self.failures.add(error)
        elif line in self._free:
            self._free.remove(line)

    def unconnected(self, error: FailedError) -> None:
        """A connection could not be made: the request that has waited longest for one has failed, if there is one."""
        if self._queue:
            self._queue.popleft()
            self.failures.add(error)

    def expire(self, now: int) -> list[Line]:
        """Give up what is over time; the connections that had such a request are of no use any more."""
        over = now - self._timeout
        within = f"within {self._timeout / _SECOND:g} s"
        while self._queue and self._queue[0] <= over:
            self._queue.popleft()
            self.failures.add(FailedError("timeout", f"no free connection {within}"))
        expired = [line for line, due in self._busy.items() if due <= over]
        for line in expired:
            self.failed(line, FailedError("timeout", f"no answer {within}"))
        return expired

    def _advance(self) -> None:
        offset = next(self._offsets, None)
        self.next_due = None if offset is None else self._start + offset

    def _send(self, line: Line, due: int) -> None:
        self._busy[line] = due
        line.send()
