"""Text to values with positions: what a person wrote, and where; never a crash, never a growth without bound."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pymesh.errors import ConfigError
from pymesh.resources import documents as module
from pymesh.resources.documents import Document, documents, plain


def only(text: str) -> Document:
    (found,) = documents(text, "f.yaml")
    assert isinstance(found, Document), found
    return found


def refusal(text: str) -> str:
    (found,) = documents(text, "f.yaml")
    assert isinstance(found, ConfigError), found
    return str(found)


def test_every_field_and_item_has_its_line_and_column() -> None:
    document = only("a: 1\nb:\n  - x\n  - c: 2\n    d: [5, 6]\n")
    assert document.value == {"a": 1, "b": ["x", {"c": 2, "d": [5, 6]}]}
    places = {path: str(document.positions.at(path)) for path in ("", "a", "b", "b[1]", "b[1].d", "b[1].d[1]")}
    assert places == {
        "": "f.yaml:1:1",
        "a": "f.yaml:1:1",
        "b": "f.yaml:2:1",
        "b[1]": "f.yaml:4:5",
        "b[1].d": "f.yaml:5:5",
        "b[1].d[1]": "f.yaml:5:12",
    }


def test_a_field_that_is_not_written_is_at_the_nearest_one_around_it() -> None:
    assert str(only("a:\n  b:\n    - 1").positions.at("a.b[7].c.d")) == "f.yaml:2:3"


def test_documents_are_read_one_by_one_and_a_broken_one_leaves_the_others() -> None:
    found = list(documents("# nothing\n---\na: 1\n---\nb: [\n---\n\n---\nc: 3\n...\nd: 4\n", "f.yaml"))
    assert [item.value for item in found if isinstance(item, Document)] == [{"a": 1}, {"c": 3}, {"d": 4}]
    (broken,) = [item for item in found if isinstance(item, ConfigError)]
    assert broken.position is not None
    assert broken.position.line in {5, 6}


def test_the_documents_of_a_file_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DOCUMENTS", 3)
    text = "a: 1\n---\n# nothing\n---\nb: 2\n"
    assert all(isinstance(item, Document) for item in documents(text, "f.yaml"))
    *read, error = documents(f"{text}---\nc: 3\n---\nd: 4\n", "f.yaml")
    assert [item.value for item in read if isinstance(item, Document)] == [{"a": 1}, {"b": 2}]
    assert str(error).startswith("f.yaml:6:1: there are more than 3 documents")


def test_a_separator_within_a_block_of_text_ends_the_document_as_yaml_says() -> None:
    first, second = documents("a: |\n  text\n---\nb: 1", "f.yaml")
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert (first.value, second.value) == ({"a": "text\n"}, {"b": 1})


def test_json_may_have_tabs() -> None:
    assert only('{\n\t"a":\t[1,\t2]\n}').value == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a:\n\tb: 1", "f.yaml:2:1: malformed YAML: there is a tab in the indentation: use spaces"),
        ("a: b: c", "f.yaml:1:5: malformed YAML: a second ':' in this line, or wrong indentation"),
        ("a: @x", "f.yaml:1:4: malformed YAML: a value cannot start with this character: put it in quotes"),
        ("a: 1\nb: 2\na: 3", "f.yaml:3:1: a: 'a' is given twice, first in line 1"),
        ("x:\n  a: 1\n  a: 3", "f.yaml:3:3: x.a: 'a' is given twice, first in line 2"),
        ("a: *x", "f.yaml:1:4: *x refers to an anchor that is not written before it"),
        ("a: &x [*x]", "f.yaml:1:8: *x refers to an anchor"),
        ("- 1", "f.yaml:1:1: a resource is a group of fields (apiVersion, kind, ...), not a list"),
        ("word", "not the text 'word'"),
        (
            "a: !!python/object:os.system x",
            "1:4: the tag tag:yaml.org,2002:python/object:os.system means nothing",
        ),
        ("? [a]\n: b", "f.yaml:1:3: the name of a field is a single word"),
        ("b: 1\na: \x07", "f.yaml:2:4: malformed YAML: the character U+0007 is not allowed"),
        ("a: \ud800", "f.yaml:1:4: malformed YAML: the character U+D800 is not allowed"),
        ("base: &b {x: 1}\na:\n  <<: *b", "f.yaml:3:3: merge keys (<<) are not supported"),
        ("{a: 1}\n{b: 1}", "f.yaml:2:1: malformed YAML"),
    ],
)
def test_a_mistake_is_explained_at_its_place(text: str, sentence: str) -> None:
    assert sentence in refusal(text)


def test_aliases_stand_for_their_value() -> None:
    assert only("a: &x {b: 1}\nc: [*x, *x]").value == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}


def test_a_small_file_cannot_become_a_large_value() -> None:
    rows = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    rows += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    assert f"more than {module.MAX_NODES} values" in refusal("\n".join(rows))


def test_deep_nesting_is_refused_before_the_stack_feels_it() -> None:
    assert f"nested deeper than {module.MAX_DEPTH}" in refusal("[" * 1_000_000)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1", 1), ("-7", -7), ("0x1f", 31), ("0o17", 15), ("017", 15), ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0),
        ("true", True), ("No", False), ("", None), ("~", None), ("08", "08"), ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"), ("1.2.3", "1.2.3"), ("10s", "10s"), ("_", "_"), ("9" * 30, "9" * 30),
    ],
)  # fmt: skip
def test_plain_words(word: str, value: object) -> None:
    assert plain(word) == value
    assert type(plain(word)) is type(value)


printable = st.text(st.characters(min_codepoint=32, max_codepoint=126))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | printable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcd", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abcd", min_size=1), json_values, min_size=1))
def test_json_is_read_as_json_whatever_it_says(value: dict[str, object]) -> None:
    for indent in (None, 2):
        assert only(json.dumps(value, indent=indent)).value == json.loads(json.dumps(value))


@given(st.dictionaries(st.text("abcd", min_size=1), printable, min_size=1))
def test_block_yaml_is_read_back(value: dict[str, object]) -> None:
    # PyYAML leaves 1e3 without quotes, since YAML 1.1 wants a dot in a number; Kubernetes reads a number there.
    assert only(yaml.safe_dump(value, default_style="'")).value == value


@given(st.text(st.sampled_from("ab:-[]{}#&*!|>'\"%@` \n\t.0\ud800\x00é")))
def test_any_text_is_documents_or_refusals_with_a_position(text: str) -> None:
    for found in documents(text, "f"):
        if isinstance(found, ConfigError):
            assert found.position is not None
            assert 1 <= found.position.line <= text.count("\n") + 2
