"""Values that filters have told; tests/conformance/test_rbac.py compares those that both proxies have with Envoy."""

import pytest
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher

from pymesh.errors import ConfigError
from pymesh_proxy.config.value_matchers import MAX_DEPTH, metadata
from tests.support.xds import message

TOLD = {
    "jwt": {
        "payload": {
            "iss": "https://a.test", "groups": ["readers", "writers"], "age": 18, "ratio": 0.5, "admin": False,
            "nothing": None, "deep": {"er": ["x"]}, "1": "one",
        }
    }
}  # fmt: skip


def matches(keys: str, value: str, more: str = "") -> bool:
    path = ", ".join(f"{{key: '{key}'}}" for key in keys.split())
    text = f"{{filter: jwt, path: [{{key: payload}}, {path}], value: {{{value}}}{more}}}"
    return metadata(message(MetadataMatcher, text), "m")(TOLD)


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        ("iss", "string_match: {exact: 'https://a.test'}", True),
        ("iss", "string_match: {suffix: .test}", True),
        ("iss", "string_match: {exact: a}", False),
        ("age", "string_match: {exact: '18'}", False),
        ("age", "double_match: {exact: 18}", True),
        ("age", "double_match: {range: {start: 18, end: 19}}", True),
        ("age", "double_match: {range: {start: 1, end: 18}}", False),
        ("ratio", "double_match: {exact: 0.5}", True),
        ("admin", "double_match: {exact: 0}", False),
        ("admin", "double_match: {range: {start: 0, end: 1}}", False),
        ("admin", "bool_match: false", True),
        ("age", "bool_match: true", False),
        ("nothing", "null_match: {}", True),
        ("nothing", "present_match: true", True),
        ("missing", "null_match: {}", False),
        ("missing", "present_match: true", False),
        ("missing", "present_match: false", False),
        ("iss missing", "present_match: true", False),
        ("groups", "list_match: {one_of: {string_match: {exact: writers}}}", True),
        ("groups", "list_match: {one_of: {string_match: {exact: owners}}}", False),
        ("iss", "list_match: {one_of: {string_match: {prefix: h}}}", False),
        ("groups", "string_match: {exact: writers}", False),
        ("deep er", "list_match: {one_of: {string_match: {exact: x}}}", True),
        ("iss", "or_match: {value_matchers: [{bool_match: true}, {string_match: {prefix: h}}]}", True),
        ("age", "or_match: {value_matchers: [{bool_match: true}, {string_match: {prefix: h}}]}", False),
    ],
)
def test_what_matches(keys: str, value: str, expected: bool) -> None:
    assert matches(keys, value) is expected
    assert matches(keys, value, ", invert: true") is not expected


def test_what_nobody_told_matches_nothing() -> None:
    found = metadata(message(MetadataMatcher, "{filter: other, path: [{key: a}], value: {present_match: true}}"), "m")
    assert not found({})
    assert not found(TOLD)


def deep(levels: int) -> str:
    return "list_match: {one_of: {" * levels + "present_match: true" + "}}" * levels


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("{path: [{key: a}], value: {present_match: true}}", "m.filter"),
        ("{filter: f, value: {present_match: true}}", "m.path"),
        ("{filter: f, path: [{}], value: {present_match: true}}", "m.path[0]"),
        ("{filter: f, path: [{key: ''}], value: {present_match: true}}", "m.path[0].key"),
        ("{filter: f, path: [{key: a}]}", "m.value"),
        ("{filter: f, path: [{key: a}], value: {list_match: {}}}", "m.value.list_match"),
        ("{filter: f, path: [{key: a}], value: {double_match: {}}}", "m.value.double_match"),
        ("{filter: f, path: [{key: a}], value: {or_match: {value_matchers: [{null_match: {}}]}}}", "value_matchers"),
        (f"{{filter: f, path: [{{key: a}}], value: {{{deep(MAX_DEPTH)}}}}}", "one_of"),
    ],
)
def test_what_is_refused(text: str, path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        metadata(message(MetadataMatcher, text), "m")
    assert path in str(refused.value)
