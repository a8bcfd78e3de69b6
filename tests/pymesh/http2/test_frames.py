"""Frames cut out of bytes at every point, and what cannot be one."""

import pytest
from hyperframe.frame import Frame as Hyperframe
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh.http2 import frames
from pymesh.http2.errors import ConnectionBrokenError, ErrorCode
from pymesh.http2.frames import ACK, END_HEADERS, END_STREAM, PADDED, PREFACE, PRIORITISED, Frame, FrameReader

SETTINGS = frames.settings([(4, 1000)])
ALL = [
    (frames.SETTINGS, 0, 0, b"\0\x04\0\0\x03\xe8"),
    (frames.HEADERS, END_HEADERS, 1, b"block"),
    (frames.CONTINUATION, END_HEADERS, 1, b""),
    (frames.DATA, END_STREAM, 2**31 - 1, b"x" * 300),
    (frames.PRIORITY, 0, 3, b"12345"),
    (frames.RST_STREAM, 0, 1, b"\0\0\0\x08"),
    (frames.PING, ACK, 0, b"12345678"),
    (frames.GOAWAY, 0, 0, b"\0\0\0\x01\0\0\0\x02bye"),
    (frames.WINDOW_UPDATE, 0, 0, b"\0\0\0\x09"),
    (0x99, 0xFF, 7, b"of a kind that nobody knows"),
]  # fmt: skip


def read(*pieces: bytes, preface: bool = False) -> list[Frame]:
    reader = FrameReader(preface=preface)
    return [found for piece in pieces for found in reader.feed(piece)]


def test_every_frame_at_every_split_point() -> None:
    wire = PREFACE + b"".join(frames.frame(*each) for each in ALL)
    for split in range(len(wire) + 1):
        assert read(wire[:split], wire[split:], preface=True) == ALL
    assert read(*(bytes([byte]) for byte in wire), preface=True) == ALL


@given(st.lists(st.integers(0, 400), max_size=30), st.data())
def test_any_sizes_in_any_pieces(sizes: list[int], data: st.DataObject) -> None:
    sent = [(frames.DATA, 0, 1, bytes([number % 251]) * size) for number, size in enumerate(sizes)]
    wire = SETTINGS + b"".join(frames.frame(*each) for each in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert read(*pieces)[1:] == sent


def test_the_reserved_bit_is_passed_over() -> None:
    assert read(SETTINGS, b"\0\0\0\0\0\x80\0\0\x05")[1:] == [(frames.DATA, 0, 5, b"")]


def test_the_largest_frame_and_one_that_is_larger() -> None:
    assert len(read(SETTINGS, frames.frame(frames.DATA, 0, 1, bytes(16384)))[1][3]) == 16384
    with pytest.raises(ConnectionBrokenError, match="16385 bytes") as caught:
        read(SETTINGS, b"\0\x40\x01\0\0\0\0\0\x01")  # before any of it has come
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


@pytest.mark.parametrize(
    ("wire", "preface", "text"),
    [
        (b"GET / HTTP/1.1\r\n", True, "preface"),
        (b"G", True, "preface"),
        (PREFACE[:-1] + b"\r", True, "preface"),
        (PREFACE + frames.frame(frames.PING, 0, 0, bytes(8)), True, "SETTINGS"),
        (frames.frame(frames.SETTINGS, ACK, 0), False, "SETTINGS"),
        (b"HTTP/1.1 400 Bad Request\r\n", False, "SETTINGS"),
        (SETTINGS + frames.frame(frames.DATA, 0, 0), False, "DATA on no stream"),
        (SETTINGS + frames.frame(frames.HEADERS, 0, 0), False, "HEADERS on no stream"),
        (SETTINGS + frames.frame(frames.PRIORITY, 0, 0, bytes(5)), False, "PRIORITY on no stream"),
        (SETTINGS + frames.frame(frames.PRIORITY, 0, 1, bytes(4)), False, "PRIORITY of 4 bytes"),
        (SETTINGS + frames.frame(frames.RST_STREAM, 0, 0, bytes(4)), False, "RST_STREAM on no stream"),
        (SETTINGS + frames.frame(frames.RST_STREAM, 0, 1, bytes(5)), False, "RST_STREAM of 5 bytes"),
        (SETTINGS + frames.frame(frames.SETTINGS, 0, 1), False, "SETTINGS on a stream"),
        (SETTINGS + frames.frame(frames.PING, 0, 1, bytes(8)), False, "PING on a stream"),
        (SETTINGS + frames.frame(frames.PING, 0, 0, bytes(7)), False, "PING of 7 bytes"),
        (SETTINGS + frames.frame(frames.GOAWAY, 0, 1, bytes(8)), False, "GOAWAY on a stream"),
        (SETTINGS + frames.frame(frames.GOAWAY, 0, 0, bytes(7)), False, "GOAWAY of 7 bytes"),
        (SETTINGS + frames.frame(frames.WINDOW_UPDATE, 0, 1, bytes(3)), False, "WINDOW_UPDATE of 3 bytes"),
        (SETTINGS + frames.frame(frames.CONTINUATION, 0, 0), False, "CONTINUATION on no stream"),
        (SETTINGS + frames.frame(frames.PUSH_PROMISE, 0, 1, bytes(4)), False, "PUSH_PROMISE"),
    ],
)
def test_what_is_no_frame_of_http2(wire: bytes, preface: bool, text: str) -> None:
    with pytest.raises(ConnectionBrokenError, match=text):
        read(wire, preface=preface)


@pytest.mark.parametrize(
    ("flags", "payload", "expected"),
    [(0, b"\x02ab", b"\x02ab"), (PADDED, b"\x02ab", b""), (PADDED, b"\0ab", b"ab"), (PADDED, b"\x01ab", b"a")],
)
def test_padding(flags: int, payload: bytes, expected: bytes) -> None:
    assert frames.without_padding(flags, payload) == expected


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x03ab"])
def test_more_padding_than_payload(payload: bytes) -> None:
    with pytest.raises(ConnectionBrokenError, match="padding"):
        frames.without_padding(PADDED, payload)


def test_a_block_with_priority_and_padding() -> None:
    assert frames.block_of(PADDED | PRIORITISED, b"\x02" + b"prior" + b"block" + b"\0\0") == b"block"
    with pytest.raises(ConnectionBrokenError, match="priority"):
        frames.block_of(PRIORITISED, b"four")


def test_settings_whose_length_is_no_multiple_of_six() -> None:
    with pytest.raises(ConnectionBrokenError, match="SETTINGS of 7 bytes"):
        frames.pairs_of(bytes(7))


@settings(max_examples=50)
@given(st.binary(max_size=100), st.integers(1, 20), st.booleans())
def test_a_long_block_goes_in_several_frames(block: bytes, max_bytes: int, end: bool) -> None:
    found = read(SETTINGS, frames.headers(3, block, end=end, max_bytes=max_bytes))[1:]
    assert b"".join(payload for *_, payload in found) == block
    assert max(len(payload) for *_, payload in found) <= max_bytes
    assert [kind for kind, *_ in found] == [frames.HEADERS] + [frames.CONTINUATION] * (len(found) - 1)
    assert found[0][1] & END_STREAM == (END_STREAM if end else 0)
    assert [bool(flags & END_HEADERS) for _, flags, *_ in found] == [False] * (len(found) - 1) + [True]


def test_another_implementation_reads_what_we_write() -> None:
    for wire in (
        frames.settings([(1, 0), (4, 77)]),
        frames.rst_stream(5, 8),
        frames.window_update(0, 2**31 - 1),
        frames.goaway(7, 2, b"why"),
        frames.frame(frames.DATA, END_STREAM, 9, b"body"),
    ):
        found, length = Hyperframe.parse_frame_header(memoryview(wire[:9]))
        found.parse_body(memoryview(wire[9:]))
        assert length == len(wire) - 9
        assert found.serialize() == wire


def test_a_farewell_is_short() -> None:
    assert len(frames.goaway(7, 2, b"y" * 70_000)) == frames.HEADER_BYTES + 8 + frames.MAX_REASON_BYTES
