"""What happens on a gRPC connection, in the words of calls."""

from dataclasses import dataclass
from typing import TypeAlias

from pymesh.grpc.status import Metadata, Status


@dataclass(slots=True)
class Response:
    """Client: the server has begun to answer. Not sent for an answer that is nothing but a status."""

    stream_id: int
    metadata: Metadata


@dataclass(slots=True)
class Request:
    """Server: a call of `method` ("/package.Service/Method") has begun. `timeout` is seconds, None: no deadline."""

    stream_id: int
    method: str
    authority: str
    metadata: Metadata
    timeout: float | None


@dataclass(slots=True)
class Message:
    """A message. Tell `consumed(stream_id, len(data))` once it has been dealt with: that gives the peer credit."""

    stream_id: int
    data: bytes


@dataclass(slots=True)
class HalfClosed:
    """Server: the client has sent its last message."""

    stream_id: int


@dataclass(slots=True)
class Ended:
    """The call is over: with a status from the server, or (server) because the client gave it up. Always the last
    event of a stream, exactly once, and never for a call that was ended or cancelled from this side.

    `unprocessed` says that the server has certainly not acted on it, so that it may be sent again.
    """

    stream_id: int
    status: Status
    unprocessed: bool = False


@dataclass(slots=True)
class Closing:
    """The peer takes no new calls; those it has accepted may still end as usual."""

    error_code: int
    reason: str


@dataclass(slots=True)
class Ponged:
    """The answer to a ping."""

    payload: bytes


ClientEvent: TypeAlias = Response | Message | Ended | Closing | Ponged
ServerEvent: TypeAlias = Request | Message | HalfClosed | Ended | Closing | Ponged
