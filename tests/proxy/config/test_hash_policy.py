"""Hash policies: the keys are held against a real Envoy in tests/conformance/test_upstreams.py; here is the rest."""

import pytest
from envoy.config.route.v3.route_components_pb2 import RouteAction
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy

from pymesh.errors import ConfigError
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import parse_request
from pymesh_proxy.config.hash_policy import Policy, hash_of_source, hash_policy, hashes_source
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.upstream.hashing import xxh64
from tests.support.xds import message

FACTS = Facts("outbound", "10.0.0.1:4711", "10.0.0.2:80")


def policy(*texts: str) -> Policy:
    found = hash_policy(message(RouteAction, f"hash_policy: [{', '.join(texts)}]").hash_policy, "p")
    assert found is not None
    return found


def request(headers: bytes = b"", target: bytes = b"/") -> Head:
    parsed = parse_request(b"GET %b HTTP/1.1\r\nHost: a.test\r\n%b\r\n" % (target, headers))
    assert parsed is not None
    return parsed[0]


def test_no_policy_is_none() -> None:
    assert hash_policy([], "p") is None


def test_what_is_not_there_has_no_key() -> None:
    found = policy("{header: {header_name: X-User}}", "{cookie: {name: a}}", "{query_parameter: {name: q}}",
                   "{connection_properties: {}}")  # fmt: skip
    assert found(request(), FACTS) == (None, ())
    assert found(request(b"x-user:  a \r\n"), FACTS) == (xxh64(b"a"), ())


@pytest.mark.parametrize(
    ("name", "value"), [(":authority", b"a.test"), ("host", b"a.test"), (":path", b"/x?y"), (":method", b"GET")]
)
def test_parts_of_the_request_line_are_headers_too(name: str, value: bytes) -> None:
    assert policy(f"{{header: {{header_name: '{name}'}}}}")(request(target=b"/x?y"), FACTS) == (xxh64(value), ())


def test_the_same_value_twice_is_not_nothing() -> None:
    once, twice = (policy(*["{header: {header_name: a}}"] * count)(request(b"a: b\r\n"), FACTS)[0] for count in (1, 2))
    assert once is not None
    assert twice == (once << 1 & 2**64 - 1 | once >> 63) ^ once


def test_a_terminal_policy_ends_the_search_only_if_there_is_a_key() -> None:
    found = policy("{header: {header_name: a}, terminal: true}", "{connection_properties: {source_ip: true}}")
    assert found(request(b"a: b\r\n"), FACTS)[0] == xxh64(b"b")
    assert found(request(), FACTS)[0] == hash_of_source(FACTS) == xxh64(b"10.0.0.1")


def test_the_source_is_the_address_without_its_port() -> None:
    assert hash_of_source(Facts("outbound", "[fd00::1]:5", "")) == xxh64(b"fd00::1")


def test_a_cookie_is_the_same_for_all_requests_of_a_connection() -> None:
    found = policy("{cookie: {name: a, ttl: 5s, path: /x}}")
    key, (cookie,) = found(request(), FACTS)
    assert found(request(b"cookie: b=c\r\n"), FACTS) == (key, (cookie,))
    assert cookie.startswith(b'a="')
    assert cookie.endswith(b'"; Max-Age=5; Path=/x; HttpOnly')
    value = cookie[3:19]
    assert found(request(b"cookie: a=%b\r\n" % value), FACTS) == (key, ())
    assert found(request(), Facts("outbound", "10.0.0.1:4712", "10.0.0.2:80")) != (key, (cookie,))


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("{}", "p[0]", "one of these is required"),
        ("{header: {}}", "p[0].header.header_name", "is required"),
        ("{cookie: {}}", "p[0].cookie.name", "is required"),
        ("{cookie: {name: 'a b'}}", "p[0].cookie.name", "printable"),
        ('{cookie: {name: a, path: "/\\r\\nx"}}', "p[0].cookie.path", "printable"),
        ('{cookie: {name: a, attributes: [{name: "a\\nb"}]}}', "p[0].cookie.attributes[0].name", "printable"),
        ("{cookie: {name: a, attributes: [{name: a, value: 'b;c'}]}}", "p[0].cookie.attributes[0].value", "printable"),
        ("{query_parameter: {}}", "p[0].query_parameter.name", "is required"),
    ],
)
def test_policies_that_are_refused(text: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy(text)
    assert (caught.value.path, problem in caught.value.problem) == (path, True)


def test_opaque_connections() -> None:
    assert not hashes_source(TcpProxy(), "t")
    assert hashes_source(message(TcpProxy, "hash_policy: [{source_ip: {}}]"), "t")
    with pytest.raises(ConfigError, match="at most one"):
        hashes_source(message(TcpProxy, "hash_policy: [{source_ip: {}}, {source_ip: {}}]"), "t")
    with pytest.raises(ConfigError, match="one of these is required"):
        hashes_source(message(TcpProxy, "hash_policy: [{}]"), "t")
