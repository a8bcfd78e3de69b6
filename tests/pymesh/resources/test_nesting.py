"""What is nested too deep is found and cut off without recursion."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.resources.nesting import cut, is_deeper

DEPTH = 5_000
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text('ab\\"[]{}\n\u00e4'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('k"\\[{'), inner, max_size=3),
    max_leaves=12,
)


def depth(value: Any) -> int:
    if not isinstance(value, (dict, list)):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


def shortened(value: Any, levels: int) -> Any:
    """What `cut` is to make of `value`, said with recursion."""
    if not isinstance(value, (dict, list)):
        return value
    if levels == 0:
        return []
    if isinstance(value, dict):
        return {name: shortened(item, levels - 1) for name, item in value.items()}
    return [shortened(item, levels - 1) for item in value]


@given(VALUES, st.integers(0, 6))
def test_values_are_deeper_than_any_level_above_their_own(value: Any, levels: int) -> None:
    assert is_deeper(value, levels) == (depth(value) > levels)


@given(VALUES, st.integers(0, 6), st.booleans())
def test_what_is_deeper_is_cut_and_nothing_else(value: Any, levels: int, ascii_only: bool) -> None:
    found = json.loads(cut(json.dumps(value, ensure_ascii=ascii_only).encode(), levels))
    assert found == shortened(value, levels)
    assert is_deeper(found, levels) == is_deeper(value, levels)


def test_thousands_of_levels_are_no_matter() -> None:
    data = b'{"a":' * DEPTH + b"1" + b"}" * DEPTH
    assert cut(data, 2) == b'{"a":{"a":[]}}'
    value: Any = 1
    for _ in range(DEPTH):
        value = [value]
    assert (is_deeper(value, DEPTH - 1), is_deeper(value, DEPTH)) == (True, False)


@pytest.mark.parametrize("data", [b"[" * DEPTH, b'{"a": [1', b'["a]', b'["a\\'])
def test_what_ends_too_early_is_no_json(data: bytes) -> None:
    with pytest.raises(ValueError, match="too early"):
        cut(data, 3)
