"""Tokens: what is taken apart, and what is refused whatever is done to a good one."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.filters.jwt_token import MAX_TOKEN, Jwt, JwtError, Status, parse
from tests.support.tokens import b64

HEADER = {"alg": "ES256", "kid": "one"}
CLAIMS = {"iss": "us", "sub": "ann", "aud": ["api", "web"], "exp": 2.5, "nbf": 1, "iat": 0}
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def token(header: object = HEADER, claims: object = CLAIMS, signature: bytes = b"signature") -> str:
    return f"{b64(json.dumps(header))}.{b64(json.dumps(claims))}.{b64(signature)}"


def refused(text: str | bytes) -> Status:
    with pytest.raises(JwtError) as error:
        parse(text if isinstance(text, bytes) else text.encode("latin-1"))
    return error.value.status


def test_a_token_is_taken_apart() -> None:
    text = token()
    found = parse(text.encode())
    head, payload, _ = text.encode().split(b".")
    assert found == Jwt(
        header=HEADER, algorithm="ES256", kid="one", claims=CLAIMS, issuer="us", subject="ann",
        audiences=("api", "web"), expires=2.5, not_before=1.0, issued=0.0, payload=payload,
        signed=head + b"." + payload, signature=b"signature",
    )  # fmt: skip


def test_what_is_left_out_is_empty() -> None:
    found = parse(token({"alg": "EdDSA"}, {}).encode())
    assert (found.kid, found.issuer, found.subject, found.audiences) == ("", "", "", ())
    assert (found.expires, found.not_before, found.issued) == (None, None, None)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({}, Status.HEADER_ALG),
        ({"alg": None}, Status.HEADER_ALG),
        ({"alg": ["ES256"]}, Status.HEADER_ALG),
        *(({"alg": alg}, Status.HEADER_ALG_UNKNOWN) for alg in ("none", "None", "", "es256", "HS1", "A128KW", "dir")),
        ({"alg": "ES256", "kid": 1}, Status.HEADER_KID),
        ({"alg": "ES256", "crit": ["exp"]}, Status.HEADER_CRIT),
        ({"alg": "ES256", "crit": []}, Status.HEADER_CRIT),
    ],
)
def test_a_header_that_does_not_do(header: object, status: Status) -> None:
    assert refused(token(header)) is status


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"iss": 1}, Status.PAYLOAD_ISS),
        ({"sub": None}, Status.PAYLOAD_SUB),
        ({"jti": {}}, Status.PAYLOAD_JTI),
        ({"aud": 1}, Status.PAYLOAD_AUD),
        ({"aud": ["a", 1]}, Status.PAYLOAD_AUD),
        ({"exp": "1"}, Status.PAYLOAD_EXP),
        ({"exp": True}, Status.PAYLOAD_EXP),
        ({"exp": None}, Status.PAYLOAD_EXP),
        ({"exp": -1}, Status.PAYLOAD_EXP_RANGE),
        ({"exp": 2**63}, Status.PAYLOAD_EXP_RANGE),
        ({"nbf": []}, Status.PAYLOAD_NBF),
        ({"nbf": -0.5}, Status.PAYLOAD_NBF_RANGE),
        ({"iat": "now"}, Status.PAYLOAD_IAT),
        ({"iat": 1e300}, Status.PAYLOAD_IAT_RANGE),
    ],
)
def test_claims_that_do_not_do(claims: object, status: Status) -> None:
    assert refused(token(claims=claims)) is status


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", Status.BAD_FORMAT),
        ("a.b", Status.BAD_FORMAT),
        ("..", Status.BAD_FORMAT),
        (token() + ".", Status.BAD_FORMAT),
        (token() + "=", Status.SIGNATURE_BASE64),
        (" " + token(), Status.HEADER_BASE64),
        (token() + "\n", Status.SIGNATURE_BASE64),
        (token(["alg"]), Status.HEADER_JSON),
        (token(claims="claims"), Status.PAYLOAD_JSON),
        (token(claims={"fill": "x" * MAX_TOKEN}), Status.TOO_LONG),
    ],
)
def test_what_has_not_the_form_of_a_token(text: str, status: Status) -> None:
    assert refused(text) is status


@given(st.binary(max_size=200) | st.text(ALPHABET + ".=", max_size=200).map(str.encode))
def test_anything_is_a_token_or_refused(data: bytes) -> None:
    with contextlib.suppress(JwtError):
        parse(data)


@given(st.data())
def test_no_two_spellings_of_a_token_are_the_same_token(data: st.DataObject) -> None:
    """Whoever changes one character of a good token has a bad one, or one that says or is signed otherwise."""
    text = token()
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(max_codepoint=255).filter(lambda c: c != text[place]))
    changed = (text[:place] + other + text[place + 1 :]).encode("latin-1")
    try:
        found = parse(changed)
    except JwtError:
        return
    before = parse(text.encode())
    assert (found.signed, found.signature) != (before.signed, before.signature)


@given(st.dictionaries(st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "x"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4)))  # fmt: skip
def test_any_claims_are_taken_as_they_are_or_refused(claims: dict[str, object]) -> None:
    try:
        found = parse(f"{b64(json.dumps(HEADER))}.{b64(json.dumps(claims))}.AA".encode())
    except JwtError:
        return
    assert found.claims == claims
