"""Both ends at every split point, and against bytes that are no gRPC, or no HTTP/2."""

from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh.grpc.client import ClientConnection
from pymesh.grpc.connection import window_for
from pymesh.grpc.events import (
    Closing,
    Ended,
    HalfClosed,
    Message,
    Request,
    Response,
)
from pymesh.grpc.framing import encode_frame
from pymesh.grpc.server import ServerConnection
from pymesh.grpc.status import Code, Status
from pymesh.http2.errors import ConnectionBrokenError
from tests.pymesh.grpc.raw import GRPC, HEAD, Raw, goaway

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OK = Status(Code.OK)


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
