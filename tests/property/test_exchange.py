"""Whatever a client pipelines, whatever the bodies, however the bytes are cut and whoever is stalled meanwhile: the
upstream gets the same bytes in the same order, the client gets every answer, and nothing stays in flight.
"""

import asyncio
from dataclasses import dataclass
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh_proxy.codec.body import BodyReader, reader_for
from pymesh_proxy.codec.http1 import (
    bad_request,
    bad_response,
    parse_request,
    parse_response,
    request_has_body,
    response_framing,
)
from tests.support.memory import MemoryProxy, MemoryTransport, turn


@dataclass(frozen=True)
class Message:
    """A body of so many bytes, and its framing; None is no body at all."""

    size: int | None
    chunks: tuple[int, ...]  # sizes; empty for Content-Length

    def framing(self) -> bytes:
        """The framing header."""
        if self.size is None:
            return b""
        return b"transfer-encoding: chunked\r\n" if self.chunks else b"content-length: %d\r\n" % self.size

    def encoded(self) -> bytes:
        """The body as it travels: bytes that are told apart wherever they are cut."""
        body = b"".join(b"%05d." % number for number in range((self.size or 0) // 6 + 1))[: self.size or 0]
        if not self.chunks:
            return body
        out, position = b"", 0
        for size in (*self.chunks, len(body)):
            piece = body[position : position + size]
            position += size
            if piece:
                out += b"%x\r\n%b\r\n" % (len(piece), piece)
        return out + b"0\r\n\r\n"


def messages(*, empty: bool) -> st.SearchStrategy[Message]:
    """Messages; without a body too, if `empty`."""
    chunks = st.lists(st.integers(1, 5000), max_size=4).map(tuple)
    made = st.builds(Message, st.integers(0, 300) | st.integers(60_000, 90_000), chunks)
    return made | st.just(Message(None, ())) if empty else made


EXCHANGES = st.lists(st.tuples(messages(empty=True), messages(empty=False)), min_size=1, max_size=5)


def request_of(number: int, message: Message) -> bytes:
    """The request number `number`."""
    method = b"GET" if message.size is None else b"POST"
    return b"%b /%d HTTP/1.1\r\nhost: a\r\n%b\r\n%b" % (method, number, message.framing(), message.encoded())


class Upstream:
    """The far end of an upstream connection: reads requests as they come, answers each when it is complete.

    `requests` (path, and body as it travelled) are those of all connections; request number n gets `answers[n]`.
    """

    def __init__(self, transport: MemoryTransport, requests: list[tuple[bytes, bytes]], answers: list[bytes]) -> None:
        self.transport = transport
        self.due = b""
        self._requests = requests
        self._answers = answers
        self._data = b""
        self._path = b""
        self._body = b""
        self._reader: BodyReader | None = None

    def take(self) -> None:
        """Take what was sent; the answers are due then."""
        self._data += self.transport.take()
        while True:
            if self._reader is None:
                parsed = parse_request(self._data)
                if parsed is None:
                    return
                head, end = parsed
                self._path, self._body, self._data = head.path, b"", self._data[end:]
                length = -1 if head.chunked else (head.content_length or 0) if request_has_body(head) else 0
                self._reader = reader_for(length, bad_request)
            used = self._reader.feed(self._data)
            self._body += self._data[:used]
            self._data = self._data[used:]
            if not self._reader.done:
                return
            self._reader = None
            self._requests.append((self._path, self._body))
            self.due += self._answers[len(self._requests) - 1]


# Rounds with cuts and stalls; after these all bytes go at once, so that it ends.
ROUGH_ROUNDS = 80
MAX_ROUNDS = 500


async def relay(exchanges: list[tuple[Message, Message]], dice: Random) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """What the upstream got and what the client got."""
    proxy = MemoryProxy()
    client = proxy.client()
    sending = b"".join(request_of(number, request) for number, (request, _) in enumerate(exchanges))
    answers = [b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (answer.framing(), answer.encoded()) for _, answer in exchanges]
    requests: list[tuple[bytes, bytes]] = []
    upstreams: list[Upstream] = []  # a connection that is stalled when its response ends is not used again
    received = b""
    answered = proxy.runtime.stats.http["memory"].classes
    for number in range(MAX_ROUNDS):
        rough = dice if number < ROUGH_ROUNDS else None
        while proxy.connections:
            upstreams.append(Upstream(await proxy.upstream(), requests, answers))
        sending = give(client, sending, rough)
        await turn(2)
        for upstream in upstreams:
            upstream.take()
            upstream.due = give(upstream.transport, upstream.due, rough)
            stall(upstream.transport, rough)
        stall(client, rough)
        received += client.take()
        if not sending and answered[2] == len(exchanges):
            break
    client.reset()
    await turn()
    proxy.settled()
    await proxy.runtime.close()
    return requests, received


def give(transport: MemoryTransport, data: bytes, dice: Random | None) -> bytes:
    """Let `transport` read some of `data`, or all without dice; the rest."""
    if not data or not transport.reading:
        return data
    size = len(data) if dice is None else min(len(data), dice.choice((1, 2, 17, 300, 9000, len(data))))
    transport.receive(data[:size])
    return data[size:]


def stall(transport: MemoryTransport, dice: Random | None) -> None:
    """Now and then the other end stops taking bytes, or goes on."""
    if transport.full and (dice is None or dice.random() < 0.3):
        transport.drain()
    elif dice is not None and not transport.full and dice.random() < 0.15:
        transport.fill()


def bodies(data: bytes, count: int) -> list[bytes]:
    """The bodies of `count` responses, as they travelled."""
    found = []
    for _ in range(count):
        parsed = parse_response(data)
        assert parsed is not None
        head, end = parsed
        reader = reader_for(response_framing(head, b"GET"), bad_response)
        used = reader.feed(data[end:])
        assert reader.done
        found.append(data[end : end + used])
        data = data[end + used :]
    assert data == b""
    return found


@settings(max_examples=150, deadline=None)
@given(exchanges=EXCHANGES, seed=st.integers(0, 2**32))
def test_every_byte_arrives_once_and_in_order(exchanges: list[tuple[Message, Message]], seed: int) -> None:
    got, received = asyncio.run(relay(exchanges, Random(seed)))
    assert got == [(b"/%d" % number, request.encoded()) for number, (request, _) in enumerate(exchanges)]
    assert bodies(received, len(exchanges)) == [answer.encoded() for _, answer in exchanges]
