"""No field of the compiled configuration is without effect: each is read somewhere outside of what compiles it."""

import ast
import dataclasses
from types import ModuleType

import pytest

from pymesh_proxy import routing
from pymesh_proxy.config import model
from tests.support.repository import ROOT

PROXY = ROOT / "proxy" / "pymesh_proxy"
# Fields that have their effect while a snapshot is put together, and where.
READ_BY_THE_COMPILER = {
    "Cluster.eds_service_name": "config/snapshot.py",
}


def read_in(source: str) -> set[str]:
    """Names of the attributes that `source` reads; writing one is no use of it, and neither is a keyword."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def fields(module: ModuleType) -> list[str]:
    """`Class.field` for every dataclass that `module` defines."""
    return [
        f"{found.__name__}.{field.name}"
        for found in vars(module).values()
        if isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == module.__name__
        for field in dataclasses.fields(found)
    ]


@pytest.fixture(scope="module")
def used() -> set[str]:
    """Every attribute that the proxy reads outside of `config/`."""
    files = [file for file in PROXY.rglob("*.py") if not file.is_relative_to(PROXY / "config")]
    return set().union(*(read_in(file.read_text()) for file in files))


@pytest.mark.parametrize("field", [*fields(model), *fields(routing)])
def test_every_field_is_read(field: str, used: set[str]) -> None:
    _, name = field.split(".")
    where = READ_BY_THE_COMPILER.get(field)
    if where is None:
        assert name in used, (
            "a configuration that sets it changes nothing: use it, or refuse it (pymesh/xds/support.py)"
        )
    else:
        assert name in read_in((PROXY / where).read_text())


def test_the_exceptions_are_fields() -> None:
    assert set(READ_BY_THE_COMPILER) <= {*fields(model), *fields(routing)}
