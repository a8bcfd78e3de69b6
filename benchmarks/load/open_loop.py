"""Requests by a schedule, over kept connections: the sockets and the clock around `dispatch.py`."""

import asyncio
import gc
import resource
import time
from typing import Final, cast

from benchmarks.load.alarm import Alarm
from benchmarks.load.answers import Answer, AnswerReader, BadAnswerError
from benchmarks.load.dispatch import Dispatch
from benchmarks.load.failures import FailedError, failure
from benchmarks.load.plans import Requests
from benchmarks.load.results import Latencies
from benchmarks.load.schedule import arrivals
from pymesh.errors import MeshError

_SECOND: Final = 1_000_000_000
# Seconds: between two looks at what is over time; before a connection that failed is tried again; between the last
# connection's being there and the first request.
_LOOK: Final = 0.1
_AGAIN: Final = 0.05
_HEAD_START: Final = 0.05


class _Connection(asyncio.Protocol):
    """One connection, with at most one request on its way."""

    def __init__(self, request: bytes, dispatch: Dispatch, *, answer_to_head: bool) -> None:
        self.lost = asyncio.Event()
        self._request = request
        self._dispatch = dispatch
        self._reader = AnswerReader(answer_to_head=answer_to_head)
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        """As `dispatch.Line`."""
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        try:
            answer = self._reader.feed(data)
        except BadAnswerError as error:
            self._end(FailedError("protocol", str(error)))
        else:
            if answer is not None:
                self._answered(answer, now)

    def eof_received(self) -> bool:
        try:
            answer = self._reader.end()
        except BadAnswerError as error:
            self._end(FailedError("closed", str(error)))
        else:
            if answer is not None:
                self._answered(answer, time.monotonic_ns())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        error = failure(exc) if exc else FailedError("closed", "the connection was closed before an answer")
        self._dispatch.failed(self, error)
        self.lost.set()

    def abort(self) -> None:
        """Not to be used any more."""
        self._transport.abort()

    def _answered(self, answer: Answer, now: int) -> None:
        self._dispatch.answered(self, answer, now)
        if answer.last:
            self._transport.close()
        else:
            self._dispatch.ready(self)

    def _end(self, error: FailedError) -> None:
        self._dispatch.failed(self, error)
        self._transport.abort()


async def measure(plan: Requests) -> Latencies:
    """Connect, send by the schedule, and wait for the last answer.

    Raises:
        MeshError: the plan cannot be carried out, or not every connection can be had at the start.
    """
    dispatch = Dispatch(
        arrivals(plan.arrivals, plan.rate, plan.warm_up + plan.seconds, plan.seed),
        warm_up=_nanoseconds(plan.warm_up),
        lasting=_nanoseconds(plan.seconds),
        window=_nanoseconds(plan.window or plan.seconds),
        timeout=_nanoseconds(plan.timeout),
        body_bytes=plan.body_bytes,
    )
    lines = _Lines(plan, dispatch)
    await lines.open()
    gc.collect()
    gc.disable()  # nothing here makes cycles, and a collection would be a stall of ours
    began = time.monotonic_ns() + _nanoseconds(_HEAD_START)
    try:
        await _send_all(dispatch, lines, began)
    finally:
        gc.enable()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Latencies(
        target=str(plan.target),
        rate=plan.rate,
        connections=plan.connections,
        seconds=plan.seconds,
        began=began / _SECOND + plan.warm_up,
        window=plan.window or plan.seconds,
        windows=tuple(dispatch.windows),
        late=dispatch.late,
        queued=dispatch.queued,
        reconnects=lines.reconnects,
        statuses=dict(dispatch.statuses),
        errors=dict(dispatch.failures.counts),
        examples=dispatch.failures.examples,
        cpu_seconds=used.ru_utime + used.ru_stime,
    )


async def _send_all(dispatch: Dispatch, lines: "_Lines", began: int) -> None:
    def ring() -> None:
        dispatch.release(time.monotonic_ns())
        if dispatch.next_due is not None:
            alarm.set(dispatch.next_due)

    alarm = Alarm(asyncio.get_running_loop(), ring)
    try:
        dispatch.start(began)
        async with asyncio.TaskGroup() as group:
            keepers = [group.create_task(lines.keep(connection)) for connection in lines.opened]
            ring()
            while not dispatch.done:
                await asyncio.sleep(_LOOK)
                for line in dispatch.expire(time.monotonic_ns()):
                    line.abort()
            for keeper in keepers:
                keeper.cancel()
    finally:
        alarm.close()


class _Lines:
    """The connections of a run: opened before it, and replaced where one ends."""

    def __init__(self, plan: Requests, dispatch: Dispatch) -> None:
        self.opened: list[_Connection] = []
        self.reconnects = 0
        self._plan = plan
        self._dispatch = dispatch
        self._request = plan.request.encode(plan.target)
        self._tls = plan.trust.context() if plan.target.tls else None

    async def open(self) -> None:
        """Have them all.

        Raises:
            MeshError: one cannot be had.
        """
        for _ in range(self._plan.connections):
            try:
                self.opened.append(await self._connect())
            except OSError as error:
                raise MeshError(f"cannot connect to {self._plan.target}: {failure(error)}") from error
        for connection in self.opened:
            self._dispatch.ready(connection)

    async def keep(self, connection: "_Connection") -> None:
        """Put another in its place whenever it ends, until cancelled; at last it is closed."""
        try:
            while True:
                await connection.lost.wait()
                connection = await self._again()
                self.reconnects += 1
                self._dispatch.ready(connection)
        finally:
            connection.abort()

    async def _again(self) -> "_Connection":
        while True:
            try:
                return await self._connect()
            except OSError as error:
                self._dispatch.unconnected(failure(error))
                await asyncio.sleep(_AGAIN)

    async def _connect(self) -> "_Connection":
        """A new one.

        Raises:
            OSError: it cannot be had; `ssl.SSLError` and `TimeoutError` are such.
        """
        target, plan = self._plan.target, self._plan
        async with asyncio.timeout(plan.timeout):
            _, made = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self._request, self._dispatch, answer_to_head=plan.request.method == "HEAD"),
                target.host,
                target.port,
                ssl=self._tls,
                server_hostname=plan.trust.name or target.host if target.tls else None,
            )
        return made


def _nanoseconds(seconds: float) -> int:
    return round(seconds * _SECOND)
