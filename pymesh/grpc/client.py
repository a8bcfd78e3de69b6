"""The client's end of a gRPC connection, sans-IO: see `connection` for how to drive it."""

from collections.abc import Iterable
from typing import Final

from pymesh.grpc.connection import CONTENT_TYPE, Call, Calls, window_for
from pymesh.grpc.events import ClientEvent, Closing, Ended, Message, Ponged, Response
from pymesh.grpc.framing import MAX_MESSAGE_BYTES, FramingError, MessageTooLargeError, encode_frame
from pymesh.grpc.metadata import MetadataError, decode_metadata, encode_metadata, encode_timeout
from pymesh.grpc.status import (
    Code,
    Metadata,
    RpcError,
    Status,
    TooManyCallsError,
    decode_message,
    status_of_http,
    status_of_reset,
)
from pymesh.http2.connection import Connection
from pymesh.http2.errors import ErrorCode
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
from pymesh.http2.stream_table import HIGHEST_STREAM
from pymesh.remembered import remember

_USER_AGENT = (b"user-agent", b"grpc-python-pymesh/1")
# Methods with their deadlines whose heads are kept, of which a client has a handful.
MAX_HEADS: Final = 64
_NO_STATUS = Status(Code.UNKNOWN, "the server ended the call without a grpc-status")


class ClientConnection:
    """The client's end. `authority` is the server's name, `scheme` "http" or "https"."""

    def __init__(
        self, authority: str, *, scheme: str = "http", limit: int = MAX_MESSAGE_BYTES, engine: Connection | None = None
    ) -> None:
        self._engine = engine or Connection(client=True, window=window_for(limit))
        self._calls = Calls(self._engine, limit)
        self._common: Fields = (
            (b":method", b"POST"),
            (b":scheme", scheme.encode()),
            (b":authority", authority.encode()),
        )
        self._heads: dict[tuple[str, bytes | None], Fields] = {}
        self._closing = ""

    @property
    def accepts_calls(self) -> bool:
        """False once the server has said that it goes away, or there is no number left for another stream."""
        return not self._closing

    @property
    def open_calls(self) -> int:
        """Calls that have not ended."""
        return len(self._calls.open)

    def bytes_to_send(self) -> bytes:
        """What has to be written now; empty if nothing."""
        return self._engine.bytes_to_send()

    def open(self, method: str, metadata: Metadata = (), timeout: float | None = None) -> int:
        """Begin a call of "/package.Service/Method" with a deadline in `timeout` seconds; the id of its stream.

        Raises:
            RpcError: UNAVAILABLE, the connection takes no more calls.
            TooManyCallsError: none at the moment: as many are open as the server allows, or, before it has said how
                many these are, as every server should (http2.settings).
            MetadataError: metadata that may not be sent.
        """
        head = self._head(method, timeout)
        if metadata:
            head += tuple(encode_metadata(metadata))
        if self._closing:
            raise RpcError(Status(Code.UNAVAILABLE, f"the connection takes no more calls: {self._closing}"))
        stream_id = self._engine.next_stream_id()
        if stream_id is None:
            raise TooManyCallsError(Status(Code.UNAVAILABLE, "the server allows no more calls on this connection"))
        if stream_id == HIGHEST_STREAM:
            self._closing = "the numbers of its streams are used up"
        self._engine.send_headers(stream_id, head, end=False)
        self._calls.begin(stream_id)
        return stream_id

    def _head(self, method: str, timeout: float | None) -> Fields:
        """The head of such a call, without metadata: most are like one before."""
        within = None if timeout is None else encode_timeout(timeout)
        head = self._heads.get((method, within))
        if head is None:
            head = (*self._common, (b":path", method.encode()), (b"te", b"trailers"), (b"content-type", CONTENT_TYPE))
            if within is not None:
                head += ((b"grpc-timeout", within),)
            head += ((b"grpc-accept-encoding", b"identity"), _USER_AGENT)
            remember(self._heads, (method, within), head, MAX_HEADS)
        return head

    def send(self, stream_id: int, message: bytes, *, last: bool = False) -> None:
        """Send a message, with `last` the only one that is still to come; without effect on a call that has ended."""
        self._engine.send_data(stream_id, encode_frame(message), end=last)

    def finish(self, stream_id: int) -> None:
        """Say that there are no more messages."""
        self._engine.send_end(stream_id)

    def cancel(self, stream_id: int) -> None:
        """Give the call up; there will be no event for it any more."""
        if self._calls.drop(stream_id):
            self._engine.reset(stream_id, ErrorCode.CANCEL)

    def consumed(self, stream_id: int, size: int) -> None:
        """A message of `size` bytes has been dealt with: give credit for it."""
        self._calls.consumed(stream_id, size)

    def unsent(self, stream_id: int) -> int:
        """Bytes of messages that wait for the server's window to open."""
        return self._engine.unsent(stream_id)

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life (a Ponged event); `payload` is eight bytes."""
        self._engine.ping(payload)

    def close(self) -> None:
        """Say goodbye."""
        self._engine.go_away()

    def abort(self, reason: str) -> list[ClientEvent]:
        """The connection is lost: the end of every call that was open."""
        status = Status(Code.UNAVAILABLE, reason)
        ended: list[ClientEvent] = [Ended(stream_id, status) for stream_id in self._calls.open]
        self._calls.clear()
        self._closing = self._closing or reason
        return ended

    def receive(self, data: bytes) -> list[ClientEvent]:
        """Events behind bytes of the server; raises ConnectionBrokenError."""
        events: list[ClientEvent] = []
        for event in self._engine.receive(data):
            events += self._translate(event)
        return events

    def _translate(self, event: Event) -> Iterable[ClientEvent]:
        match event:
            case HeadersReceived():
                return self._on_headers(event)
            case DataReceived():
                return self._on_data(event)
            case StreamReset(stream_id, error_code, reason):
                status = Status(Code.INTERNAL, reason) if reason else status_of_reset(error_code)
                return self._end(stream_id, status, unprocessed=error_code == ErrorCode.REFUSED_STREAM)
            case GoAway():
                return self._on_goaway(event)
            case PingAcknowledged(payload):
                return [Ponged(payload)]
            case InformationalReceived():
                return []

    def _end(
        self, stream_id: int, status: Status, *, reset: ErrorCode = ErrorCode.NO_ERROR, unprocessed: bool = False
    ) -> list[ClientEvent]:
        """The call is over, whichever side still had something to say."""
        if not self._calls.drop(stream_id):
            return []
        self._engine.reset(stream_id, reset)
        return [Ended(stream_id, status, unprocessed)]

    def _fail(self, stream_id: int, status: Status) -> list[ClientEvent]:
        """End a call that the server answers in a way that cannot be accepted."""
        return self._end(stream_id, status, reset=ErrorCode.CANCEL)

    def _on_headers(self, event: HeadersReceived) -> list[ClientEvent]:
        call = self._calls.open.get(event.stream_id)
        if call is None:
            return []
        headers = dict(event.headers)
        try:
            metadata = decode_metadata(event.headers)
        except MetadataError as error:
            return self._fail(event.stream_id, Status(Code.INTERNAL, str(error)))
        if not call.started:
            http_status = headers.get(b":status", b"")
            if http_status != b"200":
                number = int(http_status) if http_status.isdigit() and len(http_status) == 3 else 0
                return self._fail(event.stream_id, status_of_http(number))
            content_type = headers.get(b"content-type", b"")
            if not content_type.startswith(CONTENT_TYPE):
                text = f"the answer is {content_type.decode('latin-1') or 'of no type'}, not application/grpc"
                return self._fail(event.stream_id, Status(Code.UNKNOWN, text))
        if event.end:
            return self._on_trailers(event.stream_id, headers, metadata, call)
        call.started = True
        encoding = headers.get(b"grpc-encoding", b"identity")
        if encoding != b"identity":
            text = f"the answer is compressed ({encoding.decode('latin-1')}); only identity was offered"
            return self._fail(event.stream_id, Status(Code.INTERNAL, text))
        return [Response(event.stream_id, metadata)]

    def _on_trailers(
        self, stream_id: int, headers: dict[bytes, bytes], metadata: Metadata, call: Call
    ) -> list[ClientEvent]:
        number = headers.get(b"grpc-status")
        if number is None:
            return self._fail(stream_id, _NO_STATUS)
        if call.reader.buffered:
            return self._fail(stream_id, Status(Code.INTERNAL, "the server ended the call in the middle of a message"))
        known = number.isdigit() and len(number) <= 2 and int(number) in Code.__members__.values()
        code = Code(int(number)) if known else Code.UNKNOWN
        return self._end(stream_id, Status(code, decode_message(headers.get(b"grpc-message", b"")), metadata))

    def _on_data(self, event: DataReceived) -> list[ClientEvent]:
        call = self._calls.open.get(event.stream_id)
        try:
            messages = self._calls.receive(event)
        except FramingError as error:
            code = Code.RESOURCE_EXHAUSTED if isinstance(error, MessageTooLargeError) else Code.INTERNAL
            return self._fail(event.stream_id, Status(code, str(error)))
        events: list[ClientEvent] = [Message(event.stream_id, message) for message in messages]
        if event.end and call is not None:
            events += self._fail(event.stream_id, _NO_STATUS)
        return events

    def _on_goaway(self, event: GoAway) -> list[ClientEvent]:
        reason = event.reason.decode("utf-8", "replace") or f"HTTP/2 error {event.error_code}"
        self._closing = self._closing or reason
        events: list[ClientEvent] = [Closing(event.error_code, reason)]
        status = Status(Code.UNAVAILABLE, f"the server goes away: {reason}")
        for stream_id in [stream_id for stream_id in self._calls.open if stream_id > event.last_stream_id]:
            events += self._end(stream_id, status, unprocessed=True)
        return events
