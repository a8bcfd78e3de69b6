"""What both ends of a gRPC connection have in common: open calls, and the flow control of what they receive.

`client.ClientConnection` and `server.ServerConnection` are sans-IO: `receive` takes bytes and returns events, calls
leave bytes in `bytes_to_send`, which is to be written after each use of any method. `receive` raises
http2.errors.ConnectionBrokenError and nothing else, whatever the peer sends: write what is left to send, close, and
report the calls that `abort` names.

Flow control: a stream's window holds two of the largest messages. Credit is given back for messages that were consumed,
so at most a window of bytes is held for a consumer that does not come. Two, because credit is announced once half of a
window has been consumed: what is left then always has room for one whole message, and none can get stuck halfway.
"""

from typing import Final

from pymesh.grpc.framing import HEADER_BYTES, MessageReader
from pymesh.http2.connection import Connection
from pymesh.http2.events import DataReceived

CONTENT_TYPE: Final = b"application/grpc"


def window_for(limit: int) -> int:
    """The stream window under which messages of up to `limit` bytes never get stuck."""
    return 2 * (limit + HEADER_BYTES)


class Call:
    """What one stream has received."""

    __slots__ = ("held", "reader", "started")

    def __init__(self, limit: int) -> None:
        self.reader = MessageReader(limit)
        self.held = 0  # flow-controlled bytes that no one has consumed yet
        self.started = False  # the response's head has arrived (client), or been sent (server)


class Calls:
    """The open calls of one connection, by stream id."""

    __slots__ = ("engine", "held", "limit", "open")

    def __init__(self, engine: Connection, limit: int) -> None:
        self.engine = engine
        self.limit = limit
        self.held = 0  # by all of them
        self.open: dict[int, Call] = {}

    def begin(self, stream_id: int, limit: int | None = None) -> None:
        """A call has begun, of messages of at most `limit` bytes."""
        self.open[stream_id] = Call(self.limit if limit is None else limit)

    def receive(self, event: DataReceived) -> list[bytes]:
        """Messages completed by `event`; raises FramingError."""
        call = self.open.get(event.stream_id)
        if call is None:  # given up a moment ago: the bytes only count for the connection
            self.engine.acknowledge(event.stream_id, len(event.data) + event.padding)
            return []
        self.engine.acknowledge(event.stream_id, event.padding)
        call.held += len(event.data)
        self.held += len(event.data)
        return call.reader.feed(event.data)

    def consumed(self, stream_id: int, size: int) -> None:
        """Give credit for a message of `size` bytes."""
        call = self.open.get(stream_id)
        if call is not None:
            call.held -= HEADER_BYTES + size
            self.held -= HEADER_BYTES + size
            self.engine.acknowledge(stream_id, HEADER_BYTES + size)

    def drop(self, stream_id: int) -> bool:
        """Forget a stream and give its credit back to the connection; False if there was none."""
        call = self.open.pop(stream_id, None)
        if call is not None:
            self.held -= call.held
            self.engine.acknowledge(stream_id, call.held)
        return call is not None

    def clear(self) -> None:
        """Forget all: the connection is lost."""
        self.open.clear()
        self.held = 0
