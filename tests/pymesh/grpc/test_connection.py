"""A client and a server connection wired to each other, and each of them against bytes of every kind."""

from collections.abc import Callable

import h2.config
import h2.connection
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh.grpc.client import ClientConnection
from pymesh.grpc.connection import window_for
from pymesh.grpc.events import (
    ClientEvent,
    Closing,
    Ended,
    HalfClosed,
    Message,
    Ponged,
    Request,
    Response,
    ServerEvent,
)
from pymesh.grpc.framing import encode_frame
from pymesh.grpc.server import ServerConnection
from pymesh.grpc.status import Code, RpcError, Status
from pymesh.http2.errors import ConnectionBrokenError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OK = Status(Code.OK)


class Pair:
    """A client and a server, and what each has seen."""

    def __init__(self, *, limit: int = 1 << 20) -> None:
        self.client = ClientConnection("pilot", limit=limit)
        self.server = ServerConnection(limit=limit)
        self.client_events: list[ClientEvent] = []
        self.server_events: list[ServerEvent] = []
        self.settle()

    def settle(self) -> None:
        """Carry bytes until both are silent."""
        while True:
            up, down = self.client.bytes_to_send(), self.server.bytes_to_send()
            if not up and not down:
                return
            if up:
                self.server_events += self.server.receive(up)
            if down:
                self.client_events += self.client.receive(down)

    def call(self, **options: float) -> int:
        stream = self.client.open("/test.Echo/Say", [("x-name", "a"), ("x-raw-bin", b"\0\xff")], **options)
        self.settle()
        return stream


def test_a_call_with_messages_both_ways() -> None:
    pair = Pair()
    stream = pair.call(timeout=2.0)
    assert pair.server_events == [
        Request(stream, "/test.Echo/Say", "pilot", [("x-name", "a"), ("x-raw-bin", b"\0\xff")], 2.0)
    ]
    pair.client.send(stream, b"one")
    pair.client.send(stream, b"")
    pair.client.finish(stream)
    pair.settle()
    assert pair.server_events[1:] == [Message(stream, b"one"), Message(stream, b""), HalfClosed(stream)]
    pair.server.respond(stream, [("x-server", "b")])
    pair.server.send(stream, b"answer")
    pair.server.end(stream, Status(Code.OK, metadata=[("x-last", "c")]))
    pair.settle()
    assert pair.client_events == [
        Response(stream, [("x-server", "b")]),
        Message(stream, b"answer"),
        Ended(stream, Status(Code.OK, "", [("x-last", "c")])),
    ]
    assert pair.client.open_calls == pair.server.open_calls == 0


def test_an_error_without_an_answer_is_a_trailers_only_response() -> None:
    pair = Pair()
    stream = pair.call()
    pair.server.end(stream, Status(Code.PERMISSION_DENIED, "no: 50% of ü"))
    pair.settle()
    assert pair.client_events == [Ended(stream, Status(Code.PERMISSION_DENIED, "no: 50% of ü", []))]
    assert pair.client.open_calls == 0


def test_a_server_that_ends_early_releases_the_stream_on_both_sides() -> None:
    pair = Pair()
    for _ in range(150):  # more than may be open at a time
        stream = pair.call()
        pair.client.send(stream, b"never finished")
        pair.settle()
        pair.server.send(stream, b"bye")
        pair.server.end(stream, OK)
        pair.settle()
        assert pair.client_events[-1] == Ended(stream, Status(Code.OK, "", []))


def test_cancelling_reaches_the_server_once() -> None:
    pair = Pair()
    stream = pair.call()
    pair.client.cancel(stream)
    pair.client.cancel(stream)
    pair.client.send(stream, b"late")
    pair.settle()
    ended = pair.server_events[-1]
    assert isinstance(ended, Ended)
    assert ended.status.code is Code.CANCELLED
    pair.server.send(stream, b"too late")
    pair.server.end(stream, OK)
    pair.settle()
    assert pair.client_events == []


def test_more_than_the_windows_hold_waits_for_consumption_and_never_gets_stuck() -> None:
    limit = 100_000
    pair = Pair(limit=limit)
    stream = pair.call()
    sent = [bytes([number]) * size for number, size in enumerate([limit, 1, limit // 2, limit - 1, limit, limit, 7])]
    for message in sent:
        pair.client.send(stream, message)
    pair.client.finish(stream)
    pair.settle()
    assert pair.client.unsent(stream) > 0  # the window is closed: nothing was consumed yet
    received: list[bytes] = []
    while True:
        news = [event.data for event in pair.server_events if isinstance(event, Message)][len(received) :]
        if not news:
            break
        received.append(news[0])
        pair.server.consumed(stream, len(news[0]))
        pair.settle()
    assert received == sent
    assert pair.client.unsent(stream) == 0
    assert isinstance(pair.server_events[-1], HalfClosed)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=30))
def test_any_sequence_of_sizes_arrives(sizes: list[int]) -> None:
    pair = Pair(limit=3000)
    stream = pair.call()
    for size in sizes:
        pair.client.send(stream, b"x" * size)
    pair.settle()
    taken = 0
    while taken < len(sizes):
        messages = [event for event in pair.server_events if isinstance(event, Message)]
        assert len(messages) > taken, "stuck"
        pair.server.consumed(stream, len(messages[taken].data))
        taken += 1
        pair.settle()


def test_credit_of_abandoned_calls_goes_back_to_the_connection() -> None:
    pair = Pair(limit=10_000)
    total = 0
    while total < 3 * 2**21:  # thrice the connection's window
        stream = pair.call()
        pair.client.send(stream, b"x" * 10_000)
        pair.settle()
        assert pair.client.unsent(stream) == 0
        total += 10_000
        pair.server.end(stream, OK)  # without consuming the message
        pair.settle()


def test_a_message_over_the_limit_ends_the_call_alone() -> None:
    pair = Pair(limit=100)
    other, stream = pair.call(), pair.call()
    pair.client.send(stream, b"x" * 101)
    pair.settle()
    ended = pair.server_events[-1]
    assert isinstance(ended, Ended)
    assert ended.status.code is Code.RESOURCE_EXHAUSTED
    assert pair.client_events == [
        Ended(stream, Status(Code.RESOURCE_EXHAUSTED, "a message of 101 bytes is larger than the limit of 100", []))
    ]
    pair.server.send(other, b"x" * 101)
    pair.settle()
    refused = pair.client_events[-1]
    assert isinstance(refused, Ended)
    assert refused.status.code is Code.RESOURCE_EXHAUSTED
    assert pair.server.open_calls == 0  # the server has heard that its answer is not wanted


def test_a_method_may_take_less_than_others() -> None:
    pair = Pair()
    pair.server = ServerConnection(limit=1 << 20, limit_of=lambda method: 10 if method == "/test.Echo/Say" else 1 << 20)
    pair.client = ClientConnection("pilot", limit=1 << 20)
    stream, other = pair.call(), pair.client.open("/test.Echo/Listen")
    for each in (stream, other):
        pair.client.send(each, b"x" * 11)
    pair.settle()
    text = "a message of 11 bytes is larger than the limit of 10"
    assert pair.client_events == [Ended(stream, Status(Code.RESOURCE_EXHAUSTED, text, []))]
    assert pair.server_events[-1] == Message(other, b"x" * 11)


def test_what_is_held_is_known() -> None:
    pair = Pair()
    first, second = pair.call(), pair.call()
    pair.client.send(first, b"x" * 95)
    pair.client.send(second, b"x" * 195)
    pair.settle()
    held = (pair.server.held, pair.server.held_by(first), pair.server.held_by(second), pair.server.held_by(99))
    assert held == (300, 100, 200, 0)
    pair.server.consumed(first, 95)
    assert (pair.server.held, pair.server.held_by(first)) == (200, 0)
    pair.server.end(second, OK)
    assert pair.server.held == 0
    pair.client.send(first, b"x")
    pair.settle()
    assert pair.server.held == 6
    pair.server.abort("gone")
    assert pair.server.held == 0


def test_a_connection_that_retires_serves_what_it_has_and_what_still_comes() -> None:
    pair = Pair()
    stream = pair.call()
    pair.server.retire()
    late = pair.client.open("/test.Echo/Say")  # before it has heard
    pair.settle()
    assert pair.client_events == [Closing(0, "HTTP/2 error 0")]
    with pytest.raises(RpcError, match="goes away"):
        pair.client.open("/test.Echo/Say")
    for each in (stream, late):
        pair.server.send(each, b"answer")
        pair.server.end(each, OK)
    pair.settle()
    assert [event for event in pair.client_events if isinstance(event, Ended)] == [
        Ended(stream, Status(Code.OK, "", [])),
        Ended(late, Status(Code.OK, "", [])),
    ]


def test_pings_are_answered() -> None:
    pair = Pair()
    pair.client.ping(b"12345678")
    pair.server.ping(b"abcdefgh")
    pair.settle()
    assert pair.client_events == [Ponged(b"12345678")]
    assert pair.server_events == [Ponged(b"abcdefgh")]


def test_a_lost_connection_ends_every_call_once() -> None:
    pair = Pair()
    streams = [pair.call(), pair.call()]
    lost = Status(Code.UNAVAILABLE, "connection reset")
    assert pair.client.abort("connection reset") == [Ended(stream, lost) for stream in streams]
    assert pair.client.abort("again") == []
    with pytest.raises(RpcError, match="connection reset"):
        pair.client.open("/a/b")


def test_the_peers_limit_of_calls_is_respected() -> None:
    pair = Pair()
    for _ in range(100):
        pair.client.open("/a/b")
    with pytest.raises(RpcError, match="UNAVAILABLE: the server allows no more calls"):
        pair.client.open("/a/b")


# --- against an HTTP/2 peer that speaks whatever the test wants -----------------------------------------------------


class Raw:
    """A bare HTTP/2 server for our client."""

    def __init__(self) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.client = ClientConnection("pilot")
        self.h2.initiate_connection()
        self.stream = self.client.open("/a/b")
        self.h2.receive_data(self.client.bytes_to_send())

    def answer(self, *headers: tuple[str, str], end: bool = True) -> list[ClientEvent]:
        self.h2.send_headers(self.stream, list(headers), end_stream=end)
        return self.flush()

    def flush(self) -> list[ClientEvent]:
        return self.client.receive(self.h2.data_to_send())


HEAD = ((":status", "200"), ("content-type", "application/grpc+proto"))


@pytest.mark.parametrize(
    ("headers", "code", "text"),
    [
        (((":status", "503"),), Code.UNAVAILABLE, "HTTP status 503"),
        (((":status", "200"), ("content-type", "text/html")), Code.UNKNOWN, "text/html"),
        (((":status", "200"),), Code.UNKNOWN, "of no type"),
        (HEAD, Code.UNKNOWN, "without a grpc-status"),
        ((*HEAD, ("grpc-status", "99")), Code.UNKNOWN, ""),
        ((*HEAD, ("grpc-status", "-1")), Code.UNKNOWN, ""),
        ((*HEAD, ("grpc-status", "5"), ("x-bin", "*")), Code.INTERNAL, "base64"),
    ],
)
def test_answers_that_are_no_grpc(headers: tuple[tuple[str, str], ...], code: Code, text: str) -> None:
    raw = Raw()
    events = raw.answer(*headers)
    assert len(events) == 1
    assert isinstance(events[0], Ended)
    assert events[0].status.code is code
    assert text in events[0].status.message
    assert raw.client.open_calls == 0


def test_a_compressed_answer_is_refused_clearly() -> None:
    raw = Raw()
    events = raw.answer(*HEAD, ("grpc-encoding", "gzip"), end=False)
    assert events == [
        Ended(raw.stream, Status(Code.INTERNAL, "the answer is compressed (gzip); only identity was offered"))
    ]
    assert raw.h2.receive_data(raw.client.bytes_to_send())  # it was told


@pytest.mark.parametrize(
    ("body", "text"),
    [(b"\0\0\0\0\x05abc", "in the middle of a message"), (b"\x01\0\0\0\0", "compressed"), (b"<html>", "0x3c")],
)
def test_bodies_that_are_no_messages(body: bytes, text: str) -> None:
    raw = Raw()
    raw.answer(*HEAD, end=False)
    raw.h2.send_data(raw.stream, body)
    raw.h2.send_headers(raw.stream, [("grpc-status", "0")], end_stream=True)
    events = raw.flush()
    assert len(events) == 1
    assert isinstance(events[0], Ended)
    assert events[0].status.code is Code.INTERNAL
    assert text in events[0].status.message


def test_a_body_that_ends_without_trailers() -> None:
    raw = Raw()
    raw.answer(*HEAD, end=False)
    raw.h2.send_data(raw.stream, encode_frame(b"x"), end_stream=True)
    message, ended = raw.flush()
    assert message == Message(raw.stream, b"x")
    assert isinstance(ended, Ended)
    assert ended.status.code is Code.UNKNOWN


def goaway(last: int, code: int = 0, reason: bytes = b"") -> bytes:
    payload = last.to_bytes(4, "big") + code.to_bytes(4, "big") + reason
    return len(payload).to_bytes(3, "big") + b"\x07\0\0\0\0\0" + payload


def test_goaway_lets_accepted_calls_finish_and_ends_the_others() -> None:
    raw = Raw()
    late = raw.client.open("/a/late")
    raw.h2.receive_data(raw.client.bytes_to_send())
    ping = b"\0\0\x08\x06\0\0\0\0\0shutdown"
    assert raw.client.receive(raw.h2.data_to_send() + goaway(raw.stream, 0, b"bye") + ping) == [
        Closing(0, "bye"),
        Ended(late, Status(Code.UNAVAILABLE, "the server goes away: bye"), unprocessed=True),
    ]
    assert b"shutdown" in raw.client.bytes_to_send()  # the ping was answered, the connection lives
    assert not raw.client.accepts_calls
    with pytest.raises(RpcError, match="goes away: bye"):
        raw.client.open("/a/b")
    assert raw.answer(*HEAD, ("grpc-status", "0")) == [Ended(raw.stream, Status(Code.OK, "", []))]


@pytest.mark.parametrize(
    ("code", "expected", "unprocessed"), [(0x7, Code.UNAVAILABLE, True), (0x8, Code.CANCELLED, False)]
)
def test_resets(code: int, expected: Code, unprocessed: bool) -> None:
    raw = Raw()
    raw.h2.reset_stream(raw.stream, code)
    (ended,) = raw.flush()
    assert isinstance(ended, Ended)
    assert (ended.status.code, ended.unprocessed) == (expected, unprocessed)


def test_a_window_that_opens_and_a_reset_in_the_same_breath() -> None:
    raw = Raw()
    raw.client.send(raw.stream, b"x" * 100_000)  # more than the default window of 65,535
    raw.h2.receive_data(raw.client.bytes_to_send())
    raw.h2.increment_flow_control_window(1000, raw.stream)
    raw.h2.increment_flow_control_window(1000)
    raw.h2.reset_stream(raw.stream, 8)
    assert isinstance(raw.flush()[0], Ended)


class RawClient:
    """A bare HTTP/2 client for our server."""

    def __init__(self) -> None:
        self.h2 = h2.connection.H2Connection()
        self.server = ServerConnection()
        self.h2.initiate_connection()
        self.h2.receive_data(self.server.bytes_to_send())

    def request(self, *headers: tuple[str, str], method: str = "POST") -> list[ServerEvent]:
        head = [(":method", method), (":scheme", "http"), (":path", "/a/b"), (":authority", "x"), *headers]
        self.h2.send_headers(1, head)
        return self.server.receive(self.h2.data_to_send())

    def answer(self) -> dict[bytes, bytes]:
        for event in self.h2.receive_data(self.server.bytes_to_send()):
            if isinstance(event, h2.events.ResponseReceived):
                return {bytes(name): bytes(value) for name, value in event.headers}
        raise AssertionError("no answer")


GRPC = ("content-type", "application/grpc")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((("content-type", "text/plain"),), {b":status": b"415"}),
        ((GRPC, ("grpc-encoding", "gzip")), {b"grpc-status": b"12", b"grpc-accept-encoding": b"identity"}),
        ((GRPC, ("grpc-timeout", "soon")), {b"grpc-status": b"13"}),
        ((GRPC, ("x-bin", "*")), {b"grpc-status": b"13"}),
    ],
)
def test_requests_that_are_no_grpc(headers: tuple[tuple[str, str], ...], expected: dict[bytes, bytes]) -> None:
    raw = RawClient()
    assert raw.request(*headers) == []
    assert expected.items() <= raw.answer().items()
    assert raw.server.open_calls == 0


def test_a_get_is_refused() -> None:
    raw = RawClient()
    assert raw.request(GRPC, method="GET") == []
    assert raw.answer()[b":status"] == b"415"


def test_a_request_that_is_refused_and_reset_in_the_same_breath() -> None:
    raw = RawClient()
    raw.h2.send_headers(1, [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")])
    raw.h2.reset_stream(1, 8)
    assert raw.server.receive(raw.h2.data_to_send()) == []


def test_a_window_that_opens_a_reset_and_the_next_call_in_the_same_breath() -> None:
    """With the next call h2 forgets the one that is over, of which not all is sent."""
    raw = RawClient()
    raw.request(GRPC)
    raw.server.send(1, b"x" * 100_000)  # more than the default window of 65,535
    raw.h2.receive_data(raw.server.bytes_to_send())
    raw.h2.increment_flow_control_window(1000, 1)
    raw.h2.reset_stream(1, 8)
    raw.h2.send_headers(3, [(":method", "POST"), (":scheme", "http"), (":path", "/a/b"), (":authority", "x"), GRPC])
    events = raw.server.receive(raw.h2.data_to_send())
    assert [type(event) for event in events] == [Ended, Request]
    assert raw.server.unsent(1) == 0


# --- every split point, and garbage ---------------------------------------------------------------------------------


def server_transcript() -> bytes:
    """What a client writes in a call, in one piece."""
    raw = h2.connection.H2Connection()
    raw.initiate_connection()
    head = [(":method", "POST"), (":scheme", "http"), (":path", "/a/b"), (":authority", "x"), GRPC]
    raw.send_headers(1, head)
    raw.send_data(1, encode_frame(b"hello") + encode_frame(b"world")[:7])
    raw.ping(b"pingpong")
    raw.send_data(1, encode_frame(b"world")[7:], end_stream=True, pad_length=3)
    return raw.data_to_send() + goaway(0, 0, b"done")


def client_transcript() -> bytes:
    """What a server writes in a call, in one piece."""
    raw = Raw()
    raw.h2.send_headers(1, list(HEAD))
    raw.h2.send_data(1, encode_frame(b"hello") + encode_frame(b"world")[:7])
    raw.h2.send_data(1, encode_frame(b"world")[7:], pad_length=3)
    raw.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)
    return raw.h2.data_to_send() + goaway(1, 2, b"done")


def new_client() -> ClientConnection:
    client = ClientConnection("pilot")
    client.open("/a/b")
    client.bytes_to_send()
    return client


def test_the_server_reads_the_same_at_every_split_point() -> None:
    wire = server_transcript()
    whole = ServerConnection().receive(wire)
    assert [type(event) for event in whole] == [Request, Message, Message, HalfClosed, Closing]
    for split in range(len(wire) + 1):
        server = ServerConnection()
        assert server.receive(wire[:split]) + server.receive(wire[split:]) == whole
    one_by_one = ServerConnection()
    assert [event for byte in wire for event in one_by_one.receive(bytes([byte]))] == whole


def test_the_client_reads_the_same_at_every_split_point() -> None:
    wire = client_transcript()
    whole = new_client().receive(wire)
    assert [type(event) for event in whole] == [Response, Message, Message, Ended, Closing]
    for split in range(len(wire) + 1):
        client = new_client()
        assert client.receive(wire[:split]) + client.receive(wire[split:]) == whole


def harmless(make: Callable[[], ClientConnection | ServerConnection], wire: bytes) -> None:
    """Whatever comes, there are events or the one documented exception, and the connection can still be used."""
    connection = make()
    try:
        for event in connection.receive(wire):
            if isinstance(event, Message):
                connection.consumed(event.stream_id, len(event.data))
            if isinstance(event, Request) and isinstance(connection, ServerConnection):
                connection.send(event.stream_id, b"answer")
                connection.end(event.stream_id, OK)
    except ConnectionBrokenError:
        assert connection.receive(wire) == []
    connection.bytes_to_send()
    connection.ping(b"12345678")
    connection.abort("lost")
    connection.close()
    connection.bytes_to_send()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_garbage(data: bytes, after_preface: bool) -> None:
    harmless(ServerConnection, PREFACE + data if after_preface else data)
    harmless(new_client, data)


SERVER_WIRE, CLIENT_WIRE = server_transcript(), client_transcript()


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_mutated_conversations(data: st.DataObject) -> None:
    wire = bytearray(data.draw(st.sampled_from([SERVER_WIRE, CLIENT_WIRE])))
    make = ServerConnection if wire[:3] == b"PRI" else new_client
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(wire)))
        wire[start : start + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    harmless(make, bytes(wire))


SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "reamble|preface"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9, "HTTP/2"),
        (PREFACE + b"\0\0\x08\x06\0\0\0\0\0", "SETTINGS"),
        (PREFACE + SETTINGS + b"\0\x40\x01\0\0\0\0\0\x01", "16385 bytes"),
        (PREFACE + SETTINGS + b"\0\0\x07\x07\0\0\0\0\0", "GOAWAY of 7"),
        (PREFACE + SETTINGS + b"\0\0\x08\x07\0\0\0\0\x01", "GOAWAY on a stream"),
        (PREFACE + SETTINGS + b"\0\0\x08\0\0\0\0\0\x03" + b"\0" * 8, "."),
    ],
)
def test_what_is_not_http2_breaks_the_connection_at_once(wire: bytes, text: str) -> None:
    with pytest.raises(ConnectionBrokenError, match=text):
        ServerConnection().receive(wire)


def test_an_answer_in_http1_is_recognised_at_once() -> None:
    with pytest.raises(ConnectionBrokenError, match="does not speak HTTP/2"):
        new_client().receive(b"HTTP/1.1 400 Bad Request\r\n")


def test_windows_hold_two_messages() -> None:
    assert window_for(100) == 210
