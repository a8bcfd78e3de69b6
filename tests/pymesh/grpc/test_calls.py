"""Calls between a client and a server connection that are wired to each other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh.grpc import client, server
from pymesh.grpc.client import ClientConnection
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
from pymesh.grpc.server import ServerConnection
from pymesh.grpc.status import Code, RpcError, Status, TooManyCallsError
from pymesh.http2.stream_table import HIGHEST_STREAM

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
        Request(stream, "/test.Echo/Say", "pilot", (("x-name", "a"), ("x-raw-bin", b"\0\xff")), 2.0)
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
    with pytest.raises(RpcError, match="takes no more calls"):
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
    with pytest.raises(TooManyCallsError, match="UNAVAILABLE: the server allows no more calls"):
        pair.client.open("/a/b")
    assert pair.client.accepts_calls


def test_a_connection_whose_streams_are_used_up_takes_no_more_calls() -> None:
    """At a thousand questions a second that is after twelve days; another connection has all of them again."""
    pair = Pair()
    pair.client._engine._streams._next = HIGHEST_STREAM
    assert pair.client.open("/a/b") == HIGHEST_STREAM
    assert not pair.client.accepts_calls
    with pytest.raises(RpcError, match="takes no more calls: the numbers of its streams are used up") as caught:
        pair.client.open("/a/b")
    assert not isinstance(caught.value, TooManyCallsError)


def test_calls_with_the_same_head_have_no_metadata_that_one_could_change_for_another() -> None:
    pair = Pair()
    for _ in range(2):
        pair.client.open("/a/b", [("x-a", "1")])
    pair.settle()
    assert [event.metadata for event in pair.server_events if isinstance(event, Request)] == [(("x-a", "1"),)] * 2


def test_heads_are_known_again_and_not_taken_for_others() -> None:
    pair = Pair()
    asked = [("/a", None, ()), ("/a", 1.0, ()), ("/a", 1.0, [("x-a", "1")]), ("/b", 1.0, [("x-a", "2")])] * 3
    streams = [pair.client.open(method, metadata, timeout) for method, timeout, metadata in asked]
    pair.settle()
    assert pair.server_events == [
        Request(stream, method, "pilot", tuple(metadata), timeout)
        for stream, (method, timeout, metadata) in zip(streams, asked, strict=True)
    ]


def test_heads_that_are_remembered_are_few_and_short() -> None:
    pair = Pair()
    for number in range(server.MAX_HEADS + 9):
        pair.client.cancel(pair.client.open("/a", [("x-number", str(number))], float(number)))
        pair.settle()
    pair.client.open("/a", [("x-long", "x" * server.LONGEST_HEAD)])
    pair.settle()
    assert len(pair.server._heads) == server.MAX_HEADS
    assert len(pair.client._heads) == client.MAX_HEADS
    assert not any(name == b"x-long" for fields in pair.server._heads for name, _ in fields)


def test_the_last_message_ends_the_call_by_itself() -> None:
    pair = Pair()
    stream = pair.call()
    pair.client.send(stream, b"only", last=True)
    pair.settle()
    assert pair.server_events[1:] == [Message(stream, b"only"), HalfClosed(stream)]
