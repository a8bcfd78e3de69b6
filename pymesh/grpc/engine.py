"""What gRPC needs of an HTTP/2 implementation, and no more: the seam at which another engine can be put in."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pymesh.grpc.metadata import Headers


class ConnectionBrokenError(Exception):
    """The peer does not speak HTTP/2, or breaks its rules. Write what is left to send (a GOAWAY), then close.

    It is the only exception that bytes from a peer can cause.
    """


@dataclass(slots=True)
class HeadersReceived:
    """A header block: the head of a request or response, or its trailers."""

    stream_id: int
    headers: Headers
    end: bool


@dataclass(slots=True)
class DataReceived:
    """Bytes of a body. `padding` is flow-controlled too, but carries nothing."""

    stream_id: int
    data: bytes
    end: bool
    padding: int = 0


@dataclass(slots=True)
class StreamReset:
    """The peer gave the stream up."""

    stream_id: int
    error_code: int


@dataclass(slots=True)
class GoAway:
    """The peer takes no new streams, and will not answer those above `last_stream_id`."""

    last_stream_id: int
    error_code: int
    reason: bytes


@dataclass(slots=True)
class PingAcknowledged:
    """The answer to a ping of ours."""

    payload: bytes


EngineEvent: TypeAlias = HeadersReceived | DataReceived | StreamReset | GoAway | PingAcknowledged


class Engine(Protocol):
    """One HTTP/2 connection, sans-IO. Pings are answered and windows are watched inside."""

    def receive(self, data: bytes) -> list[EngineEvent]:
        """Events behind bytes of the peer; raises ConnectionBrokenError."""

    def bytes_to_send(self) -> bytes:
        """What has to be written now; empty if nothing."""

    def next_stream_id(self) -> int | None:
        """An id for a new stream of ours, or None when the peer allows no more at the moment or the ids are used up."""

    def send_headers(self, stream_id: int, headers: Headers, *, end: bool) -> None:
        """Send a head."""

    def send_data(self, stream_id: int, data: bytes) -> None:
        """Send or, where the peer's window is closed, queue bytes of a body."""

    def send_end(self, stream_id: int, trailers: Headers | None = None, *, reset: bool = False) -> None:
        """End our side after what is queued, with trailers if given; with `reset`, then drop the peer's side too."""

    def unsent(self, stream_id: int) -> int:
        """Bytes queued because the peer's window is closed."""

    def acknowledge(self, stream_id: int, size: int) -> None:
        """`size` flow-controlled bytes have been consumed: give the peer credit for as many. Any time, ended or not."""

    def reset(self, stream_id: int, error_code: int) -> None:
        """Give the stream up. Does nothing if it is closed already."""

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life; `payload` is eight bytes."""

    def retire(self) -> None:
        """Ask the peer to begin no more streams here; those that it does begin are served as before."""

    def go_away(self, error_code: int = 0, reason: bytes = b"") -> None:
        """Announce that the connection is about to be closed."""
