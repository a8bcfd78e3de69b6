"""JSON Patches: what they make, and that they say no more than they have to."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh_controlplane.webhooks.patch import patch, same
from tests.support.kubernetes.patches import json_patch

LEAVES = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "~/x", "1"])
NAMED = st.fixed_dictionaries({"name": st.sampled_from("abcd")}, optional={"v": LEAVES, "w": st.lists(LEAVES)})
VALUES = st.recursive(
    LEAVES | st.lists(NAMED, max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b/", "~1", ""]), inner),
    max_leaves=12,
)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_a_patch_makes_the_one_of_the_other(before: object, after: object) -> None:
    operations = patch(before, after)
    assert same(json_patch(copy.deepcopy(before), [dict(each) for each in operations]), after)
    assert bool(operations) != same(before, after)


@settings(deadline=None)
@given(st.lists(NAMED, max_size=4), st.lists(NAMED, max_size=4))
def test_lists_of_named_items_become_each_other(before: list[Any], after: list[Any]) -> None:
    made = json_patch(
        {"items": copy.deepcopy(before)}, [dict(each) for each in patch({"items": before}, {"items": after})]
    )
    assert same(made, {"items": after})


@pytest.mark.parametrize(
    ("before", "after", "operations"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": True}, [{"op": "replace", "path": "/a", "value": True}]),
        ({}, {"b/c~": 1}, [{"op": "add", "path": "/b~1c~0", "value": 1}]),
        ({"a": 1}, {}, [{"op": "remove", "path": "/a"}]),
        ({"a": [1]}, {"a": [1, 2]}, [{"op": "replace", "path": "/a", "value": [1, 2]}]),
        (
            [{"name": "app", "image": "x"}, {"name": "old"}],
            [{"name": "new"}, {"name": "app", "image": "y"}],
            [
                {"op": "remove", "path": "/1"},
                {"op": "add", "path": "/0", "value": {"name": "new"}},
                {"op": "replace", "path": "/1/image", "value": "y"},
            ],
        ),
        (  # two of one name: nobody can say which is which
            [{"name": "a"}, {"name": "a"}],
            [{"name": "a"}],
            [{"op": "replace", "path": "", "value": [{"name": "a"}]}],
        ),
    ],
)
def test_a_patch_touches_what_differs_and_nothing_else(before: object, after: object, operations: object) -> None:
    assert patch(before, after) == operations
