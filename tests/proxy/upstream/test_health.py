"""Active health checks: thresholds, intervals, and what answers mean."""

from dataclasses import replace

import pytest

from pymesh_proxy.upstream.endpoint import Endpoint, Health
from pymesh_proxy.upstream.health import HealthCheck, HttpCheck, Progress, Result, found, judge, pause

CHECK = HealthCheck(
    what=HttpCheck("/"), timeout=1, interval=10, unhealthy_threshold=3, healthy_threshold=2, unhealthy_interval=20,
    unhealthy_edge_interval=2, healthy_edge_interval=1, no_traffic_interval=60, no_traffic_healthy_interval=90,
)  # fmt: skip


def new() -> Endpoint:
    endpoint = Endpoint("10.0.0.1", 80)
    endpoint.mark(Health.FAILED_ACTIVE_HC, on=True)
    return endpoint


def after(*results: Result, endpoint: Endpoint | None = None) -> list[str]:
    """The flags of a new endpoint after each result, with `...` while a threshold is not reached."""
    endpoint, progress, seen = endpoint or new(), Progress(), []
    for result in results:
        pending = progress.take(result, endpoint, CHECK)
        seen.append(endpoint.health_flags + ("..." if pending else ""))
    return seen


GOOD, BAD, NETWORK, TIMEOUT, RETRIABLE = Result.GOOD, Result.BAD, Result.NETWORK, Result.TIMEOUT, Result.RETRIABLE
FAILED = "/failed_active_hc"


def test_the_first_check_decides_alone() -> None:
    assert after(GOOD) == ["healthy"]
    assert after(NETWORK) == [FAILED]


def test_later_the_thresholds_do() -> None:
    assert after(GOOD, NETWORK, NETWORK, GOOD, NETWORK, NETWORK, NETWORK) == [
        "healthy", "healthy...", "healthy...", "healthy", "healthy...", "healthy...", FAILED,
    ]  # fmt: skip
    assert after(NETWORK, GOOD, NETWORK, GOOD, GOOD) == [FAILED, f"{FAILED}...", FAILED, f"{FAILED}...", "healthy"]


def test_an_answer_that_says_no_needs_no_threshold() -> None:
    assert after(GOOD, BAD) == ["healthy", FAILED]
    assert after(GOOD, RETRIABLE, RETRIABLE, RETRIABLE) == ["healthy", "healthy...", "healthy...", FAILED]


def test_a_timeout_is_told() -> None:
    assert after(TIMEOUT, NETWORK, TIMEOUT, GOOD, GOOD) == [
        f"{FAILED}/active_hc_timeout", FAILED, f"{FAILED}/active_hc_timeout", f"{FAILED}/active_hc_timeout...",
        "healthy",
    ]  # fmt: skip


def test_who_says_so_is_degraded() -> None:
    endpoint = new()
    assert after(Result.DEGRADED, GOOD, Result.DEGRADED, endpoint=endpoint) == [
        "/degraded_active_hc", "healthy", "/degraded_active_hc",
    ]  # fmt: skip
    assert (endpoint.healthy, endpoint.degraded) == (False, True)


@pytest.mark.parametrize(
    ("good", "pending", "traffic", "seconds"),
    [
        (True, False, True, 10), (False, False, True, 20), (False, True, True, 2), (True, True, True, 1),
        (True, False, False, 90), (False, True, False, 60),
    ],
)  # fmt: skip
def test_pauses(good: bool, pending: bool, traffic: bool, seconds: float) -> None:
    assert pause(CHECK, good=good, pending=pending, traffic=traffic, random=lambda: 0.9) == seconds
    jittered = replace(CHECK, jitter=2, jitter_percent=50)
    half = pause(jittered, good=good, pending=pending, traffic=traffic, random=lambda: 0.5)
    assert half == pytest.approx(seconds + 1 + seconds / 4)


def test_statuses() -> None:
    check = HttpCheck("/", expected=((200, 201), (300, 310)), retriable=((500, 503),))
    assert [judge(check, status, degraded=False) for status in (200, 201, 309, 310, 500, 503)] == [
        GOOD, BAD, GOOD, BAD, RETRIABLE, BAD,
    ]  # fmt: skip
    assert judge(check, 200, degraded=True) is Result.DEGRADED
    assert judge(check, 404, degraded=True) is BAD


def test_what_has_to_come_comes_in_order() -> None:
    assert found((b"HTTP", b"200"), b"xHTTP/1.1 200")
    assert not found((b"200", b"HTTP"), b"HTTP/1.1 200")
    assert not found((b"aa", b"aa"), b"aaa")
    assert found((), b"")
