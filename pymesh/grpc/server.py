"""The server's end of a gRPC connection, sans-IO: see `connection` for how to drive it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pymesh.grpc.connection import CONTENT_TYPE, Calls, window_for
from pymesh.grpc.events import Closing, Ended, HalfClosed, Message, Ponged, Request, ServerEvent
from pymesh.grpc.framing import MAX_MESSAGE_BYTES, FramingError, MessageTooLargeError, encode_frame
from pymesh.grpc.metadata import MetadataError, decode_metadata, decode_timeout, encode_metadata
from pymesh.grpc.status import Code, Metadata, Status, encode_message, status_of_reset
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
from pymesh.remembered import remember

_RESPONSE_HEAD: Fields = (
    (b":status", b"200"),
    (b"content-type", CONTENT_TYPE),
    (b"grpc-accept-encoding", b"identity"),
)


# Heads that are remembered on a connection, and the bytes of the longest: a client has a handful of methods, and what
# it says with them is the same each time, or else each time something of its own, and long.
MAX_HEADS: Final = 64
LONGEST_HEAD: Final = 1024


@dataclass(frozen=True, slots=True)
class _Head:
    """What the head of a request says. `refusal`: why there is no call; not `grpc`: it was not even meant to be one."""

    method: str
    authority: str = ""
    metadata: tuple[tuple[str, str | bytes], ...] = ()  # which all calls with this head have in common
    timeout: float | None = None
    grpc: bool = True
    refusal: Status | None = None


def _read_head(fields: Fields) -> _Head:
    headers = dict(fields)
    method = headers.get(b":path", b"").decode("latin-1")
    if headers.get(b":method") != b"POST" or not headers.get(b"content-type", b"").startswith(CONTENT_TYPE):
        return _Head(method, grpc=False)
    encoding = headers.get(b"grpc-encoding", b"identity")
    if encoding != b"identity":
        text = f"grpc-encoding {encoding.decode('latin-1')} is not supported, only identity"
        return _Head(method, refusal=Status(Code.UNIMPLEMENTED, text))
    try:
        metadata = tuple(decode_metadata(fields))
        timeout = decode_timeout(headers[b"grpc-timeout"]) if b"grpc-timeout" in headers else None
    except MetadataError as error:
        return _Head(method, refusal=Status(Code.INTERNAL, str(error)))
    return _Head(method, headers.get(b":authority", b"").decode("latin-1"), metadata, timeout)


class ServerConnection:
    """The server's end. `limit_of`: bytes of the largest message that a method takes, where these are not `limit`."""

    def __init__(
        self,
        *,
        limit: int = MAX_MESSAGE_BYTES,
        engine: Connection | None = None,
        limit_of: Callable[[str], int] | None = None,
    ) -> None:
        self._limit_of = limit_of
        self._engine = engine or Connection(client=False, window=window_for(limit))
        self._calls = Calls(self._engine, limit)
        self._newest = 0
        self._heads: dict[Fields, _Head] = {}

    @property
    def open_calls(self) -> int:
        """Calls that have not ended."""
        return len(self._calls.open)

    @property
    def held(self) -> int:
        """Bytes of all calls that were received and not consumed."""
        return self._calls.held

    def held_by(self, stream_id: int) -> int:
        """Of them, those of one call."""
        call = self._calls.open.get(stream_id)
        return call.held if call is not None else 0

    def unfinished(self, stream_id: int) -> bool:
        """Whether a message is there in part."""
        call = self._calls.open.get(stream_id)
        return call is not None and call.reader.buffered > 0

    def bytes_to_send(self) -> bytes:
        """What has to be written now; empty if nothing."""
        return self._engine.bytes_to_send()

    def respond(self, stream_id: int, metadata: Metadata = ()) -> None:
        """Send the head of the response now; `send` does it by itself otherwise. Raises MetadataError."""
        call = self._calls.open.get(stream_id)
        if call is not None and not call.started:
            self._engine.send_headers(stream_id, _RESPONSE_HEAD + tuple(encode_metadata(metadata)), end=False)
            call.started = True

    def send(self, stream_id: int, message: bytes) -> None:
        """Send a message; without effect on a call that has ended."""
        if stream_id in self._calls.open:
            self.respond(stream_id)
            self._engine.send_data(stream_id, encode_frame(message))

    def end(self, stream_id: int, status: Status) -> None:
        """End the call; without effect if it has ended. Raises MetadataError, and then has not ended it."""
        call = self._calls.open.get(stream_id)
        if call is None:
            return
        trailers: Fields = ((b"grpc-status", b"%d" % status.code),)
        if status.message:
            trailers += ((b"grpc-message", encode_message(status.message)),)
        if status.metadata:
            trailers += tuple(encode_metadata(status.metadata))
        self._calls.drop(stream_id)
        if call.started:
            self._engine.send_end(stream_id, trailers, reset=True)
        else:
            self._engine.send_headers(stream_id, _RESPONSE_HEAD + trailers, end=True)
            self._engine.reset(stream_id, ErrorCode.NO_ERROR)

    def consumed(self, stream_id: int, size: int) -> None:
        """A message of `size` bytes has been dealt with: give credit for it."""
        self._calls.consumed(stream_id, size)

    def unsent(self, stream_id: int) -> int:
        """Bytes of messages that wait for the client's window to open."""
        return self._engine.unsent(stream_id)

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life (a Ponged event); `payload` is eight bytes."""
        self._engine.ping(payload)

    def give_up(self, stream_id: int) -> None:
        """Drop what a call that was ended still has to send."""
        self._engine.reset(stream_id, ErrorCode.CANCEL)

    def retire(self) -> None:
        """Ask the client to take its calls elsewhere; those that come all the same are served."""
        self._engine.retire()

    def close(self) -> None:
        """Say goodbye."""
        self._engine.go_away()

    def abort(self, reason: str) -> list[ServerEvent]:
        """The connection is lost: the end of every call that was open."""
        status = Status(Code.CANCELLED, reason)
        ended: list[ServerEvent] = [Ended(stream_id, status) for stream_id in self._calls.open]
        self._calls.clear()
        return ended

    def receive(self, data: bytes) -> list[ServerEvent]:
        """Events behind bytes of the client; raises ConnectionBrokenError."""
        events: list[ServerEvent] = []
        for event in self._engine.receive(data):
            events += self._translate(event)
        return events

    def _translate(self, event: Event) -> Iterable[ServerEvent]:
        match event:
            case HeadersReceived(stream_id, _, end) if stream_id <= self._newest:
                return self._half_closed(stream_id) if end else []  # trailers of a request: gRPC defines none
            case HeadersReceived():
                return self._on_request(event)
            case DataReceived():
                return self._on_data(event)
            case StreamReset(stream_id, error_code, reason):
                status = Status(Code.INTERNAL, reason) if reason else status_of_reset(error_code)
                return [Ended(stream_id, status)] if self._calls.drop(stream_id) else []
            case GoAway(_, error_code, reason):
                return [Closing(error_code, reason.decode("utf-8", "replace"))]
            case PingAcknowledged(payload):
                return [Ponged(payload)]
            case InformationalReceived():
                return []  # a client has none to send

    def _on_request(self, event: HeadersReceived) -> list[ServerEvent]:
        self._newest = event.stream_id
        head = self._heads.get(event.headers)
        if head is None:
            head = _read_head(event.headers)
            if sum(map(len, map(b"".join, event.headers))) <= LONGEST_HEAD:
                remember(self._heads, event.headers, head, MAX_HEADS)
        self._calls.begin(event.stream_id, None if self._limit_of is None else self._limit_of(head.method))
        if not head.grpc:
            self._calls.drop(event.stream_id)
            self._engine.send_headers(event.stream_id, ((b":status", b"415"),), end=True)
            self._engine.reset(event.stream_id, ErrorCode.NO_ERROR)
            return []
        if head.refusal is not None:
            self.end(event.stream_id, head.refusal)
            return []
        request = Request(event.stream_id, head.method, head.authority, head.metadata, head.timeout)
        return [request, *self._half_closed(event.stream_id)] if event.end else [request]

    def _on_data(self, event: DataReceived) -> list[ServerEvent]:
        try:
            messages = self._calls.receive(event)
        except FramingError as error:
            code = Code.RESOURCE_EXHAUSTED if isinstance(error, MessageTooLargeError) else Code.INTERNAL
            return self._refuse(event.stream_id, Status(code, str(error)))
        events: list[ServerEvent] = [Message(event.stream_id, message) for message in messages]
        return events + self._half_closed(event.stream_id) if event.end else events

    def _refuse(self, stream_id: int, status: Status) -> list[ServerEvent]:
        """End a call whose client breaks the rules, and tell the handler."""
        self.end(stream_id, status)
        return [Ended(stream_id, status)]

    def _half_closed(self, stream_id: int) -> list[ServerEvent]:
        call = self._calls.open.get(stream_id)
        if call is None:
            return []
        if call.reader.buffered:
            return self._refuse(stream_id, Status(Code.INTERNAL, "the request ends in the middle of a message"))
        return [HalfClosed(stream_id)]
