"""Metadata and deadlines as headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.grpc.metadata import MetadataError, decode_metadata, decode_timeout, encode_metadata, encode_timeout

KEYS = st.from_regex(r"x[a-z0-9_.-]{0,8}", fullmatch=True).filter(lambda key: not key.endswith("-bin"))
TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20).map(str.strip)


@given(st.lists(st.one_of(st.tuples(KEYS, TEXTS), st.tuples(KEYS.map(lambda key: f"{key}-bin"), st.binary()))))
def test_metadata_survives_the_wire(metadata: list[tuple[str, str | bytes]]) -> None:
    assert decode_metadata(encode_metadata(metadata)) == metadata


def test_what_is_grpcs_own_is_no_metadata() -> None:
    headers = [(b":path", b"/x"), (b"grpc-status", b"0"), (b"te", b"trailers"), (b"content-type", b"a"), (b"x-a", b"1")]
    assert decode_metadata(headers) == [("x-a", "1")]


def test_several_binary_values_in_one_header_and_padding() -> None:
    assert decode_metadata([(b"a-bin", b"AQ==,Ag")]) == [("a-bin", b"\x01"), ("a-bin", b"\x02")]


@pytest.mark.parametrize(
    "entry",
    [
        ("Upper", "x"),
        ("grpc-x", "x"),
        ("te", "x"),
        ("", "x"),
        ("a b", "x"),
        ("x", "line\nbreak"),
        ("x", " blank"),
        ("x", "blank "),
        ("x", " "),
        ("x", b"bytes"),
        ("x-bin", "text"),
    ],
)
def test_what_may_not_be_sent(entry: tuple[str, str | bytes]) -> None:
    with pytest.raises(MetadataError):
        encode_metadata([entry])


def test_binary_that_is_not_base64() -> None:
    with pytest.raises(MetadataError, match="a-bin"):
        decode_metadata([(b"a-bin", b"*")])


@pytest.mark.parametrize(
    ("seconds", "wire"),
    [
        (0.0, b"0m"),
        (1e-9, b"1m"),
        (0.05, b"50m"),
        (0.0492, b"50m"),
        (99_999.0, b"99999000m"),
        (100_000.0, b"100000S"),
        (1e15, b"99999999H"),
    ],
)
def test_timeouts(seconds: float, wire: bytes) -> None:
    assert encode_timeout(seconds) == wire


@given(st.floats(min_value=0, max_value=1e9))
def test_a_timeout_is_never_shortened(seconds: float) -> None:
    decoded = decode_timeout(encode_timeout(seconds))
    assert decoded >= seconds * (1 - 1e-12)
    assert decoded <= seconds * 1.001 + 1e-3


@pytest.mark.parametrize("wire", [b"", b"1", b"S", b"-1S", b"123456789S", b"1s", b"1S "])
def test_what_is_no_timeout(wire: bytes) -> None:
    with pytest.raises(MetadataError):
        decode_timeout(wire)
