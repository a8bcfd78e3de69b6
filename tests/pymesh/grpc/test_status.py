"""Status codes, and error texts on the wire."""

from hypothesis import given
from hypothesis import strategies as st

from pymesh.grpc.status import (
    MAX_STATUS_MESSAGE_BYTES,
    Code,
    RpcError,
    Status,
    decode_message,
    encode_message,
    status_of_http,
    status_of_reset,
)


@given(st.text(max_size=200))
def test_texts_survive_the_wire_as_printable_ascii(text: str) -> None:
    wire = encode_message(text)
    assert all(0x20 <= byte <= 0x7E for byte in wire)
    assert decode_message(wire) == text.encode("utf-8", "replace").decode()


def test_only_what_must_be_is_encoded() -> None:
    assert encode_message('clusters[0].type: "x", 100%\nü') == b'clusters[0].type: "x", 100%25%0A%C3%BC'


def test_no_error_text_begins_or_ends_with_a_blank() -> None:
    """RFC 9113 section 8.2.1: a field value that does is malformed, and ends the call in another way than was meant."""
    for text, wire in ((" ", b"%20"), ("  ", b"%20%20"), (" a b  ", b"%20a b %20"), ("\ta", b"%09a")):
        assert encode_message(text) == wire
        assert decode_message(wire) == text


def test_bad_encoding_is_kept_and_length_is_bounded() -> None:
    assert decode_message(b"50% of %zz") == "50% of %zz"
    assert len(encode_message("%" * 10_000)) == 3 * MAX_STATUS_MESSAGE_BYTES
    assert len(decode_message(b"a" * 100_000)) <= 3 * MAX_STATUS_MESSAGE_BYTES


def test_foreign_errors_become_statuses() -> None:
    assert status_of_http(503).code is Code.UNAVAILABLE
    assert status_of_http(404).code is Code.UNIMPLEMENTED
    assert status_of_http(200).code is Code.UNKNOWN
    assert status_of_reset(8).code is Code.CANCELLED
    assert status_of_reset(7).code is Code.UNAVAILABLE
    assert status_of_reset(1).code is Code.INTERNAL


def test_an_error_says_its_status() -> None:
    assert str(RpcError(Status(Code.UNAVAILABLE, "connection refused"))) == "UNAVAILABLE: connection refused"
    assert str(RpcError(Status(Code.CANCELLED))) == "CANCELLED"
