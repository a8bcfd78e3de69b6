"""The hashes of consistent hashing are the published functions, bit for bit."""

import pytest

from pymesh_proxy.upstream.hashing import murmur2, xxh64, xxh64_of_all


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # Test vectors of the reference implementation.
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
        # Envoy's, in test/common/common/hash_test.cc.
        (b"foo", 3728699739546630719),
        (b"bar", 5234164152756840025),
        (b"foo\nbar", 8917841378505826757),
        (b"lyft", 4400747396090729504),
        (b"", 17241709254077376921),
    ],
)
def test_xxh64(data: bytes, expected: int) -> None:
    assert xxh64(data) == expected


def test_several_values_are_hashed_as_envoy_does() -> None:
    assert xxh64_of_all([b"foo", b"bar"]) == 17745830980996999794, "hash_test.cc, xxHashWithVector"


# std::hash<std::string> of libstdc++ 12 on 64 bits, which Envoy's function is a copy of.
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 6142509188972423790),
        (b"foo", 9631199822919835226),
        (b"foo\nbar", 16306510975912980159),
        (b"10.0.0.1:8080_12345", 1688671186167798505),
    ],
)
def test_murmur2(data: bytes, expected: int) -> None:
    assert murmur2(data) == expected


def test_one_value_is_hashed_like_itself() -> None:
    assert xxh64_of_all([b"a"]) == xxh64(b"a")
