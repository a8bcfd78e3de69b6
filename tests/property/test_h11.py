"""h11 as the judge of what the codec accepts: heads, bodies and what is pipelined behind them, cut at every place.

What we accept, h11 accepts, and sees the same method, target, version, fields, framing and body, and the next message
at the same place; and it sees the same once more in the bytes that we send on. The leading empty line, which RFC 9112
2.2 grants to requests, is the only thing that h11 is spared.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pymesh_proxy.codec.body import BodyReader, Unchunked, reader_for
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import (
    MessageError,
    bad_request,
    bad_response,
    parse_request,
    parse_response,
    request_has_body,
    response_framing,
)
from pymesh_proxy.codec.shape import NO_FIELDS, Shape
from tests.property.test_http1_codec import CHUNKS, GOOD_CHUNKS, REQUESTS, RESPONSES, mutated

HELLO = b"5\r\nhello\r\n0\r\n\r\n"
FRAMED = st.one_of(
    st.sampled_from([  # as they should be
        (b"", b""), (b"Content-Length: 5 \r\n", b"hello"), (b"content-length:0\r\n", b""),
        (b"CONTENT-LENGTH: 012\r\n", b"\r\nGET / HTTP"), (b"Content-Length: 9\r\n", b"half"),
    ]),
    st.sampled_from([  # to be refused, whatever h11 says
        (b"Content-Length: 5\r\ncontent-length: 6\r\n", b"hello!"),
        (b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"),
        (b"Content-Length: +5\r\n", b"hello"),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", HELLO),
        (b"Transfer-Encoding: gzip, chunked\r\n", HELLO),
        (b"Transfer-Encoding: chunked\r\ntransfer-encoding: x\r\n", HELLO),
        (b"Transfer-Encoding : chunked\r\n", HELLO),
        (b"Transfer-Encoding: chunked\r\n", b"5 ;a\r\nhello\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"05h" + HELLO),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello!!0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"5\nhello\n0\n\n"),
    ]),
    GOOD_CHUNKS.map(lambda chunks: (b"transfer-Encoding:  Chunked\r\n", chunks)),
)  # fmt: skip
REQUEST_LINES = st.sampled_from([
    b"GET / HTTP/1.1\r\n", b"POST /a?b=c HTTP/1.1\r\n", b"\r\nPUT http://A:80/b?c HTTP/1.1\r\n",
    b"HEAD //x HTTP/1.0\r\n", b"OPTIONS * HTTP/1.1\r\n", b"OPTIONS http://a HTTP/1.1\r\n",
    b"PURGE http://a?b HTTP/1.1\r\n",
])  # fmt: skip
STATUS_LINES = st.sampled_from([
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 404 \r\n", b"HTTP/1.1 204\r\n", b"HTTP/1.1 304 Not Modified\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 \xe9\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 500 x\r\n",
])  # fmt: skip
FIELDS = st.lists(
    st.sampled_from([b"X-A: b\r\n", b"x-a:c\r\n", b"Connection: close\r\n", b"Cookie: \xe4 \t\r\n", b"X:\r\n"]),
    max_size=3,
).map(b"".join)


def stream(first: st.SearchStrategy[bytes], wild: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Messages one behind the other: good ones, ones with a few bytes changed, wild heads with some body."""
    good = st.builds(
        lambda line, fields, framed: line + fields + framed[0] + b"\r\n" + framed[1], first, FIELDS, FRAMED
    )
    several = st.lists(good, min_size=1, max_size=3).map(b"".join)
    return st.one_of(several, several, mutated(several), st.builds(bytes.__add__, wild, st.one_of(CHUNKS, good)))


STREAMS = stream(REQUEST_LINES.map(lambda line: line + b"Host: a\r\n"), REQUESTS)
ANSWERS = stream(STATUS_LINES, RESPONSES)
METHODS = st.sampled_from([b"GET", b"HEAD", b"POST"])
# As many messages of one stream as are looked at.
MESSAGES = 4


@dataclass(frozen=True)
class Message:
    """One message as a reader saw it: `start` is method and target, or status; `body` is content without framing.

    `end`: how it came out: "complete", or "more" where more is needed. `used`: the bytes that it took, if complete.
    """

    start: tuple[bytes, ...]
    minor: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    end: str
    used: int = 0


class Ours:
    """Reads a stream in portions as the connections do: one buffer, a head, its body, the next head."""

    def __init__(self, method: bytes | None = None, like: Shape = NO_FIELDS) -> None:
        """`method` of the requests that were answered; None reads requests. `like`: see `parse_request`."""
        self._method = method
        self._like = like
        self._data = b""
        self._head: Head | None = None
        self._reader: BodyReader | None = None
        self._content: Unchunked | None = None
        self._body = b""
        self._used = 0
        self.messages: list[Message] = []
        self.sent: list[bytes] = []  # each message as it would be sent on
        self.refused = False

    def feed(self, data: bytes) -> None:
        """More of the stream."""
        self._data += data
        try:
            while not self.refused and len(self.messages) < MESSAGES and self._step():
                pass
        except MessageError:
            self.refused = True

    def end(self) -> None:
        """The stream has ended, which is the end of a body that has no other."""
        reader = self._reader
        if reader is not None and not self.refused and not reader.done and reader.end_of_stream():
            self._finish()

    def so_far(self) -> list[Message]:
        """The messages, the last one perhaps with more to come."""
        head = self._head
        return self.messages if head is None else [*self.messages, self._message(head, "more")]

    def _step(self) -> bool:
        """Read a head, or some of a body; whether there may be more in what is there."""
        if self._reader is None:
            parse = parse_request if self._method is None else parse_response
            parsed = parse(self._data, like=self._like)
            if parsed is None:
                return False
            self._head, end = parsed
            self.sent.append(written(self._head))
            if self._method is None:
                length = -1 if self._head.chunked else self._head.content_length or 0
                framing: int | None = length if request_has_body(self._head) else 0
                self._reader = reader_for(framing, bad_request)
            else:
                framing = response_framing(self._head, self._method)
                self._reader = reader_for(framing, bad_response)
            self._content = Unchunked() if framing == -1 else None
            self._used = end
            self._data = self._data[end:]
        elif not self._data:
            return False
        used = self._reader.feed(self._data) if self._data else 0
        piece, self._data = self._data[:used], self._data[used:]
        self._used += used
        self.sent[-1] += piece
        self._body += piece if self._content is None else self._content.feed(piece)
        if self._reader.done:
            self._finish()
            return True
        return bool(used and self._data)

    def _finish(self) -> None:
        assert self._head is not None
        self.messages.append(self._message(self._head, "complete"))
        self._head = self._reader = self._content = None
        self._body = b""

    def _message(self, head: Head, end: str) -> Message:
        start = (b"%d" % head.status,) if self._method is not None else (head.method, head.path)
        return Message(
            start, head.minor, fields_of(head.fields()), self._body, end, self._used if end == "complete" else 0
        )


def written(head: Head) -> bytes:
    """The head as it is sent on."""
    if head.status:
        return b"HTTP/1.%d %d %b\r\n%b\r\n" % (head.minor, head.status, head.reason, head.fields())
    return b"%b %b HTTP/1.%d\r\n%b\r\n" % (head.method, head.path, head.minor, head.fields())


def fields_of(lines: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Names in lower case and values of field lines; `chunked` in lower case, as h11 gives it."""
    found = []
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        found.append((name.lower(), value.lower() if name.lower() == b"transfer-encoding" else value))
    return tuple(found)


def theirs(data: bytes, method: bytes | None, *, ended: bool) -> Message:
    """The first message of `data` as h11 sees it, which must accept it as far as it goes."""
    peer = h11.Connection(h11.SERVER if method is None else h11.CLIENT)
    if method is not None:
        peer.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        peer.send(h11.EndOfMessage())
    peer.receive_data(data)
    event = peer.next_event()
    if isinstance(event, h11.Request):
        start: tuple[bytes, ...] = (event.method, event.target)
    else:
        assert isinstance(event, h11.Response | h11.InformationalResponse), event
        start = (b"%d" % event.status_code,)
    version = int(event.http_version[-1:])
    fields = tuple(event.headers)
    if isinstance(event, h11.InformationalResponse):
        return Message(start, version, fields, b"", "complete", len(data) - len(peer.trailing_data[0]))
    body = b""
    while isinstance(event := peer.next_event(), h11.Data) or (event is h11.NEED_DATA and ended):
        if event is h11.NEED_DATA:
            ended = False
            peer.receive_data(b"")
        else:
            body += bytes(event.data)
    if isinstance(event, h11.EndOfMessage):
        return Message(start, version, fields, body, "complete", len(data) - len(peer.trailing_data[0]))
    assert event is h11.NEED_DATA, event
    return Message(start, version, fields, body, "more")


def assert_same(ours: Message, judge: Message) -> None:
    """Both saw one message, but for what the proxy has changed on purpose: an absolute target, and Host with it."""
    if ours.start != judge.start:
        method, target = ours.start
        scheme, _, rest = judge.start[1].partition(b"://")
        host, slash, path = rest.partition(b"/") if b"/" in rest.partition(b"?")[0] else rest.partition(b"?")
        assert judge.start[0] == method
        assert scheme.lower() in {b"http", b"https"}
        whole = (b"/" if slash == b"?" else b"") + slash + path
        assert target == (whole or (b"*" if method == b"OPTIONS" else b"/"))
        assert (b"host", host) in ours.fields
        judge = replace(judge, start=ours.start)
        without = [tuple(pair for pair in one.fields if pair[0] != b"host") for one in (ours, judge)]
        assert sorted(without[0]) == sorted(without[1])
        judge = replace(judge, fields=ours.fields)
    if ours.start[0] == b"204" or ours.start[0][:1] == b"1":  # a length of 0 is taken away where none may be
        judge = replace(judge, fields=tuple(pair for pair in judge.fields if pair[0] != b"content-length"))
    assert ours == judge


def in_portions(data: bytes, places: Iterator[int], method: bytes | None, like: Shape = NO_FIELDS) -> Ours:
    """What is read of `data`, cut at these places."""
    reader, start = Ours(method, like), 0
    for place in places:
        reader.feed(data[start:place])
        start = place
    reader.feed(data[start:])
    return reader


def shape_in(data: bytes, method: bytes | None) -> Shape:
    """The shape of the first head in `data`, or none."""
    with contextlib.suppress(MessageError):
        parsed = parse_request(data) if method is None else parse_response(data)
        if parsed is not None:
            return parsed[0].shape
    return NO_FIELDS


def whole(data: bytes, method: bytes | None, before: bytes) -> Ours:
    """What is read of `data`: in one piece as in two, wherever they are cut; byte by byte; behind another head.

    What is refused may be refused earlier where it came in parts; what is accepted of it before is the same.
    """
    seen = in_portions(data, iter(()), method)
    for like in (shape_in(before, method), shape_in(data, method)):
        assert vars_of(in_portions(data, iter(()), method, like)) == vars_of(seen)
    cuts = [iter((place,)) for place in range(1, len(data))]
    for cut in [*cuts, iter(range(1, len(data)))]:
        parts = in_portions(data, cut, method)
        assert parts.refused == seen.refused
        assert parts.messages == seen.messages
        if not seen.refused:
            assert vars_of(parts) == vars_of(seen)
    return seen


def vars_of(seen: Ours) -> tuple[object, ...]:
    return seen.refused, seen.so_far(), seen.sent


def judged(data: bytes, seen: Ours, method: bytes | None, *, ended: bool) -> None:
    """h11 agrees on every message, in what came and in what is sent on."""
    position = 0
    for message, sent in zip(seen.so_far(), seen.sent, strict=False):
        came = data[position:]
        position += message.used
        empty_line = 2 if method is None and came.startswith(b"\r\n") else 0
        if message.start[0] == b"101" or (message.start[0] == b"CONNECT" and method is None):
            return  # another protocol, or a tunnel; h11 lets a client take a 101 only where it asked for one
        used = message.used - empty_line if message.used else 0
        assert_same(replace(message, used=used), theirs(came[empty_line:], method, ended=ended))
        again = theirs(sent, method, ended=ended)
        assert_same(replace(message, used=again.used), again)


@settings(max_examples=250, deadline=None)
@given(STREAMS, STREAMS)
@example(
    b"\r\nPOST http://A:80/b?c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked \r\n\r\n1;a\r\nx\r\n0\r\nX:\r\n\r\n",
    b"",
)
@example(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET / HTTP/1.1\r\nHost: b\r\n\r\n", b"")
def test_the_requests_that_we_accept_h11_sees_in_the_same_way(data: bytes, before: bytes) -> None:
    seen = whole(data, None, before)
    if seen.refused and not seen.messages:
        return
    if seen.refused:
        seen.sent = seen.sent[: len(seen.messages)]  # h11 may refuse the rest in its own way, or not at all
        seen._head = None
    judged(data, seen, None, ended=False)


@settings(max_examples=250, deadline=None)
@given(ANSWERS, METHODS, st.booleans(), ANSWERS)
@example(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"GET", False, b"")
@example(b"HTTP/1.0 200 OK\r\n\r\nabc", b"GET", True, b"")
def test_the_responses_that_we_accept_h11_sees_in_the_same_way(
    data: bytes, method: bytes, ended: bool, before: bytes
) -> None:
    seen = whole(data, method, before)
    if ended:
        seen.end()
    if seen.refused:
        seen.sent = seen.sent[: len(seen.messages)]
        seen._head = None
    # What is cut off is for h11 an error, for us a message that is not complete: its end is not told to h11.
    complete = seen._head is None
    judged(data, seen, method, ended=ended and complete)


def test_the_streams_reach_far_enough() -> None:
    """The strategies make what is accepted with a body and followed by another message, not only what is refused."""
    found = {"accepted": 0, "with a body": 0, "followed": 0, "refused": 0}

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(STREAMS)
    def look(data: bytes) -> None:
        seen = in_portions(data, iter(()), None)
        found["refused"] += seen.refused
        found["accepted"] += bool(seen.messages)
        found["with a body"] += any(message.body for message in islice(seen.messages, 1))
        found["followed"] += len(seen.messages) > 1

    look()
    assert all(count >= 30 for count in found.values()), found
