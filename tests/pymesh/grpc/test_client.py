"""The client's end against answers that are none, or come in their own way."""

import pytest

from pymesh.grpc.events import (
    Closing,
    Ended,
    Message,
)
from pymesh.grpc.framing import encode_frame
from pymesh.grpc.status import Code, RpcError, Status
from tests.pymesh.grpc.raw import HEAD, Raw, goaway


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
    with pytest.raises(RpcError, match="takes no more calls: bye"):
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


def test_an_answer_that_is_no_message_of_http_ends_the_call_alone() -> None:
    raw = Raw()
    other = raw.client.open("/a/b")
    block = b"\x88\x00\x0aconnection\x05close"
    wire = len(block).to_bytes(3, "big") + b"\x01\x04" + raw.stream.to_bytes(4, "big") + block
    (ended,) = raw.client.receive(raw.h2.data_to_send() + wire)
    assert ended == Ended(raw.stream, Status(Code.INTERNAL, "'connection' has no place in HTTP/2"))
    assert raw.client.open_calls == 1
    raw.client.cancel(other)
