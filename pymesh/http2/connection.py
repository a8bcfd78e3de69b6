"""One HTTP/2 connection, either end of it, sans-IO: bytes in, events out; calls in, bytes out.

`receive` takes bytes and returns events; every other call leaves bytes in `bytes_to_send`, which is to be written after
each use of any method. Settings, pings and windows are dealt with inside. What is sent is the caller's to get right:
names in lower case, pseudo-header fields first, lengths that hold.

`receive` raises ConnectionBrokenError and nothing else, whatever the peer sends. An error of one stream ends that
stream: the peer is told, and so is whoever has heard of the stream (StreamReset).
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Final

from pymesh.http2 import frames
from pymesh.http2 import settings as http2_settings
from pymesh.http2.errors import ConnectionBrokenError, ErrorCode, StreamBrokenError
from pymesh.http2.events import (
    DataReceived,
    Event,
    Fields,
    GoAway,
    HeadersReceived,
    InformationalReceived,
    PingAcknowledged,
    StreamReset,
)
from pymesh.http2.floods import Patience
from pymesh.http2.flow_control import ReceiveWindow
from pymesh.http2.header_blocks import BlockReader, OpenBlock
from pymesh.http2.messages import Kind, MalformedError
from pymesh.http2.sending import Sender, widen
from pymesh.http2.settings import DEFAULT_WINDOW, LARGEST_WINDOW, PeerSettings
from pymesh.http2.stream_table import HIGHEST_STREAM, StreamTable
from pymesh.http2.streams import Stream

# Streams that a peer may have open at a time, where nothing else is said: an Envoy has one or two calls open, and each
# may hold a window of bytes.
MAX_CONCURRENT_STREAMS: Final = 100
# Of a header list, as RFC 9113 section 6.5.2 counts it; bearer tokens are the longest thing in them, 1 to 4 KiB.
MAX_HEADER_LIST_BYTES: Final = 64 * 1024


class Connection:
    """A connection; `client` says which end of it this is.

    Args:
        window: bytes that a peer may send on one stream before any is consumed.
        connection_window: that it may send on all of them. One that not every stream can fill is for whoever ends
            streams whose bodies are not consumed: two of them that are waited for could block each other.
        streams: that a peer may have open at a time.
        header_bytes: of a header list.
        clock: seconds, for the limits of `floods`.
    """

    def __init__(
        self,
        *,
        client: bool,
        window: int = DEFAULT_WINDOW,
        connection_window: int = LARGEST_WINDOW,
        streams: int = MAX_CONCURRENT_STREAMS,
        header_bytes: int = MAX_HEADER_LIST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        stream_window = min(window, LARGEST_WINDOW)
        self._client = client
        self._header_bytes = header_bytes
        self._reader = frames.FrameReader(preface=not client)
        self._blocks = BlockReader(header_bytes)
        self._patience = Patience(clock)
        self._sender = Sender(self._patience)
        self._peer = PeerSettings()
        self._streams = StreamTable(client=client, limit=streams, window=stream_window)
        self._open = self._streams.open
        self._open_block: OpenBlock | None = None
        self._events: list[Event] = []
        self._closed = False
        self._pings = 0  # that were not answered yet
        self._agreed = False  # the peer has acknowledged our settings
        self._window = ReceiveWindow(DEFAULT_WINDOW, DEFAULT_WINDOW)
        if client:
            self._sender.write(frames.PREFACE)
        ours = http2_settings.ours(client=client, streams=streams, window=stream_window, header_bytes=header_bytes)
        self._sender.write(frames.settings(ours))
        connection_window = min(window * streams, connection_window, LARGEST_WINDOW)
        if connection_window > DEFAULT_WINDOW:
            self._window = ReceiveWindow(connection_window, connection_window)
            self._sender.write(frames.window_update(0, connection_window - DEFAULT_WINDOW))

    # --- Sending ----------------------------------------------------------------------------------------------------

    def bytes_to_send(self) -> bytes:
        """What has to be written now; empty if nothing."""
        return self._sender.bytes_to_send()

    def next_stream_id(self) -> int | None:
        """An id for a new stream of ours, or None when the peer allows no more at the moment or the ids are used up."""
        return None if self._closed else self._streams.next_id(self._peer.streams)

    def send_headers(self, stream_id: int, fields: Fields, *, end: bool) -> None:
        """Send a head: a request's on the stream that `next_stream_id` named, a response's on one that is open."""
        if self._closed:
            return
        stream = self._open.get(stream_id)
        if stream is None:
            stream = self._streams.begin(stream_id, self._peer.window)
            if stream is None:
                return  # over
            stream.headless = (b":method", b"HEAD") in fields
        if stream.sends and not stream.ending:
            self._sender.head(stream, fields, end=end)
            self._settle(stream)

    def send_data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send or, where the peer's window is closed, queue bytes of a body; with `end` the last of it."""
        stream = self._open.get(stream_id)
        if stream is not None and stream.sends and not stream.ending:
            self._sender.body(stream, data, end=end)
            self._settle(stream)

    def send_end(self, stream_id: int, trailers: Fields | None = None, *, reset: bool = False) -> None:
        """End our side after what is queued, with trailers if given; with `reset`, then drop the peer's side too."""
        stream = self._open.get(stream_id)
        if stream is not None and stream.sends and not stream.ending:
            self._sender.finish(stream, trailers, resets=reset)
            self._settle(stream)

    def unsent(self, stream_id: int) -> int:
        """Bytes queued because the peer's window is closed."""
        stream = self._open.get(stream_id)
        return len(stream.queue) if stream is not None else 0

    def acknowledge(self, stream_id: int, size: int) -> None:
        """`size` flow-controlled bytes have been consumed: give the peer credit for as many. Any time, ended or not."""
        if size <= 0 or self._closed:
            return
        self._credit(size)
        stream = self._open.get(stream_id)
        if stream is not None and stream.receives and (credit := stream.window.give(size)):
            self._sender.write(frames.window_update(stream_id, credit))

    def reset(self, stream_id: int, error_code: int) -> None:
        """Give the stream up. Does nothing if it is closed already."""
        stream = self._open.get(stream_id)
        if stream is not None:
            self._sender.write(frames.rst_stream(stream_id, error_code))
            self._streams.give_up(stream)
            self._sender.forget(stream)

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life (a PingAcknowledged event); `payload` is eight bytes."""
        if not self._closed:
            self._pings += 1
            self._sender.write(frames.frame(frames.PING, 0, 0, payload))

    def retire(self) -> None:
        """Ask the peer to begin no more streams here; those that it does begin are served as before.

        Every stream that may still begin is below the last stream id that this names (RFC 9113 section 6.8).
        """
        if not self._closed:
            self._sender.write(frames.goaway(HIGHEST_STREAM, ErrorCode.NO_ERROR))

    def go_away(self, error_code: int = ErrorCode.NO_ERROR, reason: bytes = b"") -> None:
        """Announce that the connection is about to be closed."""
        if not self._closed:
            self._sender.write(frames.goaway(self._streams.newest, error_code, reason))
        self._closed = True
        self._open.clear()

    # --- Receiving --------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Events behind bytes of the peer, none after the connection was closed; raises ConnectionBrokenError."""
        if self._closed:
            return []
        events = self._events = []
        try:
            for kind, flags, stream_id, payload in self._reader.feed(data):
                if self._open_block is not None and kind != frames.CONTINUATION:
                    raise _protocol_error("a header block is interrupted")
                try:
                    _HANDLERS.get(kind, Connection._on_other)(self, flags, stream_id, payload)
                except StreamBrokenError as error:
                    self._break_stream(stream_id, error)
        except ConnectionBrokenError as error:
            self.go_away(error.code, str(error).encode())
            raise
        return events

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = frames.block_of(flags, payload)
        end = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._on_block(stream_id, block, end=end)
        else:
            self._open_block = OpenBlock(stream_id, block, end=end, limit=self._header_bytes)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        opened = self._open_block
        if opened is None:
            raise _protocol_error("CONTINUATION of nothing")
        opened.add(stream_id, payload)
        if flags & frames.END_HEADERS:
            self._open_block = None
            self._on_block(stream_id, bytes(opened.block), end=opened.end)

    def _on_block(self, stream_id: int, block: bytes, *, end: bool) -> None:
        self._patience.messages += 1
        stream = self._open.get(stream_id)
        if stream is None and (stream := self._begin(stream_id)) is None:
            with contextlib.suppress(MalformedError):  # nobody waits for it, but later blocks may refer to it
                self._blocks.read(Kind.TRAILERS, block)
            return
        kind = Kind.TRAILERS if stream.headed else Kind.RESPONSE if self._client else Kind.REQUEST
        try:
            section = self._blocks.read(kind, block)
        except MalformedError as error:
            raise StreamBrokenError(ErrorCode.PROTOCOL_ERROR, str(error)) from error
        stream.take_head(kind, section, end=end)
        if kind is Kind.RESPONSE and not stream.headed:
            self._patience.noise()
            self._events.append(InformationalReceived(stream_id, section.fields))
            return
        self._events.append(HeadersReceived(stream_id, section.fields, end))
        stream.known = True
        if end:
            self._settle(stream)

    def _begin(self, stream_id: int) -> Stream | None:
        """The stream that a HEADERS frame begins; None if it begins none, or none that is wanted."""
        if not self._streams.is_idle(stream_id):
            self._streams.check_late(frames.HEADERS, stream_id)
            return None
        full = self._streams.full
        stream = self._streams.begun(stream_id, self._peer.window)
        if not full:
            return stream
        self._patience.reset()
        self.reset(stream_id, ErrorCode.REFUSED_STREAM)  # it may be tried again, section 8.7
        return None

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        if not self._window.take(size):
            raise ConnectionBrokenError(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window holds")
        end = bool(flags & frames.END_STREAM)
        if size or end:
            self._patience.messages += 1
        else:
            self._patience.noise()
        data = frames.without_padding(flags, payload)
        stream = self._open.get(stream_id)
        if stream is None:
            self._streams.check_late(frames.DATA, stream_id)
            self._credit(size)
            return
        try:
            if not stream.window.take(size):
                raise StreamBrokenError(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window holds")
            stream.take_data(data, end=end)
        except StreamBrokenError:
            self._credit(size)
            raise
        self._events.append(DataReceived(stream_id, data, end, size - len(data)))
        if end:
            self._settle(stream)

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        stream = self._open.get(stream_id)
        if stream is None:
            self._streams.check_late(frames.RST_STREAM, stream_id)
            self._patience.noise()
            return
        if not self._client:
            self._patience.reset()
        self._drop(stream)
        self._events.append(StreamReset(stream_id, frames.code_of(payload)))

    def _on_settings(self, flags: int, _stream_id: int, payload: bytes) -> None:
        if flags & frames.ACK:
            self._on_agreement(payload)
            return
        self._patience.noise()
        found = http2_settings.read(payload)
        if self._client and found.get(http2_settings.ENABLE_PUSH):
            raise _protocol_error("a server that would have us push")
        change = self._peer.change(found)
        self._sender.max_bytes = self._peer.frame_bytes
        if http2_settings.HEADER_TABLE_SIZE in found:
            self._sender.settings_changed()
        self._sender.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if change:
            self._widen_all(change)

    def _widen_all(self, change: int) -> None:
        try:
            for stream in self._open.values():
                widen(stream, change)
        except StreamBrokenError as error:  # which is one of the connection here, section 6.9.2
            raise ConnectionBrokenError(error.code, str(error)) from error
        self._settle_all()

    def _on_agreement(self, payload: bytes) -> None:
        """The peer has taken our settings over: from here on it keeps to them."""
        if payload:
            raise ConnectionBrokenError(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with settings")
        if self._agreed:
            raise _protocol_error("SETTINGS are acknowledged that were not sent")
        self._agreed = True
        self._blocks.forbid_table()
        for stream_id, credit in self._streams.agree():
            self._sender.write(frames.window_update(stream_id, credit))

    def _on_ping(self, flags: int, _stream_id: int, payload: bytes) -> None:
        if flags & frames.ACK and self._pings:
            self._pings -= 1
            self._events.append(PingAcknowledged(payload))
            return
        self._patience.noise()
        if not flags & frames.ACK:
            self._sender.write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, _flags: int, _stream_id: int, payload: bytes) -> None:
        self._patience.noise()
        self._events.append(GoAway(*frames.farewell_of(payload)))

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._patience.noise()
        increment = frames.increment_of(payload)
        if not stream_id:
            self._sender.widen(increment)
            self._settle_all()
            return
        stream = self._open.get(stream_id)
        if stream is None:
            self._streams.check_late(frames.WINDOW_UPDATE, stream_id)
            return
        if not increment:
            raise StreamBrokenError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        widen(stream, increment)
        self._sender.flush(stream)
        self._settle(stream)

    def _on_other(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        """PRIORITY, which is deprecated, and kinds that nobody knows (section 5.5)."""
        self._patience.noise()

    # --- Streams ----------------------------------------------------------------------------------------------------

    def _settle(self, stream: Stream) -> None:
        """Something was sent, or has come: maybe that was the end."""
        if stream.sends:
            return
        if not stream.receives:
            self._patience.ended += 1
            self._drop(stream)
        elif stream.resets:
            self.reset(stream.id, ErrorCode.NO_ERROR)

    def _settle_all(self) -> None:
        for stream in self._sender.flush_all():
            self._settle(stream)

    def _break_stream(self, stream_id: int, error: StreamBrokenError) -> None:
        """The peer has broken a rule on a stream that is open."""
        self._patience.reset()
        stream = self._open[stream_id]
        self.reset(stream_id, error.code)
        if stream.known:
            self._events.append(StreamReset(stream_id, error.code, str(error)))

    def _drop(self, stream: Stream) -> None:
        """Both sides have ended it, or the peer has reset it."""
        del self._open[stream.id]
        self._sender.forget(stream)

    def _credit(self, size: int) -> None:
        """Of the connection."""
        if credit := self._window.give(size):
            self._sender.write(frames.window_update(0, credit))


def _protocol_error(reason: str) -> ConnectionBrokenError:
    return ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, reason)


_HANDLERS: Final[Mapping[int, Callable[[Connection, int, int, bytes], None]]] = {
    frames.DATA: Connection._on_data,
    frames.HEADERS: Connection._on_headers,
    frames.RST_STREAM: Connection._on_rst_stream,
    frames.SETTINGS: Connection._on_settings,
    frames.PING: Connection._on_ping,
    frames.GOAWAY: Connection._on_goaway,
    frames.WINDOW_UPDATE: Connection._on_window_update,
    frames.CONTINUATION: Connection._on_continuation,
}
