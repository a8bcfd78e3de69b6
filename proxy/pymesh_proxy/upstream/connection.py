"""One upstream HTTP/1.1 connection: writes requests, reads responses in order, knows whether it may be used again."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from pymesh_proxy.codec.body import BodyReader, reader_for
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MessageError,
    bad_response,
    parse_response,
    response_framing,
)
from pymesh_proxy.codec.shape import NO_FIELDS
from pymesh_proxy.config.model import Cluster, TlsClient
from pymesh_proxy.timers import NEVER
from pymesh_proxy.upstream.endpoint import Endpoint

# Interim responses (1xx) to one request. A peer that has nothing else to say shall not keep a request for ever.
MAX_INFORMATIONAL: Final = 100


class ResponseSink(Protocol):
    """Who is waiting for the response: an exchange."""

    def response_head(self, head: Head, framing: int | None, body: bytes) -> bool:
        """The final head (or a 101) and the part of its body that came along.

        `framing`: bytes of the body, -1 for chunked, None if it ends with the connection. False if the response is not
        wanted: the connection is then no longer the exchange's.
        """

    def informational(self, head: Head) -> None:
        """A 1xx other than 101."""

    def response_body(self, data: bytes) -> None:
        """Bytes of the body, framing included."""

    def response_end(self) -> None:
        """The response is complete."""

    def upstream_failed(self, error: Exception) -> None:
        """The connection ended, or broke the rules, before the response was complete."""

    def upstream_pause(self) -> None:
        """The upstream does not take more for now."""

    def upstream_resume(self) -> None:
        """The upstream takes more again."""


class UpstreamConnection(asyncio.Protocol):
    """A pooled connection to `endpoint`.

    Attributes:
        tls: transport settings it was made with; a pool must not hand it out for others.
        fits: the compiled cluster whose settings those were found to be; see `pool.acquire`.
        requests: how many it has carried.
        peer: SPIFFE identity of the other end; empty on plaintext.
        local: "ip:port" of our end.
        to_mesh: whether the other end is a sidecar of the mesh.
        persistent: in step, and the peer has not said that it will close.
        blocked: the peer does not take what is written.
    """

    __slots__ = (
        "_buffer", "_informational", "_method", "_on_lost", "_reader", "_shape", "_sink", "_upgraded", "blocked",
        "deadline", "endpoint", "fits", "local", "peer", "persistent", "requests", "timer_slot", "tls", "to_mesh",
        "transport",
    )  # fmt: skip

    def __init__(
        self, endpoint: Endpoint, tls: TlsClient | None, on_lost: Callable[["UpstreamConnection"], None]
    ) -> None:
        self.endpoint = endpoint
        self.tls = tls
        self.fits: Cluster | None = None
        self.requests = 0
        self.peer = self.local = ""
        self.to_mesh = tls is not None and tls.to_mesh
        self.persistent = True
        self.blocked = False
        self.deadline = NEVER
        self.timer_slot = 0
        self._on_lost = on_lost
        self._sink: ResponseSink | None = None
        self._buffer = b""
        self._reader: BodyReader | None = None
        self._method = b""
        self._shape = NO_FIELDS  # of the last response: the next one probably has it, too
        self._upgraded = False
        self._informational = 0  # interim responses to this request so far

    # --- For the exchange ---

    def begin(self, sink: ResponseSink, method: bytes, data: bytes) -> None:
        """Send the start of a request (head, and body so far); its response goes to `sink`."""
        self._sink = sink
        self._method = method
        self.requests += 1
        self.transport.write(data)

    def send(self, data: bytes) -> None:
        """Send more of the request's body."""
        self.transport.write(data)

    def send_eof(self) -> None:
        """Half-close: on an upgraded connection the client has said its last."""
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def detach(self) -> None:
        """The exchange is over as far as this connection is concerned; nothing more is passed on."""
        self._sink = None
        self._reader = None

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent: open, in step, and the peer has not said that it will close."""
        return self.persistent and not self.blocked and not self.transport.is_closing()

    def close(self) -> None:
        """Close now; nothing that is still in flight matters any more."""
        self.detach()
        self.transport.abort()

    def on_deadline(self, now: float) -> None:
        """See timers.Timed: it has been idle for long enough, unless it is at work again."""
        if self._sink is None:
            self.close()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        sink = self._sink
        self._on_lost(self)
        if sink is not None:
            self.detach()
            sink.upstream_failed(exc or ConnectionResetError("connection closed by the upstream"))

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self.blocked = True
        if self._sink is not None:
            self._sink.upstream_pause()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self.blocked = False
        if self._sink is not None:
            self._sink.upstream_resume()

    def eof_received(self) -> bool:
        """See asyncio.Protocol: the end of the stream is the end of a body that has no other."""
        sink, reader = self._sink, self._reader
        if sink is not None and reader is not None and reader.end_of_stream():
            self.persistent = False
            if self._upgraded:
                sink.response_end()
                return True
            self._complete(sink)
        return False

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        sink = self._sink
        if sink is None:
            # Bytes that nobody asked for: what would be read as the answer to the next request.
            self.persistent = False
            self.transport.abort()
            return
        try:
            if self._reader is None and not self._buffer:
                self._read_first(sink, data)
            elif self._reader is None and b"\n" not in data and len(self._buffer) + len(data) <= MAX_HEAD_BYTES:
                self._buffer += data  # a head that grows by less than a line cannot have become complete
            else:
                self._read(sink, self._buffer + data)
        except MessageError as error:
            self.persistent = False
            if self._sink is not None:
                self.detach()
                sink.upstream_failed(error)
            self.transport.abort()

    def _read_first(self, sink: ResponseSink, data: bytes) -> None:
        """The first bytes of a response: nearly always its head and all of its body, at once."""
        while (parsed := parse_response(data, MAX_HEAD_BYTES, MAX_FIELDS, self._shape)) is not None:
            head, end = parsed
            if head.shape is not self._shape:
                self._shape = head.shape if head.shape.small else NO_FIELDS
            if head.status >= 200 or head.status == 101:
                break
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                raise bad_response("too_many_informational_responses")
            sink.informational(head)
            data = data[end:]
            if not data or self._sink is not sink:
                return
        else:
            self._buffer = data
            return
        if self._informational:
            self._informational = 0
        framing = response_framing(head, self._method)
        if framing == len(data) - end and head.status != 101:
            self.persistent = head.persistent
            if sink.response_head(head, framing, data[end:]):
                sink.response_end()
            return
        self._take_head(sink, head, framing, data[end:])

    def _read(self, sink: ResponseSink, data: bytes) -> None:
        """More bytes of a response that came in parts."""
        self._buffer = b""
        reader = self._reader
        if reader is None:
            self._read_first(sink, data)
            return
        used = reader.feed(data)
        if used:
            sink.response_body(data if used == len(data) else data[:used])
        self._buffer = data[used:]
        if reader.done and self._sink is sink:
            self._complete(sink)

    def _take_head(self, sink: ResponseSink, head: Head, framing: int | None, rest: bytes) -> None:
        """A head whose body is not complete yet, or has no end of its own."""
        if head.status == 101:
            framing, self._upgraded = None, True
        self.persistent = head.persistent and framing is not None
        reader = self._reader = reader_for(framing, bad_response)
        used = reader.feed(rest) if rest else 0
        self._buffer = rest[used:]
        if sink.response_head(head, framing, rest[:used]) and reader.done and self._sink is sink:
            self._complete(sink)

    def _complete(self, sink: ResponseSink) -> None:
        self._reader = None
        if self._buffer:  # it goes on where it should not
            self.persistent = False
        sink.response_end()
