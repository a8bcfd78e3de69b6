"""The table of supported fields is true to the schema, complete, and what the reference page says."""

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor

from pymesh.xds.check import MESSAGES
from pymesh.xds.support import SUPPORTED
from tests.support.repository import ROOT
from tests.support.support_page import render


def descriptor(name: str) -> Descriptor:
    return descriptor_pool.Default().FindMessageTypeByName(name)


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_entry_names_fields_that_the_message_has(name: str) -> None:
    support = SUPPORTED[name]
    fields = descriptor(name).fields_by_name
    assert support.names <= set(fields)
    assert len(support.fields.split()) == len(support.names), "a field is listed twice"
    assert {*support.notes, *support.only, *support.opaque} <= support.names
    assert set(support.opaque) <= set(support.notes), "what is not looked at has to be explained"
    for field, values in support.only.items():
        enum = fields[field].enum_type
        assert enum is not None
        assert set(values) <= set(enum.values_by_name)


@pytest.mark.parametrize("name", SUPPORTED)
def test_messages_inside_supported_fields_are_in_the_table(name: str) -> None:
    support = SUPPORTED[name]
    for field in support.names - set(support.opaque):
        inner = descriptor(name).fields_by_name[field].message_type
        if inner is not None and inner.GetOptions().map_entry:
            inner = inner.fields_by_name["value"].message_type
        if inner is not None and not inner.full_name.startswith("google.protobuf."):
            assert inner.full_name in SUPPORTED, field


def test_every_message_that_can_stand_alone_is_in_the_table() -> None:
    assert set(MESSAGES) <= set(SUPPORTED)


def test_the_reference_page_is_current() -> None:
    page = ROOT / "docs" / "support.md"
    assert page.read_text() == render(), "run: python -m tests.support.support_page > docs/support.md"
