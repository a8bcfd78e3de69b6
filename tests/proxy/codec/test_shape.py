"""Shapes: what they say of names, that no other head is taken for one, and that strangers cannot make them many."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from pymesh_proxy.codec import shape as shapes
from pymesh_proxy.codec.shape import HOP_BY_HOP, NO_FIELDS, known_without, shape_of, without

# RFC 9112 section 5, field-line: no blank before the colon, and of controls the tab only.
LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")

PIECES = st.sampled_from(
    [b"Host", b"x-a", b"X_B", b":", b": ", b"v", b" ", b"\t", b"\r", b"\n", b"\x00", b"\x7f", b"\xff", b"("]
)
GOOD = st.sampled_from(
    [b"Host: a", b"x-a:1", b"X-A: 2 ", b"X_B: \xe4", b"Connection: close", b"TE:", b"Content-Length: 5"]
)
LINES = st.lists(st.one_of(GOOD, st.lists(PIECES, max_size=4).map(b"".join)), max_size=6)


@given(LINES, st.lists(GOOD, max_size=6))
@example([b"Host"], [b"Host: a"])
@example([b"Hosta: b"], [b"Host: a"])
@example([b"x-a:1", b"x-a:1"], [b"x-a:1"])
@example([b"x-a:\r", b"x-a:\n"], [b"x-a:1", b"x-a:1"])
def test_a_shape_is_found_where_every_line_is_a_field_whatever_is_expected(
    lines: list[bytes], before: list[bytes]
) -> None:
    like = shape_of(before)
    assert like is not None
    found = shape_of(lines, like)
    assert (found is not None) is all(LINE.fullmatch(line) for line in lines)
    assert shape_of(lines) is found
    if found is not None:
        names = tuple(line.partition(b":")[0].lower() for line in lines)
        assert found.names == names
        assert found.where == {name: names.index(name) for name in names}
        assert set(found.repeated) == {name for name in names if names.count(name) > 1}
        assert found.framing is any(name in {b"content-length", b"connection"} for name in names)
        assert found.hop_by_hop is not HOP_BY_HOP.isdisjoint(names)
        assert found.underscored is any(b"_" in name for name in names)


def test_heads_alike_have_one_shape_and_others_another() -> None:
    one = shape_of([b"Host: a", b"X-A: 1"])
    assert one is not None
    assert shape_of([b"Host:b", b"X-A:"], one) is one
    assert shape_of([b"Host: b", b"X-A: 2"]) is one
    for other in ([b"host: a", b"X-A: 1"], [b"X-A: 1", b"Host: a"], [b"Host: a"], [b"Host: a", b"X-A: 1", b"X-B: 1"]):
        assert shape_of(other, one) not in {one, None}


def test_repeated_names_come_in_the_order_of_their_second_field() -> None:
    found = shape_of([b"a:", b"b:", b"c:", b"b:", b"B:", b"A:"])
    assert found is not None
    assert found.repeated == (b"b", b"a")


def test_what_is_left_has_a_shape_that_no_head_is_compared_with() -> None:
    whole = shape_of([b"a:1", b"b:2", b"a:3", b"c:4"])
    assert whole is not None
    places, rest = without(whole, frozenset({b"a", b"x"}))
    assert (places, rest.names) == ((2, 0), (b"b", b"c"))
    assert shape_of([b"b:2", b"c:4"], rest) not in {rest, None}
    assert without(whole, frozenset({b"x"})) == ((), whole)
    _, nothing = without(whole, frozenset(whole.names))
    assert shape_of([b"b:2"], nothing) is not nothing
    assert shape_of([], whole) is shape_of([], rest) is NO_FIELDS


def test_however_many_shapes_strangers_make_few_are_kept_and_no_large_one() -> None:
    for number in range(3 * shapes._KEPT):
        found = shape_of([b"x-%d: 1" % number])
        assert found is not None
        assert found.small
        known_without(found, HOP_BY_HOP)
    assert len(shapes._kept) <= shapes._KEPT
    for lines in ([b"x-%d:" % number for number in range(100)], [b"x" * 2000 + b": 1"]):
        found = shape_of(lines)
        assert found is not None
        assert not found.small
        assert found.prefixes == ()
        assert found not in shapes._kept.values()
        assert shape_of(lines, found) is not found
