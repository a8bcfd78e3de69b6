"""Access log files: lines in, batches out, and never a wait or an exception for the request that is logged.

Records are gathered, and their lines made and written together, at the latest after FLUSH_INTERVAL: one after the other
they cost half of what each of them would cost between two requests. A file that cannot take them (full disk,
blocked pipe, directory gone) is tried again while lines queue up within MAX_QUEUED; beyond it they are dropped and
counted. Only whole lines are dropped, and what is written comes in the order of the requests.
"""

import asyncio
import json
import logging
import os
import select
import stat
from collections.abc import Iterable, Mapping
from typing import Final

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.telemetry.log_format import Render, compile_format
from pymesh_proxy.telemetry.record import RequestRecord

log = logging.getLogger("pymesh.access_log")

# A batch is written when it has so many lines, or when its first one has waited so many seconds.
BATCH: Final = 32
FLUSH_INTERVAL: Final = 0.2
# Bytes that wait for a file to take them: at 400 bytes a line, 5,000 lines.
MAX_QUEUED: Final = 2 * 1024 * 1024
# Seconds until the next try: a pipe's reader needs a moment, a full disk or a missing directory longer.
BLOCKED_PAUSE: Final = 0.01
FAILED_PAUSE: Final = 1.0

# Standard streams are written through what we were given: opened anew, a file would be written at two offsets, and a
# socket (as systemd passes it) could not be opened at all.
_STREAMS: Final = {"/dev/stdout": 1, "/dev/fd/1": 1, "/dev/stderr": 2, "/dev/fd/2": 2}
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class AccessLog:
    """Writes a line for each record to the file at `path`; must be made on the loop that it serves.

    Attributes:
        path: the file, or `/dev/stdout` or `/dev/stderr`.
        written, dropped: lines so far.
    """

    def __init__(self, path: str, compiled: Render) -> None:
        self.path = path
        self.written = self.dropped = 0
        self._compiled = compiled
        self._loop = asyncio.get_running_loop()
        # Records whose lines are to be made, with the heads, which a record gives up once it is shown to everybody.
        self._finished: list[tuple[RequestRecord, Head | None, Head | None]] = []
        self._lines: list[bytes] = []
        self._queued = 0
        self._torn = False  # the first line in the queue is the rest of one that is partly written
        self._failing = ""
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = False  # for a file that did not take all: a full batch is no reason to try again
        self._file: int | None = None
        self._pipe = False
        self._ensure_open()

    def write(self, record: RequestRecord) -> None:
        """Log a finished request. Never raises; after `close` the line counts as dropped."""
        if self._closed:
            self.dropped += 1
            return
        self._finished.append((record, record.headers, record.response_headers))
        if len(self._finished) >= BATCH:
            if self._waiting:
                self._make_lines()
            else:
                self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_INTERVAL, self.flush)

    def _make_lines(self) -> None:
        """Of everything that has finished: queue the lines, as far as there is room."""
        finished, self._finished = self._finished, []
        for record, request, response in finished:
            try:
                line = self._compiled(record, request, response)
            except Exception as error:  # noqa: BLE001 - a mistake in a format's function must not cost a request
                self.dropped += 1
                self._loop.call_exception_handler({"message": f"no line for {self.path}", "exception": error})
                continue
            if self._queued + len(line) > MAX_QUEUED:
                self.dropped += 1
                continue
            self._lines.append(line)
            self._queued += len(line)

    def flush(self) -> None:
        """Write what is queued, as far as the file takes it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting = False
        self._make_lines()
        if not self._lines:
            return
        if not self._ensure_open():
            self._again(FAILED_PAUSE)
            return
        try:
            taken = self._write(b"".join(self._lines))
        except BlockingIOError:
            taken = 0
        except OSError as error:
            self._failed(error)
            self._again(FAILED_PAUSE)
            return
        self._advance(taken)
        if self._lines:
            self._again(BLOCKED_PAUSE)
        elif self._failing:
            log.warning("access log %s: written again; %d lines were dropped so far", self.path, self.dropped)
            self._failing = ""

    def reopen(self) -> None:
        """Go on in a new file of the same name: the old one was moved away. Without one the old one stays in use."""
        self.flush()
        old, self._file = self._file, None
        if self.path in _STREAMS or not self._ensure_open():
            self._file = old
            return
        if old is not None:
            os.close(old)
        if self._torn:  # its beginning is in the old file
            self._advance(len(self._lines[0]))
            self.written -= 1
            self.dropped += 1

    def close(self) -> None:
        """Write what can still be written, and let go of the file."""
        self._closed = True
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.dropped += len(self._lines)
        self._lines.clear()
        self._queued = 0
        if self._file is not None and self.path not in _STREAMS:
            os.close(self._file)
        self._file = None

    def _again(self, pause: float) -> None:
        self._waiting = True
        self._timer = self._loop.call_later(pause, self.flush)

    def _ensure_open(self) -> bool:
        if self._file is not None:
            return True
        try:
            file = _STREAMS.get(self.path)
            if file is None:
                file = os.open(self.path, _FLAGS, 0o644)
            self._pipe = not stat.S_ISREG(os.fstat(file).st_mode)
        except OSError as error:
            self._failed(error)
            return False
        self._file = file
        return True

    def _write(self, data: bytes) -> int:
        """How many bytes the file took. Never waits."""
        assert self._file is not None
        if not self._pipe:
            return os.write(self._file, data)
        # Pipes, sockets and terminals, not all of them ours to make non-blocking: one that is ready takes PIPE_BUF.
        ready = select.poll()
        ready.register(self._file, select.POLLOUT)
        taken = 0
        try:
            while taken < len(data) and ready.poll(0):
                taken += os.write(self._file, data[taken : taken + select.PIPE_BUF])
        except OSError:
            if not taken:
                raise
        return taken

    def _advance(self, taken: int) -> None:
        """Take `taken` bytes off the queue."""
        self._queued -= taken
        whole = 0
        for line in self._lines:
            if taken < len(line):
                break
            taken -= len(line)
            whole += 1
        self.written += whole
        if whole:
            del self._lines[:whole]
            self._torn = False
        if taken:
            self._lines[0] = self._lines[0][taken:]
            self._torn = True

    def _failed(self, error: OSError) -> None:
        """Say it once, not for every try."""
        words = error.strerror or str(error)
        if words != self._failing:
            self._failing = words
            log.error(
                "access log %s: %s; make room, or mend the path: up to %d bytes of lines wait in memory until then, "
                "and more are dropped",
                self.path,
                words,
                MAX_QUEUED,
            )


class AccessLogs:
    """Every access log of one proxy, one for each path and format, whatever snapshot or listener asks for it."""

    def __init__(self) -> None:
        self._logs: dict[tuple[str, str], AccessLog] = {}
        self._gone = 0  # dropped by logs that are closed

    def get(self, path: str, format: str | Mapping[str, str]) -> AccessLog:  # noqa: A002 - as in compile_format
        """The log that writes `format` to `path`; opened when it is first asked for. Worth keeping for a connection.

        Raises:
            ConfigError: the format is wrong.
        """
        key = _key(path, format)
        found = self._logs.get(key)
        if found is None:
            found = self._logs[key] = AccessLog(path, compile_format(format))
        return found

    def retain(self, wanted: Iterable[tuple[str, str | Mapping[str, str]]]) -> None:
        """Close the logs that no (path, format) of the configuration in force asks for."""
        keep = {_key(*pair) for pair in wanted}
        for key in self._logs.keys() - keep:
            closed = self._logs.pop(key)
            closed.close()
            self._gone += closed.dropped

    @property
    def dropped(self) -> int:
        """Lines that were lost, of all logs so far."""
        return self._gone + sum(item.dropped for item in self._logs.values())

    def reopen(self) -> None:
        """See AccessLog.reopen: for all of them, as on SIGUSR1."""
        for item in self._logs.values():
            item.reopen()

    def close(self) -> None:
        """See AccessLog.close: for all of them."""
        self.retain(())


def _key(path: str, format: str | Mapping[str, str]) -> tuple[str, str]:  # noqa: A002 - as in compile_format
    return path, format if isinstance(format, str) else json.dumps(dict(format), sort_keys=True)
