"""Names of attributes, path templates, claims as text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.policy_attributes import (
    PATTERN,
    PLAIN,
    PathTemplate,
    account_of,
    auth_principal_of,
    claim_of,
    namespace_of,
    parse,
)


@pytest.mark.parametrize(
    "name", [*PLAIN, "request.headers[X-User]", "request.path[/a/{*}]", "request.auth.claims[a][b]"]
)
def test_names_are_told_by_the_pattern_and_taken_apart(name: str) -> None:
    assert re.match(PATTERN, name)
    assert parse(name).kind == name.partition("[")[0] + ("[]" if "path[" in name else "")


def test_what_is_in_brackets() -> None:
    assert parse("request.headers[X-User]").header == "x-user"
    assert parse("request.auth.claims[realm_access][roles]").claim == ("realm_access", "roles")


@pytest.mark.parametrize(
    "name",
    ["", "source", "source.ip", "request.headers[]", "request.headers[a b]", "request.path[]", "request.path[users]",
     "request.path[/a?b]", "request.path[/{*]", "request.path[/{**}/{*}]", "request.path[/a{*}]", "request.path[/{*}b]",
     "request.auth.claims[]", "request.auth.claims[a", "request.path\n", "request.headers[a]]"],
)  # fmt: skip
def test_what_is_no_attribute(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no (attribute|path template)"):
        parse(name)


@pytest.mark.parametrize(
    ("template", "path", "value"),
    [
        ("/users/{*}/orders", "/users/7/orders", "/users/{*}/orders"),
        ("/users/{*}/orders", "/users/7/8/orders", None),
        ("/users/{*}/orders", "/users//orders", None),
        ("/users/{*}/orders", "/users/7/orders/", None),
        ("/users/{*}/orders", "/USERS/7/orders", None),
        ("/users/{user}/orders/{**}", "/users/7/orders/a/b", "/users/7/orders/{**}"),
        ("/users/{user}/orders/{**}", "/users/7/orders/", "/users/7/orders/{**}"),
        ("/users/{user}/orders/{**}", "/users/7/orders", None),
        ("/{**}/edit", "/a/b/edit", "/{**}/edit"),
        ("/{tenant}/{user}", "/a/b", "/a/b"),
        ("/v1.0/x", "/v1-0/x", None),
        ("/", "/", "/"),
    ],
)
def test_templates(template: str, path: str, value: str | None) -> None:
    assert PathTemplate(template).of(path) == value


@given(st.text(alphabet="/a{}*\n%", max_size=30))
def test_a_template_is_one_or_is_refused_and_matches_whole_paths(text: str) -> None:
    try:
        template = PathTemplate(text)
    except ValueError:
        return
    path = text.replace("{**}", "x/y").replace("{*}", "x")
    path = re.sub(r"\{\w+\}", "z", path)
    assert template.of(path) is not None
    assert template.of(path + "\n/more") is None or "{**}" in text


def test_who_calls() -> None:
    principal = "spiffe://cluster.local/ns/shop/sa/web"
    assert (namespace_of(principal), account_of(principal)) == ("shop", "shop/web")
    assert (namespace_of("spiffe://else/where"), account_of("")) == ("", "")


def test_claims_as_text_are_the_same_whether_numbers_came_as_whole_ones_or_not() -> None:
    """Those of protobuf's Struct have no whole numbers."""
    claims = {"sub": "u", "iss": "https://i", "age": 7, "realm": {"roles": ["b", "a"]}, "yes": True, "at": 1.5}
    assert claim_of(claims, ("sub",)) == "u"
    assert claim_of(claims, ("age",)) == claim_of({"age": 7.0}, ("age",)) == "7"
    assert claim_of(claims, ("realm", "roles")) == '["b","a"]'
    assert claim_of(claims, ("yes",)) == "true"
    assert claim_of(claims, ("at",)) == "1.5"
    assert claim_of(claims, ("sub", "deeper")) == claim_of(claims, ("none",)) == claim_of({}, ("a", "b")) == ""
    assert auth_principal_of(claims) == "https://i/u"
    assert auth_principal_of({"iss": "i"}) == ""
