"""The same bootstrap, the same requests: pymesh-proxy answers as a real Envoy does."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from tests.conformance.sides import DIFFERENT, DIFFERENT_UPSTREAM, Answer, Side, Situation, ask, both_proxies
from tests.support.echo import EchoServer

pytestmark = pytest.mark.envoy

Sides = tuple[Side, Side]

UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def post(body: bytes, **more: object) -> dict[str, object]:
    return {"method": "POST", "body": body, **more}


def situation(name: str, status: int, path: str, **more: object) -> Situation:
    return Situation(name, status, path, **more)  # type: ignore[arg-type]  # keyword arguments of the table below


SITUATIONS: Final = [
    # --- path ---
    situation("no route", 404, "/nothing"),
    situation("root only", 200, "/"),
    situation("exact path", 200, "/exact"),
    situation("exact path with a query", 200, "/exact?a=b"),
    situation("exact path and more", 404, "/exact/"),
    situation("regex", 200, "/regex/12?x"),
    situation("regex matches the whole path", 404, "/regex/12/"),
    situation("separated prefix", 200, "/separated"),
    situation("below a separated prefix", 200, "/separated/x"),
    situation("beside a separated prefix", 404, "/separatedx"),
    situation("case-insensitive path", 200, "/NO-case/X"),
    situation("prefix", 200, "/prefixed/x?y=z"),
    situation("path with dots", 404, "/a/../prefix"),
    situation("path with escapes", 200, "/prefix%20x"),
    # --- headers, method, query ---
    situation("header exact", 200, "/header", headers=(("x-version", "v2"),)),
    situation("header name in capitals", 200, "/header", headers=(("X-VERSION", "v2"),)),
    situation("second of two header fields", 200, "/header", headers=(("x-version", "v1"), ("x-version", "v2"))),
    situation("header list as one value", 404, "/header", headers=(("x-version", "v1, v2"),)),
    situation("header regex", 200, "/header", headers=(("x-user", "jason"),)),
    situation("header regex matches the whole value", 404, "/header", headers=(("x-user", "xjason"),)),
    situation("header range, first", 200, "/header", headers=(("x-number", "-5"),)),
    situation("header range, end", 404, "/header", headers=(("x-number", "10"),)),
    situation("header range, plus sign", 200, "/header", headers=(("x-number", "+5"),)),
    situation("header range, no number", 404, "/header", headers=(("x-number", "5x"),)),
    situation("inverted header, missing", 404, "/header"),
    situation("inverted header, other", 200, "/header", headers=(("x-not", "yes"),)),
    situation("inverted header, same", 404, "/header", headers=(("x-not", "no"),)),
    situation("absent header", 200, "/absent"),
    situation("absent header, present", 404, "/absent", headers=(("x-not", "a"),)),
    situation("missing header as empty", 200, "/empty"),
    situation("empty header", 200, "/empty", headers=(("x-not", ""),)),
    situation("not an empty header", 404, "/empty", headers=(("x-not", "a"),)),
    situation("method", 200, "/anything", method="DELETE"),
    situation("query parameter", 200, "/query?v=2"),
    situation("first of two query parameters", 404, "/query?v=1&v=2"),
    situation("query parameter without value", 200, "/query?flag"),
    situation("query parameter, escaped", 404, "/query?v=%32"),
    # --- domains ---
    situation("exact domain", 200, "/", host="exact.example"),
    situation("domain in capitals", 200, "/", host="EXACT.Example"),
    situation("domain with port", 200, "/", host="port.example:8080"),
    situation("port that is not in the domain", 200, "/", host="exact.example:80"),
    situation("suffix wildcard", 200, "/", host="a.example"),
    situation("longest suffix wildcard", 200, "/", host="a.deep.example"),
    situation("suffix within a label", 200, "/", host="a-dash.example"),
    situation("prefix wildcard", 200, "/", host="www.x"),
    situation("longest prefix wildcard", 200, "/", host="www.special.x"),
    situation("suffix before prefix", 200, "/", host="www.example"),
    situation("virtual host without routes", 404, "/", host="nothing.test"),
    # --- answers without an upstream ---
    situation("direct response", 418, "/direct"),
    situation("direct response, empty", 204, "/direct-empty"),
    situation("direct response to HEAD", 418, "/direct", method="HEAD"),
    situation("no route for HEAD", 404, "/nothing", method="HEAD"),
    situation("redirect to https", 301, "/to-https?x=y"),
    situation("redirect to https drops port 80", 301, "/to-https", host="any.test:80"),
    situation("redirect path, keeping the query", 302, "/moved?x=y"),
    situation("redirect host and prefix, dropping the query", 308, "/elsewhere/x?y=z"),
    situation("redirect port", 301, "/port", host="any.test:99"),
    situation("redirect by regex", 301, "/user/jo?x"),
    # --- changes on the way ---
    situation("rewrite prefix", 200, "/old/x?y=z"),
    situation("rewrite prefix to slash", 200, "/strip/x"),
    situation("rewrite the whole prefix", 200, "/strip"),
    situation("rewrite by regex", 200, "/v1/foo?v=1"),
    situation("rewrite host", 200, "/host"),
    situation("headers added, set and removed", 200, "/headers",
              headers=(("x-set", "old"), ("x-secret", "s"), ("x-added", "zero"))),
    situation("header added if absent", 200, "/headers", headers=(("x-default", "theirs"),)),
    situation("header set by route and virtual host", 200, "/x", host="levels.test"),
    situation("hop-by-hop headers", 200, "/prefix",
              headers=(("connection", "x-hop, te"), ("x-hop", "1"), ("te", "trailers"), ("keep-alive", "5"))),
    situation("te without trailers", 200, "/prefix", headers=(("te", "gzip"),)),
    situation("te with trailers and more", 200, "/prefix", headers=(("te", "gzip, trailers"),)),
    situation("x-forwarded-proto from outside", 200, "/prefix", headers=(("x-forwarded-proto", "https"),)),
    situation("x-forwarded-for from outside", 200, "/prefix", headers=(("x-forwarded-for", "1.2.3.4"),)),
    situation("x-request-id from outside", 200, "/prefix", headers=(("x-request-id", "mine"),)),
    # --- bodies and methods ---
    situation("HEAD", 200, "/prefix", method="HEAD"),
    situation("POST", 200, "/prefix", **post(b"x" * 100_000)),
    situation("POST in chunks", 200, "/prefix", **post(b"y" * 5000, chunked=True)),
    situation("POST that expects 100", 200, "/prefix", **post(b"e", headers=(("expect", "100-continue"),))),
    situation("PUT without body", 200, "/prefix", method="PUT"),
    situation("OPTIONS", 200, "/prefix", method="OPTIONS"),
    situation("a method of our own", 200, "/prefix", method="PURGE"),
    situation("status of the upstream", 500, "/status/500"),
    situation("no content", 204, "/status/204"),
    situation("not modified", 304, "/status/304"),
    # --- clusters, timeouts, retries ---
    situation("weight 0 gets nothing", 200, "/all-to-b"),
    situation("timeout", 504, "/slow/1.0"),
    situation("within the timeout", 200, "/slow/0.0"),
    situation("timeout of each try", 504, "/try-slow"),
    situation("connection refused", 503, "/dead"),
    situation("connection refused, retried", 503, "/dead-retried"),
    situation("no endpoint", 503, "/nobody"),
    situation("cluster by names", 200, "/strict-dns"),
    situation("cluster by one name, which becomes the host", 200, "/logical-dns"),
    situation("cluster by a name that does not exist", 503, "/unresolved"),
    situation("retry on 5xx, second try good", 200, "/fail/1/503"),
    situation("retry on 5xx, second try bad", 503, "/fail/2/503"),
    situation("retry with a body", 200, "/fail/1/500", **post(b"hello")),
    situation("retry on a status code", 200, "/code"),
    situation("retry on 409", 200, "/conflict"),
    situation("retry on a gateway error", 200, "/gateway"),
    situation("no retries", 503, "/no-retry"),
    situation("connection broken, not retried", 503, "/break/1", **post(b"once")),
    situation("connection broken, retried", 200, "/break-retried"),
]  # fmt: skip

# Answers that the proxies give because an upstream failed: each explains it in words of its own.
OWN_WORDS: Final = {"connection refused", "connection refused, retried", "connection broken, not retried"}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    with (
        EchoServer("a") as a,
        EchoServer("b") as b,
        both_proxies(tmp_path_factory.mktemp("conformance"), a, b) as running,
    ):
        yield running


@pytest.mark.parametrize("situation", SITUATIONS, ids=[one.name for one in SITUATIONS])
def test_same_answer(sides: Sides, situation: Situation) -> None:
    envoy, pymesh = (side.ask(situation) for side in sides)
    assert envoy.status == situation.status, "this is not what Envoy does: the expectation is wrong"
    assert pymesh.status == envoy.status
    assert response_headers(pymesh) == response_headers(envoy)
    assert timed(pymesh) == timed(envoy)
    if situation.name in OWN_WORDS:
        return
    if envoy.upstream:
        assert seen_upstream(pymesh) == seen_upstream(envoy)
    else:
        assert pymesh.body == envoy.body


def response_headers(answer: Answer) -> dict[str, list[str]]:
    return {name: answer.header(name) for name, _ in answer.headers if name not in DIFFERENT}


def timed(answer: Answer) -> bool:
    return bool(answer.header("x-envoy-upstream-service-time"))


def seen_upstream(answer: Answer) -> dict[str, object]:
    """What reached the upstream, without what differs anyway."""
    names = {name for name, _ in answer.upstream["headers"]}  # type: ignore[attr-defined]  # JSON of the echo server
    headers = {name: answer.upstream_header(name) for name in sorted(names - DIFFERENT_UPSTREAM.keys())}
    (request_id,) = answer.upstream_header("x-request-id")
    return {
        **{key: value for key, value in answer.upstream.items() if key != "headers"},
        "headers": headers,
        "request id is random": UUID.fullmatch(request_id) is not None,
    }


def test_a_request_id_is_made_for_each_request(sides: Sides) -> None:
    for side in sides:
        ids = {side.ask(Situation("ids", 200, "/prefix")).upstream_header("x-request-id")[0] for _ in range(3)}
        assert len(ids) == 3
        assert all(UUID.fullmatch(one) for one in ids)


def test_a_connection_is_kept_for_many_requests(sides: Sides) -> None:
    for side in sides:
        connection = side.connect()
        try:
            for number in range(5):
                body = b"" if number % 2 else b"x" * number
                method = "POST" if body else "GET"
                answer = ask(connection, Situation("keep-alive", 200, "/prefix", method=method, body=body), side.name)
                assert answer.status == 200
                assert answer.upstream["body"] == body.decode()
                sock = connection.sock
                assert sock is not None, f"{side.name} closed the connection after request {number}"
        finally:
            connection.close()


def test_weights_share_the_requests(sides: Sides) -> None:
    count = 600
    for side in sides:
        connection = side.connect()
        try:
            split = Situation("split", 200, "/split")
            found = Counter(ask(connection, split, side.name).upstream["server"] for _ in range(count))
        finally:
            connection.close()
        # 75 to 25; four standard deviations are 7 %.
        assert 0.68 < found["a"] / count < 0.82, side.name
