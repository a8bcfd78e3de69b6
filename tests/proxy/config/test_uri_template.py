"""Path templates; which paths they match, tests/conformance/test_rbac.py compares with Envoy."""

import pytest

from pymesh.errors import ConfigError
from pymesh_proxy.config.uri_template import uri_template


@pytest.mark.parametrize(
    ("template", "start", "matching", "others"),
    [
        ("/", b"/", "/", "/a //"),
        ("/a/b", b"/a/b", "/a/b", "/a/b/ /a/bc /a"),
        ("/a/*", b"/a/", "/a/b /a/%20;x=1", "/a/ /a /a/b/c /a/b/"),
        ("/a/*/c", b"/a/", "/a/b/c", "/a/c /a/b/b/c"),
        ("/a/**", b"/a/", "/a/ /a/b /a/b/c", "/a /ab"),
        ("/**", b"/", "/ /a /a/b", "a"),
        ("/*.txt", b"/", "/a.txt /.a.txt", "/.txt /a/b.txt /atxt"),
        ("/a/{id}/b/{rest=**}", b"/a/", "/a/1/b/ /a/1/b/2/3", "/a/b /a//b/"),
        ("/{shop=s/*}/x", b"/", "/s/1/x", "/s/x /t/1/x"),
        ("/a+(b)", b"/a+(b)", "/a+(b)", "/aab"),
        ("/a/", b"/a/", "/a/", "/a"),
    ],
)
def test_which_paths_match(template: str, start: bytes, matching: str, others: str) -> None:
    accepts, found = uri_template(template, "t")
    assert found == start
    for path in matching.split():
        assert accepts(path.encode().replace(b";x=1", b";x")), path
    for path in others.split():
        assert not accepts(path.encode()), path


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("", "begins with /"),
        ("a", "begins with /"),
        ("/a b", "no blanks"),
        ("/a//b", "no part of a path template"),
        ("/a*", "no part"),
        ("/*a/b", "no part"),
        ("/***", "no part"),
        ("/{*}", "not a name"),
        ("/{a", "no part"),
        ("/{a=}", "no part"),
        ("/{a=b/}", "no part"),
        ("/{a}/{a}", "twice"),
        ("/{a}/{b}/{c}/{d}/{e}/{f}", "more than 5"),
        ("/{seventeen_letters}", "at most 16"),
        ("/**/*", "nothing but literal"),
        ("/**/{a}", "nothing but literal"),
        ("/a=b", "no part"),
    ],
)
def test_what_is_no_template(template: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        uri_template(template, "here")
    assert str(refused.value).startswith("here")
