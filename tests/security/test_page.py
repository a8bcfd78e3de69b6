"""docs/security.md promises a test for each attack: they are there, by these names."""

import ast
import re

from tests.support.repository import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def named_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_the_page_names_exists() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 40
    assert [f"{path}::{name}" for path, name in named if name not in named_in(path)] == []


def test_no_attack_is_without_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| tried ")]
    assert len(rows) > 30
    assert [row for row in rows if not NAMED.search(row.rsplit(" | ", 1)[1])] == []


def test_every_test_of_an_attack_is_on_the_page() -> None:
    named = {name for _, name in NAMED.findall(PAGE)}
    written = {
        name
        for file in (ROOT / "tests" / "security").glob("test_*.py")
        if file.name != "test_page.py"
        for name in named_in(str(file.relative_to(ROOT)))
        if name.startswith("test_")
    }
    assert written - named == {"test_what_is_allowed_is_allowed"}
