"""The reference of the kinds is what files are read by."""

import re

from tests.support.kinds_page import render
from tests.support.repository import ROOT


def test_the_reference_page_is_current() -> None:
    page = ROOT / "docs" / "kinds.md"
    assert page.read_text() == render(), "run: python -m tests.support.kinds_page > docs/kinds.md"


def test_every_type_that_is_named_is_described_once() -> None:
    page = render()
    found = re.findall(r"^##+ (.*)$", page, re.MULTILINE)
    headings = [re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in found]
    assert len(headings) == len(set(headings))
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= set(headings)
    assert "- `failureMode`: `Closed` or `LastDecision` or `Open`" in page, "and every field is"
