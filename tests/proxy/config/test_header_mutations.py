"""Folding header changes beforehand comes to the same as applying them level by level."""

import pytest
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from hypothesis import given
from hypothesis import strategies as st

from pymesh.errors import ConfigError
from pymesh_proxy.config.header_mutations import Level, fold, level
from pymesh_proxy.routing import HeaderMutation

APPEND = HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
IF_ABSENT = HeaderValueOption.ADD_IF_ABSENT
OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

Headers = dict[bytes, list[bytes]]


def step_by_step(levels: list[Level], headers: Headers) -> Headers:
    found = {name: list(values) for name, values in headers.items()}
    for one in levels:
        for name in one.remove:
            found.pop(name, None)
        for action, name, value in one.add:
            if action == OVERWRITE:
                found[name] = [value]
            elif action == APPEND:
                found.setdefault(name, []).append(value)
            else:
                found.setdefault(name, [value])
    return found


def at_once(mutation: HeaderMutation, headers: Headers) -> Headers:
    """What the data path does: remove, set, set if absent, add."""
    found = {name: list(values) for name, values in headers.items()}
    for name in mutation.remove:
        found.pop(name, None)
    for name, value in mutation.set:
        found[name] = [value]
    for name, value in mutation.set_if_absent:
        found.setdefault(name, [value])
    for name, value in mutation.add:
        found.setdefault(name, []).append(value)
    return found


names = st.sampled_from([b"a", b"b"])
values = st.sampled_from([b"1", b"2", b"3"])
levels = st.builds(
    Level,
    st.lists(names, max_size=2).map(tuple),
    st.lists(st.tuples(st.sampled_from([APPEND, IF_ABSENT, OVERWRITE]), names, values), max_size=4).map(tuple),
)


@given(st.lists(levels, max_size=3), st.dictionaries(names, st.lists(values, min_size=1, max_size=2)))
def test_folding_changes_nothing(stack: list[Level], headers: Headers) -> None:
    assert at_once(fold(stack), headers) == step_by_step(stack, headers)


def option(key: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key=key, value=value))


def test_names_are_lower_case_percent_signs_doubled_and_empty_values_left_out() -> None:
    found = level([option("X-A", "100%%"), option("x-empty", "")], ["X-B"], "add", "remove")
    assert found == Level((b"x-b",), ((APPEND, b"x-a", b"100%"),))


@pytest.mark.parametrize(
    ("key", "value", "path", "problem"),
    [
        (":path", "x", "add[0].header.key", "must not be changed"),
        ("Host", "x", "add[0].header.key", "must not be changed"),
        ("a b", "x", "add[0].header.key", "not a header name"),
        ("", "x", "add[0].header.key", "not a header name"),
        ("a", "x\r\ny: z", "add[0].header.value", "control characters"),
        ("a", "%DOWNSTREAM_REMOTE_ADDRESS%", "add[0].header.value", "command operators"),
        ("a", "5%", "add[0].header.value", "write `%%`"),
    ],
)
def test_refusals(key: str, value: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        level([option(key, value)], [], "add", "remove")
    assert caught.value.path == path


def test_a_protected_name_is_not_removed() -> None:
    with pytest.raises(ConfigError, match="host_rewrite_literal") as caught:
        level([], ["ok", "host"], "add", "remove")
    assert caught.value.path == "remove[1]"
