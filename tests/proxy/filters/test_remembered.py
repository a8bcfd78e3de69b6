"""Remembered answers: by which attributes, and how many."""

from hashlib import sha256

import pytest

from pymesh_proxy.codec.http1 import parse_request
from pymesh_proxy.filters.authz import Answer, Memory, Ours
from pymesh_proxy.filters.remembered import (
    MAX_SHAPES,
    MAX_VALUE,
    NO_ATTRIBUTES,
    Remembered,
    attribute,
    attributes_of,
    key_of,
)
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
        ("source.namespace", "b"),
        ("source.serviceAccount", "b/c"),
        ("request.path[/{thing}]", "/cart"),
        ("request.path[/users/{*}]", None),
        ("request.auth.principal", "https://i/u"),
        ("request.auth.claims[team]", '["x"]'),
        ("request.auth.claims[none]", ""),
    ],
)
def test_attributes(name: str, value: str | None) -> None:
    about = context(b"x-user: a\r\nX-User: b\r\n")
    claims = {"iss": "https://i", "sub": "u", "team": ["x"]}
    about.record.metadata["envoy.filters.http.jwt_authn"] = {"payload": claims}
    assert attribute(name)(about) == value


def test_nobody_has_claims_without_a_token() -> None:
    assert attribute("request.auth.claims[sub]")(context()) == ""


def test_long_values_are_told_apart_but_not_kept() -> None:
    by = (attribute("request.headers[x]"),)
    first, second = (key_of(context(b"x: " + b"a" * 5000 + end + b"\r\n"), by) for end in (b"1", b"2"))
    assert first is not None
    assert first != second
    assert len(first[0]) < MAX_VALUE


def test_who_knows_the_digest_of_a_long_value_has_not_got_the_value() -> None:
    """An API key, say, of which logs and databases have the digest."""
    by, key = (attribute("request.headers[x]"),), b"k" * (MAX_VALUE + 1)
    digest = sha256(key).hexdigest().encode()
    assert key_of(context(b"x: " + key + b"\r\n"), by) != key_of(context(b"x: " + digest + b"\r\n"), by)


USER = attributes_of(("request.headers[user]",))


def of(user: str) -> Context:
    return context(f"user: {user}\r\n".encode())


def put(found: Remembered, rule: str, user: str, answer: Answer, now: float = 0.0) -> None:
    found.put(rule, USER, (user,), answer, context=of(user), now=now)


def last(found: Remembered, rule: str, user: str) -> Answer | None:
    kept = found.last(rule, USER, (user,), of(user))
    return None if kept is None else kept.answer


def fresh(found: Remembered, rule: str, about: Context, now: float) -> Answer | None:
    key = key_of(about, USER.read)
    assert key is not None
    kept = found.fresh(rule, USER, key, about, now)
    return None if kept is None else kept.answer


def lasting(seconds: float, uses: int = 1000, by: tuple[str, ...] = USER.names, *, allowed: bool = True) -> Answer:
    return Answer(allowed, ours=Ours(memories={"r": Memory(seconds, uses, by)}))


def test_the_least_recently_used_answer_is_forgotten() -> None:
    found = Remembered(2)
    yes, no = Answer(True), Answer(False)
    put(found, "r", "a", yes)
    put(found, "r", "b", no)
    assert last(found, "r", "a") is yes
    put(found, "s", "a", no)
    assert last(found, "r", "b") is None
    assert last(found, "r", "a") is yes
    assert last(found, "s", "a") is no
    put(found, "r", "a", no)
    assert last(found, "r", "a") is no
    assert len(found) == 2


def test_long_denials_are_remembered_without_what_they_said() -> None:
    found = Remembered()
    denial = Answer(False, status=429, headers=((b"x", b"y"),), body=b"a" * 2000)
    found.put("r", NO_ATTRIBUTES, (), denial, context=context(), now=0.0)
    kept = found.last("r", NO_ATTRIBUTES, (), context())
    assert kept is not None
    assert kept.answer == Answer(False, status=429)


def test_an_answer_is_good_for_as_long_as_it_says_and_the_last_word_after_that() -> None:
    found = Remembered()
    answer = lasting(30.0)
    put(found, "r", "a", answer, now=100.0)
    assert fresh(found, "r", of("a"), 129.9) is answer
    assert fresh(found, "r", of("a"), 130.0) is None
    assert fresh(found, "r", of("b"), 101.0) is None
    assert fresh(found, "s", of("a"), 101.0) is None
    assert last(found, "r", "a") is answer


def test_an_answer_that_says_nothing_is_the_last_word_only() -> None:
    found = Remembered()
    put(found, "r", "a", Answer(True))
    assert fresh(found, "r", of("a"), 0.0) is None
    assert last(found, "r", "a") is not None


def test_uses_are_counted_down_and_the_request_asked_about_is_the_first() -> None:
    found = Remembered()
    put(found, "r", "a", lasting(30.0, uses=3))
    assert [fresh(found, "r", of("a"), 1.0) is not None for _ in range(4)] == [True, True, False, False]


def test_an_answer_is_told_apart_by_exactly_the_attributes_that_it_names() -> None:
    """Whatever the rule itself is counted by; and each answer of a rule may name others."""
    found = Remembered()
    by_path, by_caller = ("request.path",), ("source.principal", "request.headers[x]")
    put(found, "r", "a", answer := lasting(30.0, by=by_path))
    assert fresh(found, "r", of("somebody else"), 1.0) is answer
    put(found, "r", "a", second := lasting(30.0, by=by_caller, allowed=False), now=40.0)
    assert fresh(found, "r", context(b"x: y\r\n"), 41.0) is None
    assert fresh(found, "r", context(b"user: a\r\n"), 41.0) is second


def test_what_answers_are_told_apart_by_is_bounded_too() -> None:
    found = Remembered()
    for number in range(MAX_SHAPES + 3):
        put(found, "r", "a", lasting(30.0, by=(f"request.headers[x-{number}]",)))
    assert len(found) == MAX_SHAPES


def test_another_epoch_ends_everything_that_was_said_before() -> None:
    found = Remembered()
    assert found.follow("one", asked_in="")
    put(found, "r", "a", lasting(30.0))
    assert found.follow("one")
    assert fresh(found, "r", of("a"), 1.0) is not None
    assert found.follow("two")
    assert fresh(found, "r", of("a"), 1.0) is None
    assert last(found, "r", "a") is None


def test_a_late_answer_by_rules_of_before_changes_nothing() -> None:
    """It was asked for in epoch one, and the stream has told of epoch two meanwhile."""
    found = Remembered()
    found.follow("one")
    found.follow("two")
    put(found, "r", "a", lasting(30.0))
    assert not found.follow("one", asked_in="one")
    assert found.epoch == "two"
    assert fresh(found, "r", of("a"), 1.0) is not None
