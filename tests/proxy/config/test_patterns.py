"""Substitutions, and refusals that are not seen through a matcher."""

import pytest
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute

from pymesh.errors import ConfigError
from pymesh_proxy.config.patterns import substitution
from tests.support.xds import message


@pytest.mark.parametrize(
    ("rewrite", "before", "after"),
    [
        (r"{pattern: {regex: '^/v(\d)/(.*)$'}, substitution: '/\2/v\1'}", b"/v1/foo", b"/foo/v1"),
        (r"{pattern: {regex: 'a'}, substitution: 'b'}", b"/aa/a", b"/bb/b"),
        (r"{pattern: {regex: 'a'}, substitution: '\\\0'}", b"/a", b"/\\a"),
        (r"{pattern: {regex: 'x(y)?'}, substitution: '[\1]'}", b"/x", b"/[]"),
        (r"{pattern: {regex: 'no'}, substitution: ''}", b"/yes", b"/yes"),
    ],
)
def test_substitution(rewrite: str, before: bytes, after: bytes) -> None:
    assert substitution(message(RegexMatchAndSubstitute, rewrite), "")(before) == after


@pytest.mark.parametrize(
    ("rewrite", "path", "problem"),
    [
        (r"{pattern: {regex: 'a'}, substitution: '\1'}", "r.substitution", "no group 1"),
        (r"{pattern: {regex: 'a'}, substitution: '\x'}", "r.substitution", "a backslash needs"),
        ('{pattern: {regex: a}, substitution: "/ HTTP/1.1\\r\\nEvil: 1"}', "r.substitution", "blanks and control"),
        (r"{pattern: {regex: 'a('}, substitution: ''}", "r.pattern.regex", "not a pattern"),
        (r"{substitution: ''}", "r.pattern.regex", "is required"),
        ("{pattern: {regex: '((((a{1000}){1000}){1000}){1000})'}}", "r.pattern.regex", "not a pattern"),
    ],
)
def test_refusals(rewrite: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        substitution(message(RegexMatchAndSubstitute, rewrite), "r")
    assert caught.value.path == path
