"""Messages cut out of bytes, at every split point."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.grpc.framing import (
    CompressedMessageError,
    FramingError,
    MessageReader,
    MessageTooLargeError,
    encode_frame,
)


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_messages_survive_any_chunking(messages: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(map(encode_frame, messages))
    reader, found, position = MessageReader(), [], 0
    while position < len(wire):
        step = data.draw(st.integers(1, len(wire) - position))
        found += reader.feed(wire[position : position + step])
        position += step
    assert found == messages
    assert reader.buffered == 0


def test_every_split_point_of_two_messages() -> None:
    wire = encode_frame(b"first") + encode_frame(b"")
    for split in range(len(wire) + 1):
        reader = MessageReader()
        assert reader.feed(wire[:split]) + reader.feed(wire[split:]) == [b"first", b""]


def test_an_incomplete_message_is_told() -> None:
    reader = MessageReader()
    assert reader.feed(encode_frame(b"abc")[:-1]) == []
    assert reader.buffered == 7


def test_a_message_over_the_limit_is_refused_by_its_prefix_alone() -> None:
    reader = MessageReader(limit=10)
    assert reader.feed(encode_frame(b"0123456789")) == [b"0123456789"]
    with pytest.raises(MessageTooLargeError, match="11 bytes is larger than the limit of 10"):
        reader.feed(encode_frame(b"0123456789a")[:5])


def test_compressed_and_garbage() -> None:
    with pytest.raises(CompressedMessageError, match="identity"):
        MessageReader().feed(b"\x01\0\0\0\x01x")
    with pytest.raises(FramingError, match="0x47"):
        MessageReader().feed(b"GET / HTTP/1.1\r\n")


@given(st.binary(max_size=64))
def test_any_bytes_are_messages_or_a_framing_error(data: bytes) -> None:
    with contextlib.suppress(FramingError):
        assert sum(len(message) + 5 for message in MessageReader(limit=32).feed(data)) <= len(data)
