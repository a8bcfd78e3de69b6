"""Remembered answers: by which attributes, and how many."""

import pytest

from pymesh_proxy.codec.http1 import parse_request
from pymesh_proxy.filters.authz import Answer
from pymesh_proxy.filters.remembered import MAX_VALUE, Remembered, attribute, key_of
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from tests.proxy.filters.context import Context


def context(headers: bytes = b"") -> Context:
    parsed = parse_request(b"GET /cart?x=y HTTP/1.1\r\nhost: shop\r\n" + headers + b"\r\n", 60_000, 100)
    assert parsed is not None
    record = RequestRecord(Facts("inbound", "[fd00::1]:1", "10.0.0.2:2", peer="spiffe://a/ns/b/sa/c"), 0.0, 0.0)
    record.method = "GET"
    return Context(parsed[0], record)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source.principal", "spiffe://a/ns/b/sa/c"),
        ("source.address", "[fd00::1]"),
        ("request.method", "GET"),
        ("request.host", "shop"),
        ("request.path", "/cart"),
        ("request.headers[X-User]", "a, b"),
        ("request.headers[x-none]", ""),
    ],
)
def test_attributes(name: str, value: str) -> None:
    assert attribute(name)(context(b"x-user: a\r\nX-User: b\r\n")) == value


@pytest.mark.parametrize("name", ["", "source", "request.headers[]", "request.headers[a b]", "request.headers[a"])
def test_what_is_no_attribute(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no attribute; there are source\.principal"):
        attribute(name)


def test_long_values_are_told_apart_but_not_kept() -> None:
    by = (attribute("request.headers[x]"),)
    first, second = (key_of(context(b"x: " + b"a" * 5000 + end + b"\r\n"), by) for end in (b"1", b"2"))
    assert first != second
    assert len(first[0]) < MAX_VALUE


def test_the_least_recently_used_answer_is_forgotten() -> None:
    found = Remembered(2)
    yes, no = Answer(True), Answer(False)
    found.put("r", ("a",), yes)
    found.put("r", ("b",), no)
    assert found.get("r", ("a",)) is yes
    found.put("s", ("a",), no)
    assert found.get("r", ("b",)) is None
    assert found.get("r", ("a",)) is yes
    assert found.get("s", ("a",)) is no
    found.put("r", ("a",), no)
    assert found.get("r", ("a",)) is no
    assert len(found) == 2


def test_long_denials_are_remembered_without_what_they_said() -> None:
    found = Remembered()
    found.put("r", (), Answer(False, status=429, headers=((b"x", b"y"),), body=b"a" * 2000))
    assert found.get("r", ()) == Answer(False, status=429)
