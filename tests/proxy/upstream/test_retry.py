"""The retry rule: safe retries always, others only where `retry_on` names them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import parse_response
from pymesh_proxy.routing import RetryPolicy
from pymesh_proxy.upstream.retry import (
    CONDITIONS,
    Decision,
    Failure,
    Outcome,
    backoff,
    decide,
    least_status,
    outcome_of_response,
    parse_retry_on,
    telling,
)

CONNECT = Outcome(Failure.CONNECT)
REFUSED = Outcome(Failure.REFUSED, written=True)
RESET_EARLY = Outcome(Failure.RESET)
RESET_LATE = Outcome(Failure.RESET, written=True)
TIMEOUT = Outcome(Failure.TIMEOUT, written=True)


def response(data: bytes) -> Head:
    parsed = parse_response(data)
    assert parsed is not None
    return parsed[0]


def status(code: int, grpc_status: int | None = None) -> Outcome:
    return Outcome(Failure.STATUS, written=True, status=code, grpc_status=grpc_status)


def retried(outcome: Outcome, *on: str, idempotent: bool = False, codes: tuple[int, ...] = ()) -> bool:
    policy = RetryPolicy(frozenset(on), attempts=1, status_codes=frozenset(codes))
    return decide(policy, outcome, 1, idempotent=idempotent, replayable=True) is Decision.RETRY


@pytest.mark.parametrize(
    ("outcome", "for_post", "for_get"),
    [
        (CONNECT, True, True),
        (REFUSED, True, True),
        (RESET_EARLY, True, True),
        (RESET_LATE, False, True),  # RFC 9110 9.2.2: only an idempotent method may have been carried out twice
        (TIMEOUT, False, False),  # the peer may still be at it; only the operator can say that this is fine
        (status(503), False, False),
    ],
)
def test_what_is_retried_without_being_named(outcome: Outcome, for_post: bool, for_get: bool) -> None:
    assert retried(outcome, "retriable-4xx", idempotent=False) is for_post
    assert retried(outcome, "retriable-4xx", idempotent=True) is for_get


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("5xx", [status(500), status(599), RESET_LATE, TIMEOUT], [status(499), status(200)]),
        ("gateway-error", [status(502), status(504), RESET_LATE, TIMEOUT], [status(500), status(505)]),
        ("reset", [RESET_LATE, TIMEOUT], [status(503)]),
        ("reset-before-request", [RESET_EARLY], [RESET_LATE, status(503)]),
        ("connect-failure", [CONNECT], [RESET_LATE, status(503)]),
        ("refused-stream", [REFUSED], [RESET_LATE]),
        ("retriable-4xx", [status(409)], [status(404), status(503)]),
        ("retriable-status-codes", [status(418)], [status(503)]),
        ("retriable-headers", [Outcome(Failure.STATUS, status=200, header=True)], [status(503)]),
        ("envoy-ratelimited", [Outcome(Failure.STATUS, status=429, rate_limited=True)], [status(429)]),
        ("cancelled", [status(200, 1)], [status(200), status(200, 0)]),
        ("deadline-exceeded", [status(200, 4)], [status(200, 1)]),
        ("resource-exhausted", [status(200, 8)], [status(200, 1)]),
        ("internal", [status(200, 13)], [status(200, 1)]),
        ("unavailable", [status(200, 14)], [status(503)]),
    ],
)
def test_what_each_name_covers(name: str, yes: list[Outcome], no: list[Outcome]) -> None:
    assert [outcome for outcome in yes + no if retried(outcome, name, codes=(418,))] == yes


def test_every_name_is_tested() -> None:
    mark = next(mark for mark in test_what_each_name_covers.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]  # set by pytest
    assert {case[0] for case in mark.args[1]} == set(CONDITIONS)


def test_limits() -> None:
    policy = RetryPolicy(frozenset({"5xx"}), attempts=2)
    every = {"idempotent": True, "replayable": True}
    retry, leave, none_left = Decision.RETRY, Decision.LEAVE, Decision.NONE_LEFT
    assert decide(None, CONNECT, 1, **every) is leave
    assert [decide(policy, CONNECT, made, **every) for made in (1, 2, 3)] == [retry, retry, none_left]
    assert decide(policy, status(404), 3, **every) is leave
    assert decide(policy, CONNECT, 3, idempotent=True, replayable=False) is leave
    assert decide(policy, CONNECT, 1, time_left=0.1, **every) is retry
    assert decide(policy, CONNECT, 1, time_left=0.0, **every) is leave
    assert decide(RetryPolicy(frozenset(), attempts=0), CONNECT, 1, **every) is none_left


def test_names_are_parsed_and_unknown_ones_refused() -> None:
    assert parse_retry_on(" 5xx, reset ,,connect-failure") == {"5xx", "reset", "connect-failure"}
    assert parse_retry_on("") == frozenset()
    with pytest.raises(ValueError, match="unknown retry condition 'often'; known are 5xx, cancelled"):
        parse_retry_on("5xx,often")


@given(st.integers(1, 10_000), st.floats(0.001, 10), st.floats(1, 100), st.integers(0, 2**32))
def test_pauses_stay_within_the_window(made: int, base: float, factor: float, seed: int) -> None:
    policy = RetryPolicy(frozenset(), base_interval=base, max_interval=base * factor)
    pause = backoff(policy, made, random.Random(seed).random)
    assert 0 <= pause <= policy.max_interval
    if made == 1:
        assert pause <= base


def test_a_pause_may_be_anywhere_in_the_window() -> None:
    policy = RetryPolicy(frozenset(), base_interval=0.1, max_interval=1.0)
    assert [round(backoff(policy, 1, lambda dice=dice: dice), 3) for dice in (0.0, 0.25, 0.5)] == [0.0, 0.025, 0.05]


def test_the_window_doubles() -> None:
    policy = RetryPolicy(frozenset(), base_interval=0.1, max_interval=1.0)
    assert [round(backoff(policy, made, lambda: 1.0), 3) for made in range(1, 6)] == [0.1, 0.3, 0.7, 1.0, 1.0]


@pytest.mark.parametrize(
    ("status", "proxy_status", "from_mesh", "expected"),
    [
        (503, b'pymesh; error=connection_refused; details="UF"', True, Failure.REFUSED),
        (503, b'pymesh; error=connection_terminated; details="UC"', True, Failure.RESET),
        (503, b'pymesh; error=connection_refused; details="UF"', False, Failure.STATUS),
        (503, b'another; error=connection_refused; details="UF"', True, Failure.STATUS),
        (503, None, True, Failure.STATUS),
        (500, b'pymesh; error=connection_refused; details="UF"', True, Failure.STATUS),
        (421, b'pymesh; error=destination_not_found; details="x"', True, Failure.REFUSED),
        (421, b'pymesh; error=destination_not_found; details="x"', False, Failure.STATUS),
        (421, None, True, Failure.STATUS),
        (404, b'pymesh; error=destination_not_found; details="x"', True, Failure.STATUS),
    ],
)
def test_a_sidecar_s_own_answer_is_told_from_the_app_s(
    status: int, proxy_status: bytes | None, from_mesh: bool, expected: Failure
) -> None:
    lines = b"" if proxy_status is None else b"proxy-status: %b\r\n" % proxy_status
    head = response(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, lines))
    assert outcome_of_response(head, RetryPolicy(frozenset()), from_mesh=from_mesh).failure is expected


def test_what_a_response_says_besides_its_status() -> None:
    head = response(b"HTTP/1.1 200 OK\r\ngrpc-status: 14\r\nx-envoy-ratelimited: true\r\nx-again: 1\r\n\r\n")
    policy = RetryPolicy(frozenset(), response_headers=(lambda found: found.has(b"x-again"),))
    found = outcome_of_response(head, policy, from_mesh=False)
    assert (found.grpc_status, found.rate_limited, found.header) == (14, True, True)
    odd = response(b"HTTP/1.1 200 OK\r\ngrpc-status: many\r\n\r\n")
    assert outcome_of_response(odd, policy, from_mesh=False).grpc_status is None


def test_a_rate_limited_answer_is_tried_again_by_its_own_word_only() -> None:
    limited = Outcome(Failure.STATUS, written=True, status=503, rate_limited=True)
    assert not retried(limited, "5xx", "gateway-error")
    assert retried(limited, "envoy-ratelimited")


@pytest.mark.parametrize(
    ("on", "codes", "least"),
    [
        ({"5xx"}, (), 400),
        ({"5xx"}, (200,), 400),
        ({"retriable-status-codes"}, (200, 503), 200),
        ({"retriable-status-codes"}, (503,), 400),
        ({"unavailable"}, (), 400),
        ({"retriable-headers"}, (), 0),
    ],
)
def test_the_least_status_that_is_looked_at(on: set[str], codes: tuple[int, ...], least: int) -> None:
    assert least_status(frozenset(on), frozenset(codes)) == least


def test_the_fields_that_are_looked_at_whatever_the_status() -> None:
    assert telling(frozenset({"5xx", "reset", "retriable-4xx"})) == set()
    assert telling(frozenset({"5xx", "unavailable", "cancelled"})) == {b"grpc-status"}
    assert telling(frozenset({"internal", "envoy-ratelimited"})) == {b"grpc-status", b"x-envoy-ratelimited"}


@given(
    on=st.frozensets(st.sampled_from(sorted(CONDITIONS))),
    codes=st.frozensets(st.sampled_from([200, 304, 409, 418, 503]), max_size=2),
    code=st.sampled_from([200, 204, 304, 399, 400, 409, 418, 500, 503]),
    lines=st.sets(
        st.sampled_from([b"grpc-status: 14", b"grpc-status: 0", b"x-envoy-ratelimited: true", b"x-again: 1"])
    ),
)
def test_a_response_that_is_not_looked_at_would_not_be_tried_again(
    on: frozenset[str], codes: frozenset[int], code: int, lines: set[bytes]
) -> None:
    head = response(b"\r\n".join([b"HTTP/1.1 %d X" % code, *sorted(lines), b"", b""]))
    policy = RetryPolicy(
        on,
        status_codes=codes,
        response_headers=(lambda found: not found.has(b"x-again"),),
        least_status=least_status(on, codes),
        telling=telling(on),
    )
    if head.status < policy.least_status and not head.has_any(policy.telling):
        outcome = outcome_of_response(head, policy, from_mesh=True)
        assert decide(policy, outcome, 1, idempotent=True, replayable=True) is Decision.LEAVE
