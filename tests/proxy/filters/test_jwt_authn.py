"""Requirements, and what becomes of a request. Which tokens are good, tests/conformance compares with Envoy."""

from collections.abc import Sequence
from typing import Any

import pytest

from pymesh.jwks import key_set
from pymesh_proxy.codec.http1 import parse_request
from pymesh_proxy.errors import Flag
from pymesh_proxy.filters.base import LocalReply
from pymesh_proxy.filters.jwt_authn import (
    NAME,
    JwtFilter,
    JwtSettings,
    Requirement,
    Rule,
    all_of,
    allow_missing,
    allow_missing_or_failed,
    any_of,
    from_provider,
)
from pymesh_proxy.filters.jwt_locations import HeaderLocation
from pymesh_proxy.filters.jwt_provider import Provider, Verifier
from pymesh_proxy.filters.jwt_token import Status
from pymesh_proxy.telemetry.jwt_metrics import JwtMetrics, JwtStats
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from tests.proxy.filters.context import Context
from tests.support.tokens import ec_key, jwks

KEY = ec_key()
KEYS = key_set(jwks(KEY.public()))
NOW = 1000.0


def verifier(issuer: str, header: bytes = b"authorization", **settings: Any) -> Verifier:
    provider = Provider(issuer, issuer, KEYS, (HeaderLocation(header, b"Bearer "),), payload_key="payload", **settings)
    return Verifier(provider)


A, B, C = verifier("a"), verifier("b"), verifier("c", b"x-c")
TELLING = verifier("a", payload_header=b"x-payload", claim_headers=((b"x-sub", ("sub",)),))


def token(issuer: str, **claims: object) -> str:
    return "Bearer " + KEY.token({"iss": issuer, "sub": "ann", **claims}, "ES256")


def context(*fields: tuple[str, str], method: str = "GET", path: str = "/") -> Context:
    lines = "".join(f"{name}: {value}\r\n" for name, value in (("host", "a.test"), *fields))
    parsed = parse_request(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
    assert parsed is not None
    return Context(parsed[0], RequestRecord(Facts("inbound", "10.0.0.1:1", "10.0.0.2:2"), NOW, 0.0))


def made(requirement: Requirement | None, **settings: Any) -> JwtFilter:
    return JwtFilter(JwtSettings((Rule(lambda _: True, requirement),), **settings))


def told(requirement: Requirement, *fields: tuple[str, str]) -> str:
    """OK, or the body of the answer."""
    verdict = made(requirement).on_request(context(*fields))
    return "OK" if verdict is None else verdict.body.decode()  # type: ignore[union-attr]  # never an awaitable


NONE: tuple[tuple[str, str], ...] = ()
OF_A, OF_B, OF_C = ("authorization", token("a")), ("authorization", token("b")), ("x-c", token("c"))
BAD, OLD = ("authorization", "Bearer bad"), ("authorization", token("a", exp=1))
MISSING, UNKNOWN, EXPIRED, FORM = (
    status.value for status in (Status.MISSING, Status.UNKNOWN_ISSUER, Status.EXPIRED, Status.BAD_FORMAT)
)
ISTIO = any_of(
    [
        from_provider(A),
        from_provider(B),
        all_of([any_of([from_provider(A)], missing=True), any_of([from_provider(B)], missing=True)]),
    ]
)


@pytest.mark.parametrize(
    ("requirement", "fields", "expected"),
    [
        (from_provider(A), NONE, MISSING),
        (from_provider(A), [OF_A], "OK"),
        (from_provider(A), [OF_B], UNKNOWN),
        (from_provider(A), [OLD], EXPIRED),
        (any_of([from_provider(A), from_provider(C)]), NONE, MISSING),
        (any_of([from_provider(A), from_provider(C)]), [OF_C], "OK"),
        (any_of([from_provider(A), from_provider(C)]), [BAD, OF_C], "OK"),
        (any_of([from_provider(A), from_provider(C)]), [OLD], EXPIRED),
        (any_of([from_provider(A), from_provider(B)]), [OLD], EXPIRED),
        (any_of([from_provider(A)], missing=True), NONE, "OK"),
        (any_of([from_provider(A)], missing=True), [BAD], FORM),
        (any_of([from_provider(A)], missing=True), [OF_B], UNKNOWN),
        (any_of([from_provider(A)], failed=True), [BAD], "OK"),
        (all_of([from_provider(A), from_provider(C)]), [OF_A], MISSING),
        (all_of([from_provider(A), from_provider(C)]), [OF_A, OF_C], "OK"),
        (all_of([]), NONE, "OK"),
        (ISTIO, NONE, "OK"),
        (ISTIO, [OF_A], "OK"),
        (ISTIO, [OF_B], "OK"),
        (ISTIO, [("authorization", token("x"))], UNKNOWN),
        (ISTIO, [OLD], EXPIRED),
        (allow_missing([A, B, C]), NONE, "OK"),
        (allow_missing([A, B, C]), [OF_B, OF_C], "OK"),
        (allow_missing([A, B, C]), [OF_B, ("x-c", token("a"))], UNKNOWN),
        (allow_missing([A, B, C]), [BAD, OF_C], FORM),
        (allow_missing([A, B, C]), [OF_B, ("x-c", "Bearer bad")], FORM),
        (allow_missing_or_failed([A, C]), [BAD, ("x-c", token("nobody"))], "OK"),
    ],
)  # fmt: skip
def test_what_a_requirement_lets_in(requirement: Requirement, fields: Sequence[tuple[str, str]], expected: str) -> None:
    assert told(requirement, *fields) == expected


def test_a_good_token_is_taken_away_and_told_of() -> None:
    asked = context(OF_A, ("x-sub", "root"), ("X-Payload", "e30"), ("x-other", "1"))
    assert made(from_provider(TELLING), headers=TELLING.provider.headers).on_request(asked) is None
    payload = OF_A[1].split(".")[1].encode()
    assert asked.request.items() == [
        (b"host", b"a.test"), (b"x-other", b"1"), (b"x-payload", payload), (b"x-sub", b"ann"),
    ]  # fmt: skip
    assert asked.record.metadata == {NAME: {"payload": {"iss": "a", "sub": "ann"}}}


def test_a_token_goes_on_where_it_is_to() -> None:
    asked = context(OF_A)
    assert made(from_provider(verifier("a", forward=True))).on_request(asked) is None
    assert asked.request.get(b"authorization") == OF_A[1].encode()


@pytest.mark.parametrize("rules", [(), (Rule(lambda _: False, from_provider(A)),), (Rule(lambda _: True, None),)])
def test_nobody_else_speaks_in_the_headers_of_tokens_wherever_he_asks(rules: tuple[Rule, ...]) -> None:
    asked = context(("x-sub", "root"))
    assert JwtFilter(JwtSettings(rules, frozenset({b"x-sub"}))).on_request(asked) is None
    assert not asked.request.has(b"x-sub")
    assert asked.record.metadata == {}


@pytest.mark.parametrize(("configured", "sent"), [("x-sub", "x_sub"), ("x_sub", "x-sub"), ("x-a-b", "X_A-b")])
def test_an_underscore_is_no_way_around_that(configured: str, sent: str) -> None:
    asked = context((sent, "root"), ("x_other", "1"))
    assert JwtFilter(JwtSettings((), frozenset({configured.encode()}))).on_request(asked) is None
    assert asked.request.names() == [b"host", b"x_other"]


def test_of_failed_tokens_nothing_is_told() -> None:
    asked = context(OLD, OF_C)
    assert made(allow_missing_or_failed([A, C])).on_request(asked) is None
    assert asked.record.metadata == {NAME: {"payload": {"iss": "c", "sub": "ann"}}}
    assert asked.request.has(b"authorization")


def test_the_first_rule_that_matches_holds() -> None:
    rules = (
        Rule(lambda head: head.path.startswith(b"/open"), None),
        Rule(lambda head: head.path.startswith(b"/"), from_provider(A)),
    )
    found = JwtFilter(JwtSettings(rules))
    assert found.on_request(context(path="/open")) is None
    assert isinstance(found.on_request(context(path="/else")), LocalReply)


@pytest.mark.parametrize(
    ("fields", "status", "reason", "challenge"),
    [
        (NONE, 401, MISSING, 'Bearer realm="http://a.test/a?b=\\"c"'),
        ([BAD], 401, FORM, 'Bearer realm="http://a.test/a?b=\\"c", error="invalid_token"'),
        (
            [OF_A, ("x-forwarded-proto", "https")], 403, Status.AUDIENCE.value,
            'Bearer realm="https://a.test/a?b=\\"c", error="invalid_token"',
        ),
    ],
)  # fmt: skip
def test_who_is_refused_is_told_why(
    fields: Sequence[tuple[str, str]], status: int, reason: str, challenge: str
) -> None:
    needed = from_provider(A, frozenset({"special"}))
    verdict = made(needed).on_request(context(*fields, path='/a?b="c'))
    details = f"jwt_authn_access_denied{{{reason.replace(' ', '_')}}}"
    headers = ((b"www-authenticate", challenge.encode()),)
    assert verdict == LocalReply(status, Flag.NONE, details, reason.encode(), headers)
    assert made(needed, strip_failure_response=True).on_request(context(*fields)) == LocalReply(
        status, Flag.NONE, details
    )


def test_browsers_ask_first_without_a_token() -> None:
    preflight = ("origin", "http://a"), ("access-control-request-method", "GET")
    counters = Counters()
    found = made(from_provider(A), bypass_cors_preflight=True, stat_prefix="mine")
    found.connect(counters)  # type: ignore[arg-type]  # the rest of Services is not asked for
    assert found.on_request(context(*preflight, method="OPTIONS")) is None
    for fields, method in ((preflight, "GET"), (preflight[:1], "OPTIONS"), (preflight[1:], "OPTIONS")):
        assert isinstance(found.on_request(context(*fields, method=method)), LocalReply)
    stats = counters.metrics.prefixes["mine"]
    assert (stats.cors_preflight_bypassed, stats.denied, stats.allowed) == (1, 3, 0)


class Counters:
    """Of filters.services.Services, what this filter uses."""

    def __init__(self) -> None:
        self.metrics = JwtMetrics()

    def jwt_stats(self, prefix: str) -> JwtStats:
        return self.metrics.of(prefix)


def test_prometheus_sees_every_prefix() -> None:
    metrics = JwtMetrics()
    metrics.of("").denied = 3
    found = {family.name: [(s.labels, s.value) for s in family.samples] for family in metrics.collect()}
    assert found["envoy_http_jwt_authn_denied"] == [({"envoy_jwt_authn_prefix": ""}, 3)]
    assert found["envoy_http_jwt_authn_jwt_cache_hit"] == [({"envoy_jwt_authn_prefix": ""}, 0)]
