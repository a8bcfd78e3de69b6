"""What a request asks of its own way: the router's headers of Envoy."""

import pytest

from pymesh_proxy.routing import Forward, RetryPolicy
from pymesh_proxy.upstream.overrides import MAX_HEADER_NAMES, OVERRIDES, overridden
from pymesh_proxy.upstream.retry import MAX_RETRIES
from tests.support.heads import request

PLAIN = Forward((("a", 1),), timeout=15.0)
RETRIES = Forward((("a", 1),), timeout=15.0, retry=RetryPolicy(frozenset({"reset"}), 2, per_try_timeout=1.0))


def asked(action: Forward, **headers: str) -> Forward:
    head = request(headers=[(f"x-envoy-{name.replace('_', '-')}", value) for name, value in headers.items()])
    found = overridden(action, head)
    assert not OVERRIDES.intersection(head.names()), "they were for us, and go no further"
    return found


@pytest.mark.parametrize(
    ("value", "timeout"), [("250", 0.25), ("0", None), ("-1", 15.0), ("1e3", 15.0), ("", 15.0), ("9" * 30, 15.0)]
)
def test_the_timeout(value: str, timeout: float | None) -> None:
    assert asked(PLAIN, upstream_rq_timeout_ms=value).timeout == timeout


def test_the_timeout_of_an_attempt() -> None:
    with_policy = asked(RETRIES, upstream_rq_per_try_timeout_ms="300").retry
    assert with_policy is not None
    assert with_policy.per_try_timeout == 0.3
    alone = asked(PLAIN, upstream_rq_per_try_timeout_ms="300").retry
    assert alone is not None
    assert (alone.per_try_timeout, alone.attempts) == (0.3, 0)
    too_long = asked(RETRIES, upstream_rq_timeout_ms="800").retry
    assert too_long is not None
    assert too_long.per_try_timeout is None, "one that is not shorter than the whole has no effect"


def test_when_it_is_tried_again() -> None:
    retry = asked(PLAIN, retry_on="5xx, nonsense,cancelled", retry_grpc_on="unavailable,reset").retry
    assert retry is not None
    assert (retry.on, retry.attempts, retry.least_status) == ({"5xx", "unavailable"}, 1, 400)
    assert retry.telling == {b"grpc-status"}
    more = asked(RETRIES, retry_on="gateway-error", max_retries="5").retry
    assert more is not None
    assert (more.on, more.attempts) == ({"reset", "gateway-error"}, 5)
    bounded = asked(RETRIES, max_retries="999999").retry
    assert bounded is not None
    assert bounded.attempts == MAX_RETRIES
    assert asked(PLAIN, max_retries="5").retry is None
    assert asked(PLAIN, retry_on="nonsense").retry is None


def test_statuses_and_headers_that_are_worth_it() -> None:
    retry = asked(
        PLAIN,
        retry_on="retriable-status-codes,retriable-headers",
        retriable_status_codes="418, 200, x, 99999",
        retriable_header_names="X-Again",
    ).retry
    assert retry is not None
    assert retry.status_codes == {418, 200}
    [matches] = retry.response_headers
    assert matches(request(headers=[("x-again", "")]))
    assert not matches(request())
    many = asked(
        PLAIN, retry_on="retriable-headers", retriable_header_names=",".join(f"x-{n}" for n in range(999))
    ).retry
    assert many is not None
    assert len(many.response_headers) == MAX_HEADER_NAMES
