"""Key sets: which keys are of use, which are refused, and what is verified by them."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh import jwks
from pymesh.errors import ConfigError
from pymesh.jwks import NOBODYS_KEYS, base64url, key_set, strict_json
from tests.support.tokens import Key, b64, ec_key, ed25519_key, rsa_key
from tests.support.tokens import jwks as written

RSA, P256, P384, P521, ED25519 = rsa_key(), ec_key(), ec_key("P-384"), ec_key("P-521"), ed25519_key()
TOO_MANY = written(*[RSA.public()] * (jwks.MAX_KEYS + 1))
RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [*((RSA, name) for name in RSA_ALGORITHMS), (P256, "ES256"), (P384, "ES384"), (P521, "ES512"), (ED25519, "EdDSA")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_signature_fits_its_key_its_text_and_its_algorithm_and_no_other(key: Key, algorithm: str) -> None:
    [found] = key_set(written(key.public(kid="one"))).keys
    signature = key.sign(algorithm, b"text")
    assert found.kid == "one"
    assert algorithm in found.algorithms
    assert found.verify(algorithm, signature, b"text")
    assert not found.verify(algorithm, signature, b"texT")
    assert not found.verify(algorithm, signature[:-1], b"text")
    assert not found.verify(algorithm, b"", b"text")
    assert not found.verify(algorithm, bytes(len(signature)), b"text")
    for other in found.algorithms - {algorithm}:
        assert not found.verify(other, signature, b"text")


def test_a_key_that_says_its_algorithm_has_no_other() -> None:
    [found] = key_set(written(RSA.public(alg="PS384"))).keys
    assert found.algorithms == {"PS384"}


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ({"kty": "oct", "k": "c2VjcmV0"}, "a symmetric key"),
        (RSA.public(k="c2VjcmV0"), "a symmetric key"),
        *((RSA.public(**{name: "AQ"}), "a private key") for name in ("d", "p", "q", "dp", "dq", "qi", "oth")),
        (ED25519.public(d="AQ"), "a private key"),
        ("key", "a key is an object"),
        ({}, "'kty' is missing"),
        ({"kty": 1}, "'kty' is not text"),
        (RSA.public(kid=1), "'kid' is not text"),
        (RSA.public(n=None), "'n' is missing"),
        (RSA.public(n="a=="), "'n': not base64url without padding"),
        (RSA.public(e="Ag"), "e must be >= 3"),
        (RSA.public(e=b64(2**40 + 1)), "an exponent (e) of 41 bits: 33 at most"),
        (RSA.public(n=b64(2**1023 + 1)), "an RSA key of 1024 bits: 2048 to 8192 are needed"),
        (RSA.public(n=b64(2**8192 + 1)), "an RSA key of 8193 bits: 2048 to 8192 are needed"),
        (P256.public(y=P256.jwk["x"]), "x and y are no point of P-256"),
        (P256.public(crv="P-384"), "x and y are no point of P-384"),
        (ED25519.public(x="AQ"), "An Ed25519 public key is 32 bytes long"),
    ],
)
def test_a_key_is_refused_that_is_wrong_or_should_not_be_here(member: object, reason: str) -> None:
    found = key_set(json.dumps({"keys": [member, P384.public()]}))
    assert len(found.keys) == 1
    [error] = found.refused
    assert error.path == "keys[0]"
    assert reason in str(error)


@pytest.mark.parametrize(
    "member",
    [
        {"kty": "new", "x": "AQ"},
        RSA.public(use="enc"),
        RSA.public(key_ops=["sign"]),
        RSA.public(key_ops="verify"),
        RSA.public(alg="ES256"),
        RSA.public(alg="HS256"),
        RSA.public(alg="RSA-OAEP"),
        P256.public(alg="ES384"),
        P256.public(crv="secp256k1"),
        ED25519.public(crv="Ed448"),
    ],
)
def test_a_key_for_something_else_is_passed_over(member: Mapping[str, object]) -> None:
    found = key_set(written(member))
    assert (found.keys, found.refused, len(found.ignored)) == ((), (), 1)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"keys":{}}', '{"keys":[],"keys":[]}', '{"keys":[]', " " * (jwks.MAX_BYTES + 1), TOO_MANY],
    ids=range(8),
)
def test_what_is_no_key_set_says_why(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        key_set(text)
    assert len(refused.value.problem) > 10


MEMBERS = st.fixed_dictionaries(
    {"kty": st.sampled_from(["RSA", "EC", "OKP", "oct", "x"])},
    optional={
        **{name: st.binary(max_size=70).map(b64) | st.text(max_size=3) for name in ("n", "e", "x", "y")},
        **{name: st.sampled_from([*jwks.ALGORITHMS, "HS256", 1]) for name in ("alg", "kid")},
        "crv": st.sampled_from(["P-256", "P-384", "P-521", "Ed25519", "Ed448", 1]),
        "use": st.sampled_from(["sig", "enc", 1]),
        "key_ops": st.lists(st.sampled_from(["verify", "sign"])) | st.none(),
    },
)


@given(st.lists(MEMBERS | st.none() | st.text(), max_size=3))
def test_whatever_stands_in_a_set_is_of_use_or_told_of(members: list[object]) -> None:
    found = key_set(json.dumps({"keys": members}))
    assert len(found.keys) + len(found.ignored) + len(found.refused) == len(members)
    for key in found.keys:
        assert not any(key.verify(algorithm, b"x" * 64, b"text") for algorithm in key.algorithms)


def test_a_set_is_written_again_with_its_public_members_and_nothing_else() -> None:
    members = [RSA.public(kid="a", alg="RS256", use="sig", x5c=["AA"]), P256.public(), {"kty": "oct", "k": "c2Vj"}]
    text = key_set(written(*members)).encoded()
    assert json.loads(text) == {"keys": [RSA.public(kid="a", alg="RS256"), P256.public()]}
    assert key_set(text).encoded() == text


def test_nobody_has_the_key_that_stands_for_none() -> None:
    [key] = key_set(NOBODYS_KEYS).keys
    assert key.algorithms == {"EdDSA"}
    assert not key.verify("EdDSA", ED25519.sign("EdDSA", b"text"), b"text")
    assert not key.verify("EdDSA", bytes(64), b"text")


# --- base64url, JSON -----------------------------------------------------------------------------------------------


@given(st.binary())
def test_base64url_has_one_form(data: bytes) -> None:
    text = b64(data).encode()
    assert base64url(text) == data
    for wrong in (text + b"=", text + b"\n", b" " + text, text + b"A" * (5 - len(text) % 4), text + b"+"):
        with pytest.raises(ValueError, match="base64url"):
            base64url(wrong)


@given(st.text(st.sampled_from("ABQgwz09-_=+/ \n."), max_size=9))
def test_what_is_taken_as_base64url_is_what_it_would_be_written_as(text: str) -> None:
    try:
        data = base64url(text.encode())
    except ValueError:
        return
    assert b64(data) == text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), VALUES, max_size=4))
def test_strict_json_takes_what_is_well_formed(value: dict[str, object]) -> None:
    assert strict_json(json.dumps(value).encode()) == value
    assert strict_json(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) == value


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"1", b'{"a":1,"a":2}', b'{"a":{"b":1,"b":1}}', b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1e999}',
        b'{"a":' + b"9" * 400 + b"}", b'{"a":"\\ud800"}', b'{"\\udfff":1}', b'{"a":1,}', b"{'a':1}", b'{"a":1}x',
        b'\xef\xbb\xbf{"a":1}', b'{"a":"\xff"}', b'{"a":"\n"}', b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=range(19),
)  # fmt: skip
def test_strict_json_refuses_what_two_readers_might_read_differently(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        strict_json(text)


def test_strict_json_goes_as_deep_as_it_says() -> None:
    def deep(levels: int) -> bytes:
        return b'{"a":' * levels + b"1" + b"}" * levels

    assert strict_json(deep(jwks.MAX_DEPTH))
    with pytest.raises(ValueError, match="levels deep"):
        strict_json(deep(jwks.MAX_DEPTH + 1))
    flat = json.dumps({"a": [{} for _ in range(500)]}).encode()
    assert strict_json(flat)
