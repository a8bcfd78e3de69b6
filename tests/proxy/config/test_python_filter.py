"""Filters in plain Python, from the configuration: what is loaded, what is made of it, what is refused."""

import gc
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from xds.type.v3.typed_struct_pb2 import TypedStruct

from pymesh.errors import ConfigError
from pymesh.xds import types
from pymesh_proxy.config.http_manager import HTTP_FILTERS
from pymesh_proxy.config.python_filter import PYTHON_TYPE, named_filter, python_filter
from tests.support.xds import message


class Good:
    """A filter."""

    made = 0

    def __init__(self, config: Mapping[str, object]) -> None:
        Good.made += 1
        self.config = config

    def on_request(self, request: object) -> None:
        """Let everything pass."""


class Refuses:
    """A filter that wants a configuration."""

    def __init__(self, config: Mapping[str, object]) -> None:
        raise KeyError("keys")

    def on_complete(self, request: object) -> None:
        """Never called."""


class Waits:
    """A filter that wants to wait where nothing waits."""

    async def on_response(self, request: object, response: object) -> None:
        """Never called."""


class WithoutConfiguration:
    """A filter that has none to take."""

    def on_complete(self, request: object) -> None:
        """Never called."""


class Narrow:
    """A filter whose hook takes too little."""

    def on_response(self, request: object) -> None:
        """Never called."""


class NoHook:
    """No filter."""


HERE = __name__


def compiled(value: str) -> object:
    return python_filter(message(TypedStruct, f"{{type_url: {PYTHON_TYPE}, value: {value}}}"), "f")


def test_an_instance_stays_for_as_long_as_somebody_has_it() -> None:
    before = Good.made
    kept = [
        compiled(f"{{class: '{HERE}:Good', config: {{b: [1, two], a: {{}}}}}}"),
        compiled(f"{{config: {{a: {{}}, b: [1, two]}}, class: '{HERE}:Good', timeout: 1s}}"),
    ]
    assert Good.made == before + 1
    other = compiled(f"{{class: '{HERE}:Good', config: {{b: [1, three]}}}}")
    assert Good.made == before + 2
    del kept, other
    gc.collect()
    compiled(f"{{class: '{HERE}:Good', config: {{b: [1, two], a: {{}}}}}}")
    assert Good.made == before + 3, "what nobody has any more does not come back"


def test_a_class_need_not_take_a_configuration() -> None:
    named_filter(f"{HERE}:WithoutConfiguration")
    compiled(f"{{class: '{HERE}:WithoutConfiguration'}}")
    with pytest.raises(ConfigError, match="cannot be made: TypeError"):
        compiled(f"{{class: '{HERE}:WithoutConfiguration', config: {{a: 1}}}}")


def test_a_filter_of_the_command_line() -> None:
    found = named_filter(f"{HERE}:Good")
    assert found.name == f"{HERE}:Good"
    with pytest.raises(ConfigError, match=r"^--filter: .*PYTHONPATH"):
        named_filter("not_there:Good")


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        ("{}", "f.value.class", "is required"),
        ("{class: Good}", "f.value.class", "not of the form module:Class"),
        ("{class: 'not_there:Good'}", "f.value.class", "cannot be loaded: ModuleNotFoundError.*PYTHONPATH"),
        (f"{{class: '{HERE}:Gone'}}", "f.value.class", "cannot be loaded: AttributeError"),
        (f"{{class: '{HERE}:NoHook'}}", "f.value.class", "not a class with one of the hooks on_request"),
        (f"{{class: '{HERE}:Waits'}}", "f.value.class", "on_response is `async def`: only on_request can wait"),
        (f"{{class: '{HERE}:Narrow'}}", "f.value.class", r"Narrow.on_response must take \(self, request, response\)"),
        ("{class: 'os:system'}", "f.value.class", "not a class with one of the hooks"),
        (f"{{class: '{HERE}:Refuses'}}", "f.value.class", "cannot be made: KeyError: 'keys'"),
        (f"{{class: '{HERE}:Good', config: 3}}", "f.value.config", "must be an object"),
        (f"{{class: '{HERE}:Good', timeout: fast}}", "f.value.timeout", "must be a duration"),
        (f"{{class: '{HERE}:Good', timeout: 0s}}", "f.value.timeout", "must be a duration above 0"),
        (f"{{class: '{HERE}:Good', failure_mode_allow: maybe}}", "f.value.failure_mode_allow", "true or false"),
        (f"{{class: '{HERE}:Good', more: 1}}", "f.value.more", "not supported"),
    ],
)
def test_what_is_refused(value: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        compiled(value)
    assert refused.value.path == path


def test_a_type_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'x' is not supported in a TypedStruct; .*Policy, .*Python are") as refused:
        HTTP_FILTERS[types.TYPED_STRUCT](TypedStruct(type_url="x"), "f")
    assert refused.value.path == "f.type_url"


def test_a_module_that_fails_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_filter.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="cannot be loaded: ZeroDivisionError"):
        compiled("{class: 'broken_filter:A'}")
    assert "broken_filter" not in sys.modules
