"""Sends what is known of finished requests to a collector: encoded off their path, in batches, and never waited for.

A record is queued as it is, with its heads; soon after, so that no request pays for it, a slice of them is encoded.
What is encoded waits in a bounded queue (`telemetry/backlog.py`) for a batch to be full or old enough. A collector that
is away, slow or stopped costs the oldest entries, which are counted; it is tried again with growing pauses.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from pymesh.grpc.status import Code, RpcError
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.control.backoff import Backoff
from pymesh_proxy.control.channel import Stream
from pymesh_proxy.telemetry.backlog import Backlog
from pymesh_proxy.telemetry.record import RequestRecord

log = logging.getLogger("pymesh.reporter")

# Records that are encoded in one go. At 7 µs each that holds the loop for half a millisecond.
SLICE: Final = 64
# Bytes of encoded entries that wait for their receiver: at 1.2 KiB each, 1,700 requests.
MAX_BACKLOG: Final = 2 * 1024 * 1024
# Bytes of one message; gRPC servers take up to 4 MiB.
MAX_MESSAGE: Final = 1024 * 1024
# Seconds for a receiver to take a batch: one that is stopped looks alive for long.
SEND_TIMEOUT: Final = 10.0
# Seconds for the answer to a batch that is a call of its own.
CALL_TIMEOUT: Final = 5.0
# Seconds between attempts, at most: the backlog of a busy proxy covers not many more.
LONGEST_PAUSE: Final = 5.0

# What OTLP calls retryable (opentelemetry.io/docs/specs/otlp, "OTLP/gRPC response").
_TRY_AGAIN: Final = frozenset({
    Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.OUT_OF_RANGE, Code.UNAVAILABLE,
    Code.DATA_LOSS,
})  # fmt: skip


class Encode(Protocol):
    """Makes the entry of a finished request."""

    def __call__(self, record: RequestRecord, request: Head | None, response: Head | None) -> bytes | None:
        """The entry, encoded; None for a record that this receiver is not told of."""


class Receiver(Protocol):
    """Where batches go."""

    async def open(self) -> None:
        """Be ready to send. Raises RpcError."""

    async def send(self, entries: list[bytes], dropped: int) -> None:
        """Send a batch; `dropped` entries were lost so far. Raises RpcError: then it is not known what arrived."""

    def may_repeat(self, error: RpcError) -> bool:
        """Whether a batch that met with `error` is to be sent again: the receiver asks for it, or can tell doubles."""

    async def finish(self) -> None:
        """End in order: wait until the receiver has confirmed everything. Raises RpcError."""

    async def close(self) -> None:
        """End at once."""


@dataclass(slots=True)
class Counts:
    """What became of the entries for one receiver, since the proxy started.

    Attributes:
        sent: handed over.
        dropped: that the receiver will never see, or may not have seen: they had to make room, the connection broke
            with them on it, or they were refused.
        connected: whether the last attempt succeeded.
    """

    sent: int = 0
    dropped: int = 0
    connected: bool = False


class _Pending(NamedTuple):
    """A record that is not encoded yet; it loses its heads once the request is complete."""

    record: RequestRecord
    request: Head | None
    response: Head | None


class Reporter:
    """Reports to one receiver. Must be made on the loop that it serves; `run` sends. `label` is for people."""

    def __init__(
        self,
        label: str,
        encode: Encode,
        receiver: Receiver,
        counts: Counts,
        *,
        flush_interval: float,
        flush_bytes: int,
        rng: random.Random,
    ) -> None:
        """A batch goes when it has `flush_bytes`, or when its first entry is `flush_interval` seconds old."""
        self.label = label
        self.counts = counts
        self._failing = False
        self._encode = encode
        self._receiver = receiver
        self._flush_interval = flush_interval
        self._flush_bytes = flush_bytes
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(rng)
        self._pending: list[_Pending] = []
        self._backlog = Backlog(MAX_BACKLOG)
        self._timer: asyncio.TimerHandle | None = None
        self._due = asyncio.Event()  # a batch is to be sent
        self._idle = asyncio.Event()  # nothing waits and nothing is on its way
        self._idle.set()

    def write(self, record: RequestRecord) -> None:
        """Report a finished request. Never raises, never waits."""
        self._pending.append(_Pending(record, record.headers, record.response_headers))
        if len(self._pending) == SLICE:
            self._loop.call_soon(self._encode_pending)
        if self._timer is None:
            self._timer = self._loop.call_later(self._flush_interval, self._flush)

    async def run(self) -> None:
        """Send what is due; ends only by cancellation."""
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                while self._backlog:
                    await self._deliver()
                self._idle.set()
        finally:
            await self._receiver.close()

    async def finish(self, within: float) -> None:
        """Send what waits, and have it confirmed, as far as that is done `within` seconds."""
        self._flush()
        try:
            async with asyncio.timeout(within):
                await self._idle.wait()
                await self._receiver.finish()
        except TimeoutError:
            if left := len(self._backlog):
                self.counts.dropped += left
                log.warning("%s: %d entries are lost: not taken within %g s", self.label, left, within)
        except RpcError as error:
            log.warning("%s: the last entries may be lost: %s", self.label, error)

    def _flush(self) -> None:
        """Whatever there is, is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._encode_pending()
        if self._backlog:
            self._is_due()

    def _encode_pending(self) -> None:
        pending, self._pending = self._pending, []
        for item in pending:
            try:
                entry = self._encode(*item)
            except Exception as error:  # noqa: BLE001 - a mistake with one record must not cost the others
                self.counts.dropped += 1
                self._loop.call_exception_handler({"message": f"no entry for {self.label}", "exception": error})
                continue
            if entry is not None:
                self.counts.dropped += self._backlog.add(entry)
        if self._backlog.size >= self._flush_bytes:
            self._is_due()

    def _is_due(self) -> None:
        self._idle.clear()
        self._due.set()

    async def _deliver(self) -> None:
        """Send one batch, or find out why not and pause."""
        batch: list[bytes] = []
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await self._receiver.open()
                batch = self._backlog.take(MAX_MESSAGE)
                await self._receiver.send(batch, self.counts.dropped)
        except (RpcError, TimeoutError) as error:
            self._failed(batch, error)
            await self._receiver.close()
            await asyncio.sleep(min(self._backoff.delay(), LONGEST_PAUSE))
            return
        except asyncio.CancelledError:
            self.counts.dropped += len(batch)
            raise
        self._backoff.reset()
        counts = self.counts
        counts.sent += len(batch)
        if not counts.connected:
            log.info("%s: reporting; %d entries were dropped so far", self.label, counts.dropped)
        counts.connected, self._failing = True, False

    def _failed(self, batch: list[bytes], error: RpcError | TimeoutError) -> None:
        if isinstance(error, RpcError) and self._receiver.may_repeat(error):
            self.counts.dropped += self._backlog.put_back(batch)
        else:
            self.counts.dropped += len(batch)
        if not self._failing:  # said once, not for every attempt
            words = str(error) if isinstance(error, RpcError) else f"nothing taken within {SEND_TIMEOUT:g} s"
            log.warning("%s: %s; up to %d bytes of entries wait until it is back", self.label, words, MAX_BACKLOG)
        self.counts.connected, self._failing = False, True


# --- Receivers --------------------------------------------------------------------------------------------------------


class Channel(Protocol):
    """What is needed of a gRPC channel (control.channel.Channel, control.grpc_cluster.ClusterChannel)."""

    @property
    def moved(self) -> bool:
        """Whether a new call would go somewhere else than the open ones."""
        ...

    async def unary(self, method: str, request: bytes, *, within: float) -> bytes:
        """The answer to `request`."""
        ...

    def stream(self, method: str, *, within: float | None = None) -> AbstractAsyncContextManager[Stream]:
        """A call with messages both ways."""
        ...


class Join(Protocol):
    """Makes a message of a batch."""

    def __call__(self, entries: Sequence[bytes], dropped: int, /) -> bytes:
        """The message; `dropped` entries were lost before."""


class StreamReceiver:
    """Batches as messages of one long call, in the manner of ALS: nothing is confirmed before its end."""

    def __init__(self, channel: Channel, method: str, first: Callable[[], bytes], join: Join) -> None:
        """`first` makes what the first message begins with, `join` a message of a batch."""
        self._channel = channel
        self._method = method
        self._first = first
        self._join = join
        self._call: AbstractAsyncContextManager[Stream] | None = None
        self._stream: Stream | None = None
        self._begun = False

    async def open(self) -> None:
        """See Receiver."""
        if self._stream is not None and (self._stream.status is not None or self._channel.moved):
            await self.close()
        if self._stream is None:
            call = self._channel.stream(self._method)
            self._stream = await call.__aenter__()
            self._call = call
            self._begun = False

    async def send(self, entries: list[bytes], dropped: int) -> None:
        """See Receiver."""
        assert self._stream is not None
        message = self._join(entries, dropped)
        if not self._begun:
            message = self._first() + message
            self._begun = True
        await self._stream.send(message)

    def may_repeat(self, error: RpcError) -> bool:
        """See Receiver: a collector would count doubles."""
        return False

    async def finish(self) -> None:
        """See Receiver."""
        if self._stream is not None and self._stream.status is None:
            self._stream.finish()
            while await self._stream.receive() is not None:
                pass

    async def close(self) -> None:
        """See Receiver."""
        call, self._call, self._stream = self._call, None, None
        if call is not None:
            await call.__aexit__(None, None, None)


class CallReceiver:
    """Each batch as a call of its own, which is answered, in the manner of OTLP."""

    def __init__(self, channel: Channel, method: str, join: Join) -> None:
        """`join` makes the request of a batch."""
        self._channel = channel
        self._method = method
        self._join = join
        self._complained = False

    async def open(self) -> None:
        """See Receiver: nothing is to be done."""

    async def send(self, entries: list[bytes], dropped: int) -> None:
        """See Receiver."""
        answer = await self._channel.unary(self._method, self._join(entries, dropped), within=CALL_TIMEOUT)
        if answer and not self._complained:  # ExportTraceServiceResponse is empty but for `partial_success`
            self._complained = True
            log.warning("%s: the collector refuses some of what it is sent: %r", self._method, answer[:200])

    def may_repeat(self, error: RpcError) -> bool:
        """See Receiver: spans have names of their own, so that a collector can tell doubles."""
        return error.status.code in _TRY_AGAIN

    async def finish(self) -> None:
        """See Receiver: every batch is confirmed."""

    async def close(self) -> None:
        """See Receiver: nothing is open between calls."""
