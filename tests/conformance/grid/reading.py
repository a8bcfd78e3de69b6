"""What a careful reader sees in bytes: h11, which has nothing in common with the four parsers."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import h11

# A request line and head longer than any row's.
MAX_HEAD: Final = 200_000
# What has come so far is looked at again and again: the last few readings are kept.
KEPT: Final = 256


@dataclass(frozen=True, slots=True)
class Message:
    """A request (`start` is method and target) or a response (`start` is the status), as far as it is there."""

    start: str
    body: bytes
    complete: bool

    def __str__(self) -> str:
        body = self.body if len(self.body) <= 40 else self.body[:16] + b"... %d bytes" % len(self.body)
        told = f" {repr(body)[1:]}" if body else ""
        return f"{self.start}{told}" + ("" if self.complete else " (incomplete)")


@lru_cache(maxsize=KEPT)
def requests(data: bytes) -> tuple[Message, ...]:
    """The requests in what a server got over one connection. Bytes that are none are one message that says so."""
    found = []
    while data:
        peer = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        peer.receive_data(data)
        message = _next(peer)
        if message is None:
            return (*found, Message("unreadable", data, complete=False))
        found.append(message)
        # A connection that ends with this request, or one that switched protocols, may be read on nevertheless.
        rest = peer.trailing_data[0]
        data = rest if message.complete and len(rest) < len(data) else b""
    return tuple(found)


@lru_cache(maxsize=KEPT)
def responses(data: bytes, methods: tuple[bytes, ...], *, ended: bool) -> tuple[Message, ...]:
    """The responses in what a client got who asked with `methods`; more than was asked for are read as to GET."""
    found: list[Message] = []
    asked = iter(methods)
    while data:
        peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        method = next(asked, b"GET")
        peer.send(h11.Request(method=method, target="*" if method == b"OPTIONS" else "/", headers=[("host", "a")]))
        peer.send(h11.EndOfMessage())
        peer.receive_data(data)
        interim, message = _final(peer, ended=ended)
        found += interim
        if message is None:
            return (*found, Message("unreadable", data, complete=False))
        found.append(message)
        rest = peer.trailing_data[0]
        data = rest if message.complete and len(rest) < len(data) else b""
    return tuple(found)


def _final(peer: h11.Connection, *, ended: bool) -> tuple[list[Message], Message | None]:
    """The responses up to the final one, which is None if there is none that can be read."""
    interim: list[Message] = []
    while True:
        message = _next(peer, ended=ended)
        if message is None or not message.start.startswith("1"):
            return interim, message
        interim.append(message)
        if message.start == "101":
            return interim[:-1], message


def _next(peer: h11.Connection, *, ended: bool = False) -> Message | None:
    """The next message of a connection; None if what is there is none."""
    body = b""
    start = ""
    try:
        while True:
            event = peer.next_event()
            if isinstance(event, h11.Request):
                start = f"{event.method.decode()} {event.target.decode('latin-1')}"
            elif isinstance(event, h11.InformationalResponse):
                return Message(str(event.status_code), b"", complete=True)
            elif isinstance(event, h11.Response):
                start = str(event.status_code)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return Message(start, body, complete=True)
            elif event is h11.NEED_DATA and ended:
                ended = False
                peer.receive_data(b"")
            else:
                return Message(start, body, complete=False) if start else None
    except h11.RemoteProtocolError:
        return Message(start, body, complete=False) if start else None
