"""One downstream HTTP/1.1 connection: reads requests in order, hands each to an `Exchange`, and writes the answers.

Requests on a connection are answered one after the other (RFC 9112 9.3.2); a pipelined one waits, as bytes, until its
turn. When the client does not take what is written, the exchange pauses the upstream; when the upstream does not take
the request's body, reading here is paused. Nothing is buffered beyond the two transports' high-water marks.
"""

import asyncio
from time import monotonic
from typing import Final, cast

from pymesh_proxy.codec.body import BodyReader, reader_for
from pymesh_proxy.codec.http1 import MessageError, bad_request, parse_request, request_has_body
from pymesh_proxy.codec.shape import NO_FIELDS
from pymesh_proxy.config.model import HttpManager
from pymesh_proxy.ending import Ending
from pymesh_proxy.errors import Flag, failure
from pymesh_proxy.exchange import Exchange
from pymesh_proxy.keep_alive import bounded, head_limit, idle_until, worn_out
from pymesh_proxy.origin import MISDIRECTED, NO_CHAIN, Identify, Origin
from pymesh_proxy.request_body import MAX_REPLAY_BYTES
from pymesh_proxy.runtime import Runtime
from pymesh_proxy.serving import Serving
from pymesh_proxy.telemetry.metrics import HttpStats
from pymesh_proxy.timers import NEVER
from pymesh_proxy.transport.first_bytes import hand_over
from pymesh_proxy.transport.tls_records import TooManyRecords
from pymesh_proxy.upstream.pool import WRITE_HIGH_WATER

# Pipelined bytes kept while a response is pending; reading pauses beyond. One socket read of uvloop is up to 256 KiB.
MAX_PIPELINED: Final = 64 * 1024
# Requests taken from one read that are answered before the loop's next turn: those that the proxy answers itself (a
# redirect, a denial, no route) are over at once, and a read has room for thousands.
TURN_REQUESTS: Final = 16
# What may stand before a request and is none (RFC 9112 2.2), as far as it has come.
_NO_REQUEST: Final = (b"", b"\r", b"\r\n")


class DownstreamConnection(asyncio.Protocol):
    """See the module. `identify` tells the facts of the connection once it is made; None if it is not to be served.
    `origin` tells who serves it once it is not `manager` any more.
    """

    __slots__ = (
        "_blocked", "_body", "_born", "_buffer", "_ending", "_exchange", "_going_on", "_head_begun", "_identify",
        "_idle_since", "_origin", "_paused", "_reading", "_shape", "_worn", "deadline", "facts", "manager", "patience",
        "requests", "runtime", "serving", "stats", "timer_slot", "transport",
    )  # fmt: skip

    def __init__(self, runtime: Runtime, manager: HttpManager, identify: Identify, origin: Origin) -> None:
        self.runtime = runtime
        self._identify = identify
        self._origin = origin
        self.requests = 0
        self.serving: Serving
        self.stats: HttpStats
        self._worn = False  # there is something for `is_last` and `exchange_done` to look closer at
        self._serve_by(manager)
        self._born = self._idle_since = monotonic()
        self._head_begun = 0.0  # when the first bytes of an incomplete head came
        self.deadline = NEVER
        self.timer_slot = 0
        self._exchange: Exchange | None = None
        self._body: BodyReader | None = None
        self._shape = NO_FIELDS  # of the last request: the next one probably has it, too
        self._buffer = b""
        self._reading = False
        self._going_on = False  # with what is buffered, in the loop's next turn
        self._paused = False  # we do not read
        self._blocked = False  # the client does not take what is written
        self._ending: Ending | None = None  # once it is over

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast("asyncio.Transport", transport)
        facts = self._identify(transport)
        if facts is None:
            self._ending = Ending(self._born)  # whatever arrives before the abort takes effect is dropped
            self.transport.abort()
            return
        self.facts = facts
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.runtime.connections.add(self)
        self.stats.cx_total += 1
        self.stats.cx_active += 1
        self.follow()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.runtime.timers.forget(self)
        if self in self.runtime.connections:
            self.runtime.connections.discard(self)
            self.stats.cx_active -= 1
        exchange, self._exchange = self._exchange, None
        if isinstance(exc, TooManyRecords):
            self.stats.protocol_errors += 1
        if exchange is not None:
            exchange.downstream_lost()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._ending is not None:
            if not self._ending.drops(len(data)):
                self.transport.abort()
            return
        buffered = self._buffer
        if buffered:
            data = buffered + data
            limit = self.manager.max_request_headers_bytes
            if self._head_begun and len(data) <= limit and b"\n" not in data[len(buffered) :]:
                self._buffer = data  # a head that grows by less than a line cannot have become complete
                return
            if self._going_on:  # it was on its way when reading was paused
                self._buffer = data
                return
            self._buffer = b""
        self._read(data)

    def eof_received(self) -> bool:
        """See asyncio.Protocol. A client that ends its side is gone, as for Envoy and nginx: nobody is to work for it.

        On an upgraded connection the end of one half is passed on.
        """
        exchange, body = self._exchange, self._body
        if exchange is None:
            self.finish()
            return False
        if body is None or not body.end_of_stream():
            self.transport.abort()
            return False
        exchange.downstream_eof()
        return self._exchange is not None

    def pause_writing(self) -> None:
        """See asyncio.Protocol: the client does not take what is written."""
        self._blocked = True
        if self._exchange is not None:
            self._exchange.downstream_pause()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._blocked = False
        if self._exchange is not None:
            self._exchange.downstream_resume()
        else:
            self.follow()
            self._read_on()

    # --- Reading requests ---

    def _read(self, data: bytes) -> None:
        """Take requests and their bodies out of `data`, until it is used up or an answer is awaited."""
        self._reading = True
        last = self.requests + TURN_REQUESTS
        try:
            while data and self._ending is None:
                exchange = self._exchange
                if exchange is None and not self._blocked:
                    if self.requests == last:
                        self._go_on_soon(data)
                        return
                    data = self._read_head(data)
                elif exchange is not None and self._body is not None:
                    data = self._read_body(exchange, self._body, data)
                else:  # this answer first; and no other while the client leaves the ones before unread
                    self._buffer = data
                    if self._blocked or len(data) > MAX_PIPELINED:
                        self.pause_reading()
                    return
        except MessageError as error:
            self._refuse(error)
        finally:
            self._reading = False

    def _read_on(self) -> None:
        """More may come, and may have been read already."""
        if self._blocked or self._ending is not None or self._going_on:
            return
        if self._paused:
            self.resume_reading()
        if self._buffer and not self._reading:
            data, self._buffer = self._buffer, b""
            self._read(data)

    def _go_on_soon(self, data: bytes) -> None:
        """Others first: `data` is for the loop's next turn."""
        self._buffer = data
        self.pause_reading()
        if not self._going_on:
            self._going_on = True
            self.runtime.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._going_on = False
        if not self.transport.is_closing():
            self._read_on()

    def _read_head(self, data: bytes) -> bytes:
        """Start an exchange from the head at the start of `data`; what follows it."""
        if self.serving.outdated:
            self._catch_up(data)
            if self._ending is not None:
                return b""
        manager = self.manager
        parsed = parse_request(data, manager.max_request_headers_bytes, manager.max_headers_count, self._shape)
        if parsed is None:
            if not self._head_begun and data not in _NO_REQUEST:
                self._head_begun = monotonic()
                self.set_deadline(self._head_begun + head_limit(self.manager)[0])
            self._buffer = data
            return b""
        head, end = parsed
        if head.shape is not self._shape:
            self._shape = head.shape if head.shape.small else NO_FIELDS
        begun, self._head_begun = self._head_begun, 0.0
        self.requests += 1
        has_body = head.shape.framing and request_has_body(head)
        exchange = self._exchange = Exchange(self, head, has_body, begun)
        if has_body:
            if head.content_length == len(data) - end <= MAX_REPLAY_BYTES:  # all of it, and nothing else
                exchange.start(data[end:], ended=True)
                return b""
            body = self._body = reader_for(-1 if head.chunked else head.content_length, bad_request)
            if end < len(data) <= end + MAX_REPLAY_BYTES:
                return self._start_with(exchange, body, data[end:])
        exchange.start()
        return data[end:] if end < len(data) else b""

    def _start_with(self, exchange: Exchange, body: BodyReader, data: bytes) -> bytes:
        """Start an exchange whose body came with its head, or began to: both go upstream in one write."""
        try:
            used = body.feed(data)
        except MessageError:
            exchange.start()  # what is refused has a route and a cluster all the same
            raise
        if body.done:
            self._body = None
        exchange.start(data[:used], ended=body.done)
        if self._exchange is exchange and not body.done:
            self._buffer = data[used:]
            return b""
        return data[used:]

    def _read_body(self, exchange: Exchange, body: BodyReader, data: bytes) -> bytes:
        used = body.feed(data)
        if used:
            exchange.request_body(data if used == len(data) else data[:used])
        if self._exchange is not exchange:
            return data[used:]
        if body.done:
            self._body = None
            exchange.request_end()
            return data[used:]
        self._buffer = data[used:]
        return b""

    def _refuse(self, error: MessageError) -> None:
        """Answer what breaks the protocol, and read no further."""
        self.stats.protocol_errors += 1
        exchange = self._exchange
        if exchange is None:
            exchange = self._exchange = Exchange.for_bad_request(self)
            self._body = reader_for(None, bad_request)  # where the next request would begin, nobody knows
        exchange.fail(error)

    # --- For the exchange ---

    def switch_protocols(self) -> None:
        """From here on the client's bytes are opaque (after a 101)."""
        self._body = reader_for(None, bad_request)
        if self.serving.outdated:
            self.runtime.loop.call_soon(self.follow)
        self._read_on()

    def exchange_done(self, now: float, *, keep: bool) -> None:
        """The answer is written. Read on, or close: after a request that was not read to its end there is no next."""
        self._exchange = None
        if not keep or self._body is not None:
            self.finish()
            return
        self._idle_since = now
        patience = self.manager.idle_timeout
        if self._worn or self.serving.last or (patience is not None and now + patience < self.deadline):
            self.follow()
        if self._buffer or self._paused:
            self._read_on()

    def is_last(self) -> bool:
        """Whether the request in hand is the last on this connection, so that its answer says `close`."""
        if not self._worn or self.serving.last:
            return self.serving.last
        return worn_out(self.manager, self.requests, self._born, monotonic())

    def finish(self) -> None:
        """Say no more, and close once the client has had the chance to read what was said."""
        if self._ending is not None:
            return
        self._ending = Ending(monotonic())
        self.set_deadline(self._ending.due)
        if self._buffer in _NO_REQUEST and (self._body is None or self._body.done):
            self.transport.close()
            return
        self._buffer = b""
        self.resume_reading()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def pause_reading(self) -> None:
        """Read no more from the client for now."""
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the client again."""
        if self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # --- What changes for all connections ---

    def follow(self) -> None:
        """See runtime.Following. A request ends by the rules it began with; after a 101 it is cut if not let in now."""
        if self._ending is not None or self.transport.is_closing():
            return
        if self._exchange is not None:
            self._worn = self._worn or self.serving.outdated  # `exchange_done` looks closer
            upgraded = self.serving.outdated and self._exchange.record.status == 101
            if upgraded and self._origin.handler(self.facts, self.transport, requests=True) is None:
                self._exchange.fail(failure(Flag.NO_ROUTE, NO_CHAIN))
            return
        if self.serving.outdated and not (self._reading or self._blocked):  # (a new protocol would not hear of that)
            self._catch_up(self._buffer)
        if self._ending is None:
            self.set_deadline(idle_until(self.manager, self.serving, self._born, self._idle_since))

    def _catch_up(self, data: bytes) -> None:
        """Be served as the configuration in force says, from the request on that `data` begins."""
        runtime, origin = self.runtime, self._origin
        handler = origin.handler(self.facts, self.transport, requests=True)
        if handler is None:
            self.serving = Serving(self.stats, (MISDIRECTED,))
            self.serving.end(monotonic())
            return
        origin.generation = runtime.generation
        if handler is not self.manager:
            self.facts.decided.clear()  # by rules that are not in force any more
        self.stats.cx_active -= 1
        if isinstance(handler, HttpManager):
            self._serve_by(handler)
            self.stats.cx_active += 1
        else:  # nobody reads requests here any more
            self._ending = Ending(monotonic())
            runtime.timers.forget(self)
            runtime.connections.discard(self)
            hand_over(self.transport, origin.entrance.opaque(handler, self.facts, origin), data)

    def _serve_by(self, manager: HttpManager) -> None:
        self.manager = manager
        self.serving = self.runtime.serving(manager, self._origin.generation)
        self.stats = self.serving.stats
        self._worn = bounded(manager)
        self.patience = NEVER if manager.stream_idle_timeout is None else manager.stream_idle_timeout

    # --- Deadlines ---

    def set_deadline(self, when: float) -> None:
        """Be told at `when`, or earlier: a deadline that is already nearer stays, and whoever is told looks again."""
        if when < self.deadline:
            self.deadline = when
            self.runtime.timers.watch(self)

    def on_deadline(self, now: float) -> None:
        """See timers.Timed."""
        self.deadline = NEVER
        if self._ending is not None:
            if self._ending.goes_on(now, self.transport.get_write_buffer_size()):
                self.set_deadline(self._ending.due)
            else:
                self.transport.abort()
        elif self._exchange is not None:
            self._exchange.on_deadline(now)
        elif self._head_begun:
            self._head_deadline(now)
        elif now >= (until := idle_until(self.manager, self.serving, self._born, self._idle_since)):
            self.finish()
        else:
            self.set_deadline(until)

    def _head_deadline(self, now: float) -> None:
        """A request head is still incomplete."""
        limit, flag, details = head_limit(self.manager)
        if now >= self._head_begun + limit:
            self._refuse(MessageError(408, flag, details))
        else:
            self.set_deadline(self._head_begun + limit)
