"""YAML and JSON are read strictly, and every part is found again by its path."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.errors import ConfigError, Position
from pymesh.xds.text import MAX_NESTING, camel_case, parse


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, "file.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "line", "column", "problem"),
    [
        ("a: [1", 2, 1, "not YAML"),
        ("a: 1\nb: 2\na: 3\n", 3, 1, "'a' is given twice"),
        ("x:\n  - {k: 1, k: 2}\n", 2, 12, "'k' is given twice"),
        ("a: *nowhere\n", 1, 4, "undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, 1, "single document"),
        ("a: !!python/object:os.system {}\n", 1, 4, "python"),
        ("a: !!timestamp 2026-01-01\n", 1, 4, "timestamp"),
        ("? [a, b]\n: 1\n", 1, 3, "a single word"),
        ("\ta: 1\n", 1, 1, "cannot start any token"),
        ('{"a": [}', 1, 8, "not YAML"),
        ('{"a": 1,\n "a": 2}', 2, 2, "'a' is given twice"),
        ('{"a": NaN}', 0, 0, "NaN"),
        ("", 0, 0, "empty"),
        ("\x00", 0, 0, "not YAML"),
    ],
)
def test_malformed_text_is_refused_with_its_place(text: str, line: int, column: int, problem: str) -> None:
    error = refused(text)
    assert problem in str(error)
    assert error.position == Position("file.yaml", line, column)


def test_a_file_called_json_has_to_be_json() -> None:
    with pytest.raises(ConfigError, match="not JSON") as caught:
        parse("{a: 1}", "file.json")
    assert caught.value.position == Position("file.json", 1, 2)


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, '{"a":' * 100_000, "&a [*a]", "a: &a {b: *a}"])
def test_nesting_without_end_is_refused_and_does_not_crash(text: str) -> None:
    assert f"more than {MAX_NESTING} levels" in refused(text).problem


def test_aliases_that_multiply_are_refused() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "values" in refused("\n".join(levels)).problem


def test_scalars_are_those_of_the_core_schema() -> None:
    text = "[on, yes, no, 1:30, 2026-01-01, 007, 0x10, 1e3, .5, -3, ~, null, True, '1', =, 1_000]"
    assert parse(text, "f").data == [
        "on", "yes", "no", "1:30", "2026-01-01", "007", 16, 1000.0, 0.5, -3, None, None, True, "1", "=", "1_000",
    ]  # fmt: skip


def test_merge_keys_and_aliases_work() -> None:
    assert parse("base: &b {a: 1}\nuse: {<<: *b, c: 2}\n", "f").data == {"base": {"a": 1}, "use": {"a": 1, "c": 2}}


def test_positions_are_found_by_path_in_either_spelling() -> None:
    document = parse('a:\n- x: 1\n- socketAddress:\n    portValue: 5\nm: {"k.v": {z: 1}}\n', "f")
    assert document.position("a[1].socket_address.port_value") == Position("f", 4, 5)
    assert document.position("a[0].x") == Position("f", 2, 3)
    assert document.position('m["k.v"].z') == Position("f", 5, 13)
    assert document.position("a[1].nothing.here") == Position("f", 3, 3)
    assert document.position("a[9]") == Position("f", 1, 1)


def test_json_keeps_its_values_and_its_places_even_with_tabs() -> None:
    document = parse('{\n\t"a": {"b": [1e3, "on"]}\n}', "f.json")
    assert document.data == {"a": {"b": [1000.0, "on"]}}
    assert document.position("a.b") == Position("f.json", 2, 8)


def test_json_that_is_not_yaml_is_read_without_places() -> None:
    document = parse(r'{"a": "\ud83d\ude00"}', "f.json")
    assert document.data == {"a": "\N{GRINNING FACE}"}


def test_camel_case() -> None:
    assert [camel_case(name) for name in ("name", "virtual_hosts", "http1_options")] == [
        "name", "virtualHosts", "http1Options",
    ]  # fmt: skip


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert parse(text, "f").position("a.b[0]").file == "f"


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_json_reads_back_as_it_was(data: dict[str, object]) -> None:
    assert parse(json.dumps(data), "f").data == data
