"""The same bootstrap: pymesh-proxy chooses, watches and checks endpoints as a real Envoy does."""

import re
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from string import Template
from typing import Final

import pytest

from tests.conformance.sides import Answer, Side, Situation, ask, both_proxies
from tests.support.echo import EchoServer
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.envoy

Sides = tuple[Side, Side]
USERS: Final = [f"user-{number}" for number in range(40)]
COOKIE: Final = re.compile(r'(\w+)="([0-9a-f]{16})"(.*)')


def endpoint(port: object, weight: int = 1) -> str:
    at = f"{{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}"
    return f"{{endpoint: {at}, load_balancing_weight: {weight}}}"


def group(*endpoints: str, more: str = "") -> str:
    return f"{{lb_endpoints: [{', '.join(endpoints)}]{more}}}"


@pytest.fixture(scope="module")
def servers() -> Iterator[list[EchoServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(EchoServer(name)) for name in "abcd"]


@pytest.fixture(scope="module")
def sides(servers: list[EchoServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    ports = [server.port for server in servers]
    four = [endpoint(port) for port in ports]
    near = ", load_balancing_weight: 3, locality: {region: r, zone: b}"
    far = ", load_balancing_weight: 1, locality: {region: r, zone: a}"
    text = Template(Path(__file__).with_name("upstreams.yaml").read_text()).safe_substitute(
        FOUR=group(*four),
        WEIGHTED=group(*(endpoint(port, weight) for port, weight in zip(ports, (1, 2, 3, 5), strict=True))),
        LOCAL=f"{group(*four[:1], more=near)}, {group(*four[1:], more=far)}",
        ONE=group(four[0]),
        ONE_AND_DEAD=group(four[0], endpoint("${DEAD}")),
        SECOND=group(four[1], more=", priority: 1"),
        DEAD_ALONE=group(endpoint("${DEAD}")),
        DEAD_THEN_ONE=f"{group(endpoint('${DEAD}'))}, {group(four[0], more=', priority: 1')}",
    )
    with both_proxies(tmp_path_factory.mktemp("upstreams"), servers[0], servers[1], text) as running:
        yield running


def get(side: Side, host: str, path: str = "/", status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Answer:
    return side.ask(Situation("", status, path, host=f"{host}.test", headers=tuple(headers)))


def server(side: Side, host: str, path: str = "/", headers: Sequence[tuple[str, str]] = ()) -> str:
    return str(get(side, host, path, headers=headers).upstream["server"])


def admin(side: Side, page: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{side.admin}{page}", timeout=5) as answer:
        return str(answer.read().decode())


def flags(side: Side, cluster: str) -> list[str]:
    """The health flags of a cluster's endpoints, as /clusters shows them, ordered."""
    return sorted(re.findall(rf"^{cluster}::\S+::health_flags::(\S+)$", admin(side, "/clusters"), re.MULTILINE))


def shows(side: Side, cluster: str, expected: list[str]) -> bool:
    """Whether these are the flags of the cluster's endpoints."""
    return flags(side, cluster) == expected


def has_failed(side: Side, cluster: str) -> bool:
    """Whether a check of the cluster has failed."""
    return "/failed_active_hc" in flags(side, cluster)


def answers(side: Side, host: str, status: int) -> bool:
    """Whether a request to `host` is answered with `status`."""
    return get(side, host).status == status


def has_been_ejected(side: Side, cluster: str) -> bool:
    """Whether an endpoint of the cluster is out for its failures."""
    return "/failed_outlier_check" in flags(side, cluster)


def soon(look: Callable[[], object], expected: object, side: Side) -> None:
    """See `expected` as soon as Envoy's worker has told its main thread, which shows it."""
    eventually_sync(lambda: look() == expected, what=f"{side.name}: {expected}")


def counted(side: Side, cluster: str, name: str) -> float:
    """A counter or gauge; our counters end in `_total`, as Prometheus' own do."""
    pattern = rf'^envoy_cluster_{name}(?:_total)?{{envoy_cluster_name="{cluster}"}} (\S+)$'
    found = re.search(pattern, admin(side, "/stats/prometheus"), re.MULTILINE)
    assert found is not None, f"{side.name} has no {name}"
    return float(found[1])


# --- Consistent hashing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["header", "murmur", "weighted", "local", "regex"])
def test_a_header_leads_to_the_same_endpoint(sides: Sides, host: str) -> None:
    envoy, pymesh = ([server(side, host, headers=[("x-user", user)]) for user in USERS] for side in sides)
    assert pymesh == envoy
    assert (len(set(envoy)) == 1) is (host == "regex"), "or there is nothing to compare"


@pytest.mark.parametrize(
    ("host", "path", "headers"),
    [
        ("header", "/", [("x-user", "a"), ("X-User", "b")]),
        ("header", "/", [("x-user", "b"), ("x-user", "a")]),
        ("header", "/", [("x-user", "")]),
        ("header", "/", [("x-user", "a long value, which is more than the thirty-two bytes of a stripe")]),
        ("query", "/?user=a", []),
        ("query", "/?x=y&user=b&user=c", []),
        ("query", "/?user=%61", []),
        ("query", "/?user=", []),
        ("source", "/", []),
        ("source", "/", [("x-user", "b")]),
        ("cookie", "/", [("cookie", "session=abc")]),
        ("cookie", "/", [("cookie", "x=y; session=abcd; z=1")]),
        ("cookie", "/", [("cookie", "x=y"), ("cookie", "session=abcde")]),
        ("cookie", "/", [("cookie", 'session="quoted"')]),
        ("several", "/?user=a", [("x-user", "a")]),
        ("several", "/?user=a", [("x-user", "b")]),
        ("several", "/?user=b", []),
        ("terminal", "/?user=a", [("x-user", "a")]),
        ("terminal", "/?user=c", [("x-user", "a")]),
        ("terminal", "/?user=c", []),
    ],
)
def test_other_keys_do_too(sides: Sides, host: str, path: str, headers: list[tuple[str, str]]) -> None:
    envoy, pymesh = (server(side, host, path, headers) for side in sides)
    assert pymesh == envoy


@pytest.mark.parametrize(
    ("host", "rest"),
    [("made", "; Max-Age=60; Path=/here; HttpOnly"), ("forever", "; SameSite=Strict; Secure; HttpOnly")],
)
def test_a_cookie_is_made_and_leads_back(sides: Sides, host: str, rest: str) -> None:
    for side in sides:
        answer = get(side, host)
        (cookie,) = answer.header("set-cookie")
        found = COOKIE.fullmatch(cookie)
        assert found is not None, cookie
        assert (found[1], found[3]) == ("session", rest), side.name
        again = get(side, host, headers=[("cookie", f"session={found[2]}")])
        assert again.upstream["server"] == answer.upstream["server"]
        assert not again.header("set-cookie")
        others = {server(other, host, headers=[("cookie", f"session={found[2]}")]) for other in sides}
        assert others == {answer.upstream["server"]}, "the other proxy understands it, too"


def test_no_cookie_is_made_where_none_is_asked_for(sides: Sides) -> None:
    assert [get(side, "cookie").header("set-cookie") for side in sides] == [[], []]


# --- Shares --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "count", "share", "tolerance"),
    [
        ("turns", 110, 1 / 11, 0.02),  # of weights 1, 2, 3 and 5
        ("least", 110, 1 / 11, 0.02),
        ("random", 300, 1 / 4, 0.11),  # no weights; four standard deviations are 10 %
        ("zones", 100, 3 / 4, 0.02),  # alone in its zone, which weighs 3 of 4
        ("spill", 300, 0.7, 0.11),  # half of priority 0 is well, times 1.4; the rest goes to priority 1
    ],
)
def test_shares_of_the_first_endpoint(sides: Sides, host: str, count: int, share: float, tolerance: float) -> None:
    for side in sides:
        if host == "spill":
            expected = ["/failed_active_hc", "healthy", "healthy"]
            eventually_sync(partial(shows, side, host, expected), what=host)
        connection = side.connect()
        try:
            asked = Situation("", 200, "/", host=f"{host}.test")
            found = [ask(connection, asked, side.name).upstream["server"] for _ in range(count)]
        finally:
            connection.close()
        assert found.count("a") / count == pytest.approx(share, abs=tolerance), side.name


# --- Outlier detection ---------------------------------------------------------------------------------------------


def test_an_endpoint_that_fails_is_left_out_and_comes_back(sides: Sides) -> None:
    seen = []
    for side in sides:
        key = [("x-user", "someone")]
        first = server(side, "outlier", headers=key)
        for status in (500, 500, 200, 500, 500):  # never three in a row
            get(side, "outlier", f"/status/{status}", status, key)
        assert flags(side, "outlier") == ["healthy"] * 4
        get(side, "outlier", "/status/500", 500, key)
        soon(partial(flags, side, "outlier"), ["/failed_outlier_check", *["healthy"] * 3], side)
        second = server(side, "outlier", headers=key)
        assert second != first
        for _ in range(3):  # one of four is all that may be out
            get(side, "outlier", "/status/500", 500, key)
        assert flags(side, "outlier") == ["/failed_outlier_check", *["healthy"] * 3]
        gauge = counted(side, "outlier", "outlier_detection_ejections_active")
        eventually_sync(partial(shows, side, "outlier", ["healthy"] * 4), what="back")
        seen.append((
            first, second, server(side, "outlier", headers=key), gauge,
            *(counted(side, "outlier", f"outlier_detection_ejections_{name}") for name in (
                "active", "enforced_total", "overflow", "detected_consecutive_5xx", "enforced_consecutive_5xx",
                "detected_success_rate", "detected_consecutive_gateway_failure",
            )),
        ))  # fmt: skip
    assert seen[1] == seen[0]


def test_gateway_failures_are_counted_by_themselves(sides: Sides) -> None:
    for side in sides:
        key = [("x-user", "x")]
        for status in (502, 500, 503, 500):
            get(side, "gateway", f"/status/{status}", status, key)
        assert "/failed_outlier_check" not in flags(side, "gateway"), side.name
        for status in (502, 504):
            get(side, "gateway", f"/status/{status}", status, key)
        eventually_sync(partial(has_been_ejected, side, "gateway"), what=side.name)


@pytest.mark.parametrize(
    ("cluster", "path", "status", "ejected"),
    [
        ("split-dead", "/", 503, (1, 0)),  # no connection
        ("split", "/break/9", 503, (0, 0)),  # a connection, which ends a row of failures, and breaks
        ("split", "/status/500", 500, (0, 1)),
    ],
)
def test_local_failures_are_told_apart_from_those_of_the_server(
    sides: Sides, cluster: str, path: str, status: int, ejected: tuple[int, int]
) -> None:
    kinds = ("consecutive_local_origin_failure", "consecutive_5xx")
    for side in sides:
        for _ in range(2):
            get(side, cluster, path, status, [("x-user", "y"), ("x-test", f"split-{side.name}")])
        for kind, times in zip(kinds, ejected, strict=True):
            soon(partial(counted, side, cluster, f"outlier_detection_ejections_enforced_{kind}"), times, side)


def test_of_few_none_is_ejected_unless_that_is_asked_for(sides: Sides) -> None:
    for side in sides:
        for _ in range(4):
            get(side, "few", "/status/500", 500)
        assert flags(side, "few") == ["healthy"], side.name
        soon(partial(counted, side, "few", "outlier_detection_ejections_overflow"), 2, side)


def test_a_timeout_counts_as_a_failure(sides: Sides) -> None:
    for side in sides:
        for _ in range(2):
            get(side, "late", "/slow/1.0", 504)
        soon(partial(flags, side, "late"), ["/failed_outlier_check"], side)
        assert get(side, "late").status == 200, "in a panic all are used"


# --- Active health checks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("checked-http", ["/failed_active_hc", "healthy"]),
        ("checked-status", ["/failed_active_hc"] * 4),
        ("calm", ["/failed_active_hc"] * 4),
        ("expected", ["healthy"]),
        ("slow", ["/failed_active_hc/active_hc_timeout"]),
        ("checked-tcp", ["/failed_active_hc", "healthy"]),
        ("spoken-tcp", ["healthy"]),
        ("failover", ["/failed_active_hc", "healthy"]),
    ],
)
def test_endpoints_are_checked(sides: Sides, cluster: str, expected: list[str]) -> None:
    for side in sides:
        eventually_sync(partial(shows, side, cluster, expected), what=f"{side.name} {cluster}")
        assert counted(side, cluster, "health_check_attempt") > 0
        assert counted(side, cluster, "membership_healthy") == expected.count("healthy")
        assert counted(side, cluster, "health_check_healthy") == expected.count("healthy")


@pytest.mark.parametrize(("host", "status"), [("http", 200), ("failover", 200), ("panic", 200), ("calm", 503)])
def test_requests_go_by_what_the_checks_found(sides: Sides, host: str, status: int) -> None:
    cluster = {"http": "checked-http", "panic": "checked-status"}.get(host, host)
    for side in sides:
        eventually_sync(partial(has_failed, side, cluster), what=cluster)
        eventually_sync(partial(answers, side, host, status), what=host)
        assert {get(side, host).status for _ in range(10)} == {status}, side.name
    if host == "panic":
        assert all(counted(side, cluster, "lb_healthy_panic") > 0 for side in sides)


def test_what_a_check_says_of_itself(sides: Sides, servers: list[EchoServer]) -> None:
    """The endpoint sees the same request from both."""
    del sides
    asked = [check for check in servers[0].checks if "/healthz" in check]
    assert asked == [("GET", "/healthz", "host: health.test", "user-agent: Envoy/HC")]
