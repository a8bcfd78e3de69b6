"""A provider's tokens: verified once, judged each time; what is told of them."""

import dataclasses
import json
from typing import Any

import pytest

from pymesh.jwks import key_set
from pymesh_proxy.filters.jwt_locations import HeaderLocation
from pymesh_proxy.filters.jwt_provider import Provider, Verified, Verifier
from pymesh_proxy.filters.jwt_token import Status
from pymesh_proxy.telemetry.jwt_metrics import JwtStats
from tests.support.tokens import ec_key, jwks

KEY, OTHER = ec_key(), ec_key()
KEYS = key_set(jwks(KEY.public(kid="one")))
CLAIMS = {"iss": "us", "sub": "ann", "aud": "api", "exp": 1000}
PROVIDER = Provider("main", "us", KEYS, (HeaderLocation(b"authorization", b"Bearer "),))


def token(kid: str = "one", **more: object) -> bytes:
    claims = {name: value for name, value in {**CLAIMS, **more}.items() if value is not None}
    return KEY.token(claims, "ES256", kid).encode()


def outcome(text: bytes, now: float = 500.0, **settings: Any) -> object:
    found = Verifier(dataclasses.replace(PROVIDER, **settings)).authenticate(text, now, None, JwtStats())
    return found if isinstance(found, Status) else Status.OK


@pytest.mark.parametrize(
    ("now", "times", "status"),
    [
        (1060.0, {}, Status.OK),
        (1060.1, {}, Status.EXPIRED),
        (0.0, {"nbf": 60}, Status.OK),
        (0.0, {"nbf": 60.5}, Status.NOT_YET_VALID),
        (0.0, {"iat": 61}, Status.NOT_YET_VALID),
        (1e9, {"exp": None}, Status.OK),
        (61.0, {"exp": 0}, Status.EXPIRED),
    ],
)
def test_a_token_has_its_time_give_or_take_a_minute(now: float, times: dict[str, object], status: Status) -> None:
    assert outcome(token(**times), now) is status


def test_the_minute_can_be_less() -> None:
    assert outcome(token(), 1003.0, clock_skew=2.0) is Status.EXPIRED


@pytest.mark.parametrize(
    ("settings", "more", "status"),
    [
        ({"issuer": "them"}, {}, Status.UNKNOWN_ISSUER),
        ({"issuer": ""}, {"iss": "anybody"}, Status.OK),
        ({"audiences": frozenset({"api"})}, {}, Status.OK),
        ({"audiences": frozenset({"api"})}, {"aud": ["x", "https://api/"]}, Status.OK),
        ({"audiences": frozenset({"api"})}, {"aud": None}, Status.AUDIENCE),
        ({"subject": lambda name: name == b"bob"}, {}, Status.FAILED),
        ({"require_expiration": True}, {"exp": None}, Status.FAILED),
        ({"max_lifetime": 100.0}, {}, Status.FAILED),
        ({"max_lifetime": 500.0}, {}, Status.OK),
    ],
)
def test_what_a_provider_asks_of_its_tokens(settings: dict[str, Any], more: dict[str, object], status: Status) -> None:
    assert outcome(token(**more), **settings) is status


def test_audiences_of_the_rule_go_before_the_providers() -> None:
    verifier = Verifier(dataclasses.replace(PROVIDER, audiences=frozenset({"api"})))
    named = frozenset({"special"})
    assert isinstance(verifier.authenticate(token(aud="special"), 500.0, named, JwtStats()), Verified)
    assert verifier.authenticate(token(), 500.0, named, JwtStats()) is Status.AUDIENCE


def test_a_signature_is_looked_at_once_and_the_rest_each_time() -> None:
    verifier, stats = Verifier(PROVIDER), JwtStats()
    first = verifier.authenticate(token_ := token(), 500.0, None, stats)
    again = verifier.authenticate(token_, 600.0, None, stats)
    assert isinstance(first, Verified)
    assert again is first
    assert (stats.jwt_cache_miss, stats.jwt_cache_hit) == (1, 1)
    assert verifier.authenticate(token_, 1100.0, None, stats) is Status.EXPIRED
    assert verifier.authenticate(token_, 500.0, frozenset({"x"}), stats) is Status.AUDIENCE


def test_a_bad_signature_is_remembered_of_nobody() -> None:
    verifier, stats = Verifier(PROVIDER), JwtStats()
    good = token()
    bad = good[:-5] + (b"AAAAA" if good[-5:] != b"AAAAA" else b"BBBBA")
    verifier.authenticate(good, 500.0, None, stats)
    for _ in range(2):
        assert verifier.authenticate(bad, 500.0, None, stats) in {Status.FAILED, Status.SIGNATURE_BASE64}
    assert stats.jwt_cache_hit == 0


def test_no_more_tokens_are_kept_than_there_is_room_for() -> None:
    verifier, stats = Verifier(dataclasses.replace(PROVIDER, cache_size=2, cache_max_token=400)), JwtStats()
    tokens = [token(jti=str(number)) for number in range(3)]
    long = token(fill="x" * 400)
    for text in (tokens[0], tokens[1], tokens[0], tokens[2], long, long):
        verifier.authenticate(text, 500.0, None, stats)
    assert (stats.jwt_cache_hit, stats.jwt_cache_miss) == (1, 5)
    verifier.authenticate(tokens[0], 500.0, None, stats)  # asked for after the second, so that one went
    assert stats.jwt_cache_hit == 2
    verifier.authenticate(tokens[1], 500.0, None, stats)
    assert (stats.jwt_cache_hit, stats.jwt_cache_miss) == (2, 6)


@pytest.mark.parametrize(
    ("keys", "kid", "status"),
    [
        ([KEY.public(kid="one")], "two", Status.NO_MATCHING_KEY),
        ([KEY.public(kid="one")], "", Status.OK),
        ([KEY.public()], "two", Status.OK),
        ([OTHER.public(), KEY.public()], "two", Status.OK),
        ([OTHER.public(kid="one"), KEY.public(kid="one")], "one", Status.OK),
        ([OTHER.public(kid="one"), KEY.public(kid="two")], "one", Status.FAILED),
        ([ec_key("P-384").public(kid="one")], "one", Status.FAILED),
        ([ec_key("P-384").public(kid="one", alg="ES384")], "one", Status.NO_MATCHING_KEY),
    ],
)
def test_which_keys_are_tried(keys: list[dict[str, object]], kid: str, status: Status) -> None:
    assert outcome(token(kid), keys=key_set(jwks(*keys))) is status


def test_what_is_told_of_a_token() -> None:
    headers = tuple((f"x-{name}".encode(), (name,)) for name in ("sub", "n", "f", "t", "l", "no", "evil"))
    provider = dataclasses.replace(
        PROVIDER, payload_header=b"x-payload", padded=True, payload_key="payload", header_key="header",
        claim_headers=(*headers, (b"x-deep", ("o", "in"))), space_delimited=frozenset({"scope", "n"}),
    )  # fmt: skip
    more = {"n": 5, "f": -1.5, "t": True, "l": ["ü"], "o": {"in": "x"}, "evil": "a\r\nb: c", "scope": "read write"}
    text = token(**more)
    found = Verifier(provider).authenticate(text, 500.0, None, JwtStats())
    assert isinstance(found, Verified)
    payload = text.split(b".")[1]
    assert dict(found.headers) == {
        b"x-payload": payload + b"=" * (-len(payload) % 4),
        b"x-sub": b"ann", b"x-n": b"5", b"x-f": b"-1.500000", b"x-t": b"true", b"x-l": b"WyLDvCJd", b"x-deep": b"x",
    }  # fmt: skip
    assert provider.headers == {b"x-payload", b"x-deep", *(name for name, _ in headers)}
    assert found.metadata == {
        "payload": {**CLAIMS, **more, "scope": ["read", "write"]},
        "header": {"alg": "ES256", "typ": "JWT", "kid": "one"},
    }
    assert json.loads(json.dumps(found.metadata)) == found.metadata
