"""String, header and query parameter matchers."""

import pytest
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, QueryParameterMatcher
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import SubjectAltNameMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from pymesh.errors import ConfigError
from pymesh_proxy.config import matchers
from tests.support.heads import request
from tests.support.xds import message


@pytest.mark.parametrize(
    ("matcher", "yes", "no"),
    [
        ("{exact: v1}", ["v1"], ["V1", "v11", ""]),
        ("{exact: V1, ignore_case: true}", ["v1", "V1"], ["v2"]),
        ("{exact: ''}", [""], ["x"]),
        ("{prefix: v}", ["v", "v1"], ["V1", ""]),
        ("{suffix: .COM, ignore_case: true}", ["a.com", "A.CoM"], ["a.org"]),
        ("{contains: b}", ["abc"], ["ac"]),
        ("{safe_regex: {regex: 'v[0-9]+'}}", ["v1", "v22"], ["xv1", "v1x", "v"]),
        ("{safe_regex: {regex: 'v[0-9]+'}, ignore_case: true}", ["V1"], ["w1"]),
    ],
)
def test_strings(matcher: str, yes: list[str], no: list[str]) -> None:
    accepts = matchers.string(message(StringMatcher, matcher), "")
    assert [value for value in yes + no if accepts(value.encode())] == yes


@pytest.mark.parametrize(
    ("matcher", "path", "problem"),
    [
        ("{}", "m", "one of these is required"),
        ("{prefix: ''}", "m.prefix", "is required"),
        ("{safe_regex: {regex: ''}}", "m.safe_regex.regex", "is required"),
        ("{safe_regex: {regex: '(a)\\1'}}", "m.safe_regex.regex", "not a pattern of RE2"),
        ("{safe_regex: {regex: 'a(?=b)'}}", "m.safe_regex.regex", "not a pattern of RE2"),
        ("{safe_regex: {regex: '('}}", "m.safe_regex.regex", "missing"),
    ],
)
def test_strings_that_are_refused(matcher: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        matchers.string(message(StringMatcher, matcher), "m")
    assert caught.value.path == path


def test_a_pattern_takes_linear_time_whatever_it_is() -> None:
    accepts = matchers.string(message(StringMatcher, "{safe_regex: {regex: '(a+)+b'}}"), "")
    assert not accepts(b"a" * 50_000)


SENT = [("x-version", "v1"), ("x-many", "a"), ("x-many", "b"), ("x-list", "a, b"), ("x-number", "42"), ("x-empty", "")]


@pytest.mark.parametrize(
    ("matcher", "expected"),
    [
        ("{name: X-Version, exact_match: v1}", True),
        ("{name: x-version, exact_match: v2}", False),
        ("{name: x-version, exact_match: v2, invert_match: true}", True),
        ("{name: x-version, prefix_match: v}", True),
        ("{name: x-version, suffix_match: '1'}", True),
        ("{name: x-version, contains_match: 'v'}", True),
        ("{name: x-version, safe_regex_match: {regex: 'v.'}}", True),
        ("{name: x-version, string_match: {exact: V1, ignore_case: true}}", True),
        ("{name: x-version}", True),
        ("{name: x-version, present_match: true}", True),
        ("{name: x-version, present_match: false}", False),
        ("{name: x-none, present_match: false}", True),
        ("{name: x-none, present_match: true, invert_match: true}", True),
        ("{name: x-none}", False),
        ("{name: x-none, exact_match: v1, invert_match: true}", False),
        ("{name: x-none, exact_match: v1, invert_match: true, treat_missing_header_as_empty: true}", True),
        ("{name: x-none, exact_match: '', treat_missing_header_as_empty: true}", True),
        ("{name: x-empty, exact_match: ''}", True),
        ("{name: x-many, exact_match: 'b'}", True),
        ("{name: x-many, exact_match: 'a, b'}", False),
        ("{name: x-many, exact_match: 'b', invert_match: true}", False),
        ("{name: x-many, exact_match: 'c', invert_match: true}", True),
        ("{name: x-list, exact_match: 'a, b'}", True),
        ("{name: ':path', exact_match: '/a?b,c'}", True),
        ("{name: x-number, range_match: {start: 42, end: 43}}", True),
        ("{name: x-number, range_match: {start: 0, end: 42}}", False),
        ("{name: x-version, range_match: {start: 0, end: 42}}", False),
        ("{name: ':method', exact_match: GET}", True),
        ("{name: ':path', prefix_match: '/a?'}", True),
        ("{name: ':authority', exact_match: reviews}", True),
        ("{name: host, exact_match: reviews}", True),
    ],
)
def test_headers(matcher: str, expected: bool) -> None:
    matches = matchers.header(message(HeaderMatcher, matcher), "")
    assert matches(request("/a?b,c", headers=SENT)) is expected


@pytest.mark.parametrize(
    ("matcher", "path"),
    [("{exact_match: x}", "h.name"), ("{name: ':scheme', exact_match: x}", "h.name"),
     ("{name: a, prefix_match: ''}", "h.prefix_match"), ("{name: a, string_match: {}}", "h.string_match")],
)  # fmt: skip
def test_headers_that_are_refused(matcher: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        matchers.header(message(HeaderMatcher, matcher), "h")
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("matcher", "target", "expected"),
    [
        ("{name: a}", "/?a", True),
        ("{name: a}", "/?b=a", False),
        ("{name: a, present_match: true}", "/?x=1&a=", True),
        ("{name: a, string_match: {exact: '1'}}", "/?a=1&a=2", True),
        ("{name: a, string_match: {exact: '2'}}", "/?a=1&a=2", False),
        ("{name: a, string_match: {exact: '1'}}", "/a=1", False),
        ("{name: a, string_match: {exact: 'b%20c'}}", "/?a=b%20c", True),
    ],
)
def test_query_parameters(matcher: str, target: str, expected: bool) -> None:
    assert matchers.query_parameter(message(QueryParameterMatcher, matcher), "")(request(target)) is expected


def test_the_absence_of_a_parameter_cannot_be_matched() -> None:
    with pytest.raises(ConfigError) as caught:
        matchers.query_parameter(message(QueryParameterMatcher, "{name: a, present_match: false}"), "q")
    assert caught.value.path == "q.present_match"


def test_a_uri_matcher_takes_uris_only_and_a_dns_matcher_names_only() -> None:
    uri = matchers.subject_alt_name(message(SubjectAltNameMatcher, "{san_type: URI, matcher: {contains: a}}"), "")
    dns = matchers.subject_alt_name(message(SubjectAltNameMatcher, "{san_type: DNS, matcher: {contains: a}}"), "")
    both = matchers.any_subject_alt_name(message(StringMatcher, "{contains: a}"), "")
    sans = ["spiffe://a/ns/b", "a.example", "spiffe://x"]
    assert [[accepts(san) for san in sans] for accepts in (uri, dns, both)] == [
        [True, False, False], [False, True, False], [True, True, False],
    ]  # fmt: skip
