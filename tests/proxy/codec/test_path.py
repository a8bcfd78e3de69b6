"""Paths in one form: what is taken away, what stays, and that nothing comes back by another round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.codec.path import merge_slashes, normalize, unescape_slashes

# Made of the pieces that matter, in every order.
PIECES = st.sampled_from(
    [b"/", b"//", b".", b"..", b"%2e", b"%2E", b"%2f", b"%5c", b"\\", b"a", b"%", b"%25", b"%41", b"2", b"e", b'"']
)
PATHS = st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces))


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (b"/a/./b/../c", b"/a/c"),
        (b"/a/%2E%2e/b", b"/b"),
        (b"/..", b"/"),
        (b"/a/..", b"/"),
        (b"/a/.", b"/a/"),
        (b"/a//../b", b"/a/b"),
        (b"/.../..a/b..", b"/.../..a/b.."),
        (b"/a\\..\\b", b"/b"),
        (b"/%41%7e%2D%c3%A9%20", b"/A~-%c3%A9%20"),
        (b"/%2%65", b"/%2e"),
        (b"/%252e", b"/%252e"),
        (b"/%zz%", b"/%zz%"),
        (b'/{"|}', b"/%7B%22%7C%7D"),
        (b"/a/../b?x=/../%41\\", b"/b?x=/../%41\\"),
    ],
)
def test_normal_form(given_: bytes, expected: bytes) -> None:
    assert normalize(given_) == expected


def test_an_escaped_nul_is_refused_in_the_path_only() -> None:
    with pytest.raises(ValueError, match="NUL"):
        normalize(b"/a%00")
    assert normalize(b"/a?%00") == b"/a?%00"


@pytest.mark.parametrize(
    ("given_", "expected"),
    [(b"/a//b///", b"/a/b/"), (b"//a", b"/a"), (b"/a?b//c", b"/a?b//c"), (b"/", b"/"), (b"///", b"//")],
)
def test_slashes_are_merged(given_: bytes, expected: bytes) -> None:
    assert merge_slashes(given_) == expected


def test_escaped_slashes() -> None:
    assert unescape_slashes(b"/a%2Fb%2f%5C%5c%2e?c=%2f") == b"/a/b/\\\\%2e?c=%2f"
    assert unescape_slashes(b"/a?c=%2f") == b"/a?c=%2f"


@given(PATHS)
def test_a_normal_path_has_no_way_up_whatever_it_was(path: bytes) -> None:
    normal = normalize(unescape_slashes(path))
    assert normal.startswith(b"/")
    assert not {b".", b".."} & set(normal.split(b"/"))
    assert b"\\" not in normal
    assert normalize(path).count(b"/") <= path.count(b"/") + path.count(b"\\")


@given(st.binary(max_size=40).filter(lambda data: b"%00" not in data))
def test_any_bytes_come_through(data: bytes) -> None:
    merge_slashes(normalize(unescape_slashes(b"/" + data)))
