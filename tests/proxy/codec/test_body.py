"""Where bodies end, at every split point; and what is no chunked body."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.codec.body import (
    MAX_CHUNK_LINE,
    MAX_ODD_CHUNKS,
    MAX_TRAILERS,
    BodyReader,
    Chunked,
    FixedLength,
    Unchunked,
    UntilClose,
    reader_for,
)
from pymesh_proxy.codec.http1 import MessageError, bad_request, bad_response


def feed_all(reader: BodyReader, portions: list[bytes]) -> tuple[bytes, bytes]:
    """Feed as a connection does, keeping what is not used; the body's bytes, and what is left behind them."""
    body, kept = b"", b""
    for portion in portions:
        if reader.done:
            kept += portion
            continue
        data = kept + portion
        used = reader.feed(data)
        body, kept = body + data[:used], data[used:]
    return body, kept


CHUNKED = {
    "empty": b"0\r\n\r\n",
    "one": b"5\r\nhello\r\n0\r\n\r\n",
    "three": b"1\r\na\r\nC\r\nhello\r\n0\r\n\r\n\r\n3\r\n\r\n\r\r\n0\r\n\r\n",
    "hexadecimal": b"0000a\r\n0123456789\r\n000000000000000\r\n\r\n",
    "extensions": b'5;a;b=c;d="e;\\"f\\" \xe4"\r\nhello\r\n0;last\r\n\r\n',
    "spaced extensions": b'5; a = b;c\t=\t"d"\r\nhello\r\n0\r\n\r\n',
    "trailers": b"1\r\na\r\n0\r\nX-Sum: 5\r\nGrpc-Status:0\r\nx:\r\n\r\n",
    "not small": b"100\r\n"
    + bytes(256)
    + b"\r\n1fF\r\n"
    + b"\r\n" * 255
    + b"x\r\n0100\r\n"
    + b"0" * 256
    + b"\r\n0\r\n\r\n",
    "data that looks like framing": b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("data", CHUNKED.values(), ids=CHUNKED)
def test_a_chunked_body_ends_where_it_ends_however_it_arrives(data: bytes) -> None:
    behind = b"GET /next"
    whole = data + behind
    for split in range(len(whole) + 1):
        reader = Chunked(bad_request)
        assert feed_all(reader, [whole[:split], whole[split:]]) == (data, behind), split
        assert reader.done
    single = Chunked(bad_request)
    assert feed_all(single, [whole[i : i + 1] for i in range(len(whole))]) == (data, behind)


@pytest.mark.parametrize("data", CHUNKED.values(), ids=CHUNKED)
def test_a_chunked_body_is_complete_with_its_last_byte_only(data: bytes) -> None:
    for end in range(len(data)):
        reader = Chunked(bad_request)
        feed_all(reader, [data[:end]])
        assert not reader.done
        assert not reader.end_of_stream()


REFUSED = {
    "not small, and longer than it says": (b"100\r\n" + bytes(257) + b"\r\n0\r\n\r\n", "chunk_without_crlf"),
    "not small, and half an end": (b"100\r\n" + bytes(256) + b"\rx0\r\n\r\n", "chunk_without_crlf"),
    "no size": (b"\r\nhello", "invalid_chunk_size"),
    "negative": (b"-5\r\nhello\r\n", "invalid_chunk_size"),
    "plus": (b"+5\r\nhello\r\n", "invalid_chunk_size"),
    "0x": (b"0x5\r\nhello\r\n", "invalid_chunk_size"),
    "not hexadecimal": (b"g\r\n", "invalid_chunk_size"),
    "underscore": (b"1_0\r\n", "invalid_chunk_size"),
    "space in front": (b" 5\r\nhello\r\n", "invalid_chunk_size"),
    "space behind": (b"5 \r\nhello\r\n", "invalid_chunk_size"),
    "other digits": (b"\xd9\xa5\r\nhello\r\n", "invalid_chunk_size"),
    "16 digits": (b"0000000000000005\r\nhello\r\n", "invalid_chunk_size"),
    "overflow of 64 bits": (b"10000000000000005\r\nhello\r\n", "invalid_chunk_size"),
    "bare LF behind a size": (b"5\nhello\r\n", "invalid_chunk_size"),
    "bare CR behind a size": (b"5\rhello\r\n", "invalid_chunk_size"),
    "space before an extension": (b"5 ;a\r\nhello\r\n", "invalid_chunk_size"),
    "bare LF in an extension": (b"5;a\nb\r\nhello\r\n", "invalid_chunk_size"),
    "bare CR in an extension": (b"5;a\rb\r\nhello\r\n", "invalid_chunk_size"),
    "bare LF in a quoted extension": (b'5;a="\n"\r\nhello\r\n', "invalid_chunk_size"),
    "open quote": (b'5;a="b\r\nhello\r\n', "invalid_chunk_size"),
    "extension without a name": (b"5;\r\nhello\r\n", "invalid_chunk_size"),
    "extension without a value": (b"5;a=\r\nhello\r\n", "invalid_chunk_size"),
    "two values": (b"5;a=b=c\r\nhello\r\n", "invalid_chunk_size"),
    "chunk too long": (b"5\r\nhello!\r\n", "chunk_without_crlf"),
    "chunk too short": (b"5\r\nhell\r\n0\r\n\r\n", "chunk_without_crlf"),
    "bare LF behind a chunk": (b"5\r\nhello\n0\r\n\r\n", "chunk_without_crlf"),
    "bare CR behind a chunk": (b"5\r\nhello\r0\r\n\r\n", "chunk_without_crlf"),
    "folded trailer": (b"0\r\nX: y\r\n z\r\n\r\n", "invalid_trailers"),
    "trailer without a colon": (b"0\r\nwhat\r\n\r\n", "invalid_trailers"),
    "space before a trailer's colon": (b"0\r\nX : y\r\n\r\n", "invalid_trailers"),
    "NUL in a trailer": (b"0\r\nX: \x00\r\n\r\n", "invalid_trailers"),
    "bare LF in a trailer": (b"0\r\nX: y\n\r\n\r\n", "invalid_trailers"),
    "bare CR in a trailer": (b"0\r\nX: \ry\r\n\r\n", "invalid_trailers"),
    "bare LF for the last line": (b"0\r\n\n", "invalid_trailers"),
    "endless extension": (b"5;" + b"a" * MAX_CHUNK_LINE + b"\r\nhello\r\n", "chunk_extension_too_large"),
    "endless line": (b"5;" + b"a" * MAX_CHUNK_LINE, "invalid_chunk_size"),
    "endless trailer": (b"0\r\nX: " + b"y" * MAX_TRAILERS, "invalid_trailers"),
    "endless trailers": (b"0\r\n" + b"X: y\r\n" * (MAX_TRAILERS // 6 + 1), "trailers_too_large"),
    "too many trailers": (b"0\r\n" + b"X: y\r\n" * (MAX_TRAILERS // 6 + 1) + b"\r\n", "trailers_too_large"),
}


@pytest.mark.parametrize(("data", "details"), REFUSED.values(), ids=REFUSED)
def test_refused_chunked_bodies(data: bytes, details: str) -> None:
    with pytest.raises(MessageError) as caught:
        feed_all(Chunked(bad_request), [data])
    assert (caught.value.status, caught.value.details) == (400, f"http1.{details}")
    with pytest.raises(MessageError) as caught:
        feed_all(Chunked(bad_response), [data])
    assert (caught.value.status, caught.value.details) == (502, f"http1.{details}")


@pytest.mark.parametrize("data", [case[0] for case in REFUSED.values()], ids=REFUSED)
def test_what_is_refused_is_refused_at_every_split_point(data: bytes) -> None:
    step = max(1, len(data) // 64)
    for split in range(1, len(data), step):
        with pytest.raises(MessageError):
            feed_all(Chunked(bad_request), [data[:split], data[split:]])


@pytest.mark.parametrize(
    "name",
    [
        "Content-Length", "transfer-encoding", "HOST", "Connection", "Trailer", "TE", "Authorization", "Cookie",
        "x-forwarded-client-cert", "X-Forwarded-For", "x-envoy-peer-metadata", "X-Request-Id",
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [b"", b"X: y\r\n"])
def test_what_was_acted_on_before_the_body_must_not_come_behind_it(name: str, before: bytes) -> None:
    data = b"1\r\na\r\n0\r\n" + before + name.encode() + b": a\r\n\r\n"
    for split in range(len(data)):
        with pytest.raises(MessageError) as caught:
            feed_all(Chunked(bad_request), [data[:split], data[split:]])
        assert caught.value.details == "http1.forbidden_trailer"


@pytest.mark.parametrize("name", [b"X-Host", b"hosts", b"grpc-status", b"x", b"Not-TE"])
def test_other_trailers_pass(name: bytes) -> None:
    data = b"0\r\nX: Host: a\r\n" + name + b": a\r\n\r\n"
    reader = Chunked(bad_request)
    assert feed_all(reader, [data]) == (data, b"")
    assert reader.done


def test_a_fixed_body_ends_after_so_many_bytes() -> None:
    for split in range(8):
        reader = FixedLength(5)
        assert feed_all(reader, [b"helloX\r\n"[:split], b"helloX\r\n"[split:]]) == (b"hello", b"X\r\n")
        assert reader.done
    short = FixedLength(5)
    feed_all(short, [b"hell"])
    assert not short.done
    assert not short.end_of_stream()
    assert FixedLength(0).done


def test_a_body_until_close_is_complete_only_then() -> None:
    reader = UntilClose()
    assert reader.feed(b"anything") == 8
    assert not reader.done
    assert reader.end_of_stream()
    assert reader.done


def test_the_reader_follows_from_the_framing() -> None:
    assert isinstance(reader_for(None, bad_response), UntilClose)
    assert isinstance(reader_for(-1, bad_response), Chunked)
    fixed = reader_for(3, bad_response)
    assert isinstance(fixed, FixedLength)
    assert fixed.remaining == 3


@given(st.lists(st.binary(max_size=40), max_size=6), st.sampled_from([b"", b"t: 1\r\n"]), st.integers(1, 50))
def test_content_is_what_was_put_into_chunks(pieces: list[bytes], trailers: bytes, step: int) -> None:
    wire = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"00\r\n" + trailers
    wire += b"\r\n"
    reader, unchunked, content, kept = Chunked(bad_response), Unchunked(), b"", b""
    for start in range(0, len(wire), step):
        kept += wire[start : start + step]
        used = reader.feed(kept)
        content += unchunked.feed(kept[:used])
        kept = kept[used:]
    assert reader.done
    assert content == b"".join(pieces)


@pytest.mark.parametrize("size", [1, 9, 15, 16, 171, 255])
@pytest.mark.parametrize("form", ["%x", "%X", "%02x", "%03x"])
def test_runs_of_small_chunks_end_where_they_end(size: int, form: str) -> None:
    chunk = (form % size).encode() + b"\r\n" + b"\r" * size + b"\r\n"
    whole = chunk * 40 + b"0\r\n\r\n"
    for cut in range(len(chunk) * 2):
        reader = Chunked(bad_request)
        used = reader.feed(whole[:cut])
        rest = whole[used:] + b"next"
        assert (reader.feed(rest), reader.done) == (len(rest) - 4, True)


@pytest.mark.parametrize("line", [b"001", b"1;a", b"0000000ff"])
def test_a_flood_of_small_chunks_written_at_length_is_refused(line: bytes) -> None:
    size = int(line.partition(b";")[0], 16)
    chunk = line + b"\r\n" + b"z" * size + b"\r\n"
    reader = Chunked(bad_request)
    assert reader.feed(chunk * MAX_ODD_CHUNKS) == len(chunk) * MAX_ODD_CHUNKS
    with pytest.raises(MessageError, match="too_many_small_chunks"):
        reader.feed(chunk)
