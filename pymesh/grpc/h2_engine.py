"""The engine on the h2 library."""

import contextlib
from collections.abc import Iterable

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from pymesh.grpc.engine import (
    ConnectionBrokenError,
    DataReceived,
    EngineEvent,
    GoAway,
    HeadersReceived,
    PingAcknowledged,
    StreamReset,
)
from pymesh.grpc.frames import FrameGuard
from pymesh.grpc.metadata import Headers

# Calls that a peer may have open at a time, where nothing else is said: an Envoy has one or two, and each may hold a
# window of bytes.
MAX_CONCURRENT_STREAMS = 100
# Names and values together, as h2 counts them; bearer tokens are the longest thing in them, 1 to 4 KiB.
MAX_HEADER_LIST_BYTES = 64 * 1024
_LARGEST_WINDOW = 2**31 - 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# A GOAWAY that ends nothing: every stream that may still begin is below its last stream id (RFC 9113 section 6.8).
_RETIREMENT = b"\0\0\x08\x07\0\0\0\0\0" + b"\x7f\xff\xff\xff" + b"\0\0\0\0"


class _Outgoing:
    """What a stream still has to send."""

    __slots__ = ("data", "ended", "reset", "trailers")

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.trailers: Headers | None = None
        self.reset = False


class H2Engine:
    """`engine.Engine` on h2.

    Args:
        window: bytes that a peer may send on one stream before any is consumed.
        connection_window: that it may send on all of them. One that not every stream can fill is for whoever ends calls
            whose messages do not become whole: two of them that are half there could block each other.
        streams: that a peer may have open at a time.
        header_bytes: of a header block, as h2 counts them.
    """

    def __init__(
        self,
        *,
        client: bool,
        window: int,
        connection_window: int = _LARGEST_WINDOW,
        streams: int = MAX_CONCURRENT_STREAMS,
        header_bytes: int = MAX_HEADER_LIST_BYTES,
    ) -> None:
        # What we send needs no second look: names are our own, and metadata.py has judged values.
        self._connection = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=client,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._guard = FrameGuard(preface=0 if client else len(_PREFACE))
        self._outgoing: dict[int, _Outgoing] = {}
        self._closed = False
        self._retirement = b""
        # Settings given before initiate_connection would not be announced: the peer would stop at 65,535 bytes.
        self._connection.initiate_connection()
        codes = h2.settings.SettingCodes
        settings: dict[h2.settings.SettingCodes | int, int] = {
            codes.INITIAL_WINDOW_SIZE: min(window, _LARGEST_WINDOW),
            codes.MAX_CONCURRENT_STREAMS: streams,
            codes.MAX_HEADER_LIST_SIZE: header_bytes,
        }
        self._connection.decoder.max_header_list_size = header_bytes  # h2 heeds the setting when the peer has agreed
        self._connection.update_settings(settings | {codes.ENABLE_PUSH: 0} if client else settings)
        connection_window = min(window * MAX_CONCURRENT_STREAMS, connection_window)
        if connection_window > self._connection.inbound_flow_control_window:
            self._connection.increment_flow_control_window(
                connection_window - self._connection.inbound_flow_control_window
            )

    def receive(self, data: bytes) -> list[EngineEvent]:
        """See Engine."""
        events: list[EngineEvent] = []
        if self._closed:
            return events
        try:
            for piece in self._guard.pass_through(data):
                if isinstance(piece, GoAway):
                    events.append(piece)
                else:
                    events.extend(self._translate(self._connection.receive_data(piece)))
        except ConnectionBrokenError:
            self._close()
            raise
        except h2.exceptions.ProtocolError as error:
            self._close()
            raise ConnectionBrokenError(str(error) or type(error).__name__) from error
        return events

    def _translate(self, events: Iterable[h2.events.Event]) -> Iterable[EngineEvent]:
        for event in events:
            match event:
                case h2.events.DataReceived():
                    padding = event.flow_controlled_length - len(event.data)
                    yield DataReceived(event.stream_id, event.data, event.stream_ended is not None, padding)
                case h2.events.RequestReceived() | h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    # With header_encoding None h2 hands out bytes; its types allow both.
                    headers = [(_bytes(name), _bytes(value)) for name, value in event.headers]
                    yield HeadersReceived(event.stream_id, headers, event.stream_ended is not None)
                case h2.events.StreamReset():
                    self._outgoing.pop(event.stream_id, None)
                    yield StreamReset(event.stream_id, int(event.error_code))
                case h2.events.PingAckReceived():
                    yield PingAcknowledged(event.ping_data)
                case h2.events.WindowUpdated(stream_id=stream_id) if stream_id:
                    self._flush(stream_id)
                case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                    for stream_id in tuple(self._outgoing):
                        self._flush(stream_id)

    def bytes_to_send(self) -> bytes:
        """See Engine."""
        data = self._connection.data_to_send()
        if self._retirement:
            data, self._retirement = data + self._retirement, b""
        return data

    def next_stream_id(self) -> int | None:
        """See Engine."""
        if self._closed:
            return None
        allowed = self._connection.remote_settings.max_concurrent_streams
        if self._connection.open_outbound_streams >= allowed:
            return None
        try:
            return self._connection.get_next_available_stream_id()
        except h2.exceptions.NoAvailableStreamIDError:
            return None

    def send_headers(self, stream_id: int, headers: Headers, *, end: bool) -> None:
        """See Engine."""
        if self._is_over(stream_id):
            return
        with contextlib.suppress(h2.exceptions.StreamClosedError):  # over, and h2 has forgotten it already
            self._connection.send_headers(stream_id, headers, end_stream=end)
            if not end:
                self._outgoing[stream_id] = _Outgoing()

    def _is_over(self, stream_id: int) -> bool:
        """Whether a stream was closed meanwhile: h2 takes in a batch of frames before we see the first of them."""
        stream = self._connection.streams.get(stream_id)
        return self._closed or (stream is not None and stream.closed)

    def send_data(self, stream_id: int, data: bytes) -> None:
        """See Engine."""
        outgoing = self._outgoing.get(stream_id)
        if outgoing is not None and not outgoing.ended:
            outgoing.data += data
            self._flush(stream_id)

    def send_end(self, stream_id: int, trailers: Headers | None = None, *, reset: bool = False) -> None:
        """See Engine."""
        outgoing = self._outgoing.get(stream_id)
        if outgoing is not None and not outgoing.ended:
            outgoing.ended, outgoing.trailers, outgoing.reset = True, trailers, reset
            self._flush(stream_id)

    def _flush(self, stream_id: int) -> None:
        """Send as much of a stream's queue as the peer's windows allow."""
        outgoing = self._outgoing.get(stream_id)
        if outgoing is None:
            return
        if stream_id not in self._connection.streams or self._is_over(stream_id):  # h2 forgets those that are over
            del self._outgoing[stream_id]
            return
        connection = self._connection
        sent = 0
        while sent < len(outgoing.data):
            room = min(connection.local_flow_control_window(stream_id), connection.max_outbound_frame_size)
            if room <= 0:
                break
            piece = bytes(memoryview(outgoing.data)[sent : sent + room])
            connection.send_data(stream_id, piece)
            sent += len(piece)
        del outgoing.data[:sent]
        if outgoing.data or not outgoing.ended:
            return
        del self._outgoing[stream_id]
        if outgoing.trailers is None:
            connection.end_stream(stream_id)
        else:
            connection.send_headers(stream_id, outgoing.trailers, end_stream=True)
        if outgoing.reset:
            self.reset(stream_id, 0)

    def unsent(self, stream_id: int) -> int:
        """See Engine."""
        outgoing = self._outgoing.get(stream_id)
        return len(outgoing.data) if outgoing is not None else 0

    def acknowledge(self, stream_id: int, size: int) -> None:
        """See Engine."""
        if size > 0 and not self._closed:
            self._connection.acknowledge_received_data(size, stream_id)

    def reset(self, stream_id: int, error_code: int) -> None:
        """See Engine."""
        self._outgoing.pop(stream_id, None)
        if stream_id in self._connection.streams and not self._is_over(stream_id):
            self._connection.reset_stream(stream_id, error_code)

    def ping(self, payload: bytes) -> None:
        """See Engine."""
        if not self._closed:
            self._connection.ping(payload)

    def retire(self) -> None:
        """See Engine."""
        if not self._closed:
            self._retirement = _RETIREMENT

    def go_away(self, error_code: int = 0, reason: bytes = b"") -> None:
        """See Engine."""
        self._close()
        self._connection.close_connection(error_code, reason or None)

    def _close(self) -> None:
        """From here on h2 refuses whatever it is asked for, so nothing is."""
        self._closed = True
        self._outgoing.clear()


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
