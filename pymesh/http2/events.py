"""What a peer has said, once frames, header blocks and windows are dealt with."""

from dataclasses import dataclass
from typing import TypeAlias

# A name in lower case, and its value. Lists that came from a peer are shared, hence tuples.
Field: TypeAlias = tuple[bytes, bytes]
Fields: TypeAlias = tuple[Field, ...]


@dataclass(slots=True)
class HeadersReceived:
    """A well-formed header block: the head of a request or of a final response, or trailers."""

    stream_id: int
    headers: Fields
    end: bool


@dataclass(slots=True)
class InformationalReceived:
    """The head of an interim response (1xx): the final one is still to come."""

    stream_id: int
    headers: Fields


@dataclass(slots=True)
class DataReceived:
    """Bytes of a body. `padding` is flow-controlled too, but carries nothing."""

    stream_id: int
    data: bytes
    end: bool
    padding: int = 0


@dataclass(slots=True)
class StreamReset:
    """The stream is over: the peer gave it up. Or it broke a rule on it: then `reason` says which, and it was told."""

    stream_id: int
    error_code: int
    reason: str = ""


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


Event: TypeAlias = HeadersReceived | InformationalReceived | DataReceived | StreamReset | GoAway | PingAcknowledged
