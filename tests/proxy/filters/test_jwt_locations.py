"""Where tokens stand, and that they are gone when they are to be."""

import pytest

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import parse_request
from pymesh_proxy.filters.jwt_locations import CookieLocation, HeaderLocation, Location, ParamLocation

BEARER = HeaderLocation(b"authorization", b"Bearer ")


def head(path: str = "/", *fields: str) -> Head:
    lines = "".join(f"{field}\r\n" for field in ("host: a", *fields))
    parsed = parse_request(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
    assert parsed is not None
    return parsed[0]


@pytest.mark.parametrize(
    ("location", "request_head", "tokens"),
    [
        (BEARER, head(), []),
        (BEARER, head("/", "Authorization: Bearer a.b.c"), [b"a.b.c"]),
        (BEARER, head("/", "Authorization: bearer a.b.c"), []),
        (BEARER, head("/", "Authorization: Bearer   a.b.c"), [b"a.b.c"]),
        (BEARER, head("/", "Authorization: Bearer a", "authorization: Bearer b"), [b"a,Bearer b"]),
        (BEARER, head("/", "Authorization: Basic a"), []),
        (BEARER, head("/", "Authorization: Bearer =="), [b"Bearer =="]),
        (HeaderLocation(b"x-jwt", b""), head("/", "x-jwt: a b"), [b"a b"]),
        (HeaderLocation(b"x-jwt", b""), head("/", "x-jwt:"), [b""]),
        (ParamLocation(b"t"), head("/?t=a.b"), [b"a.b"]),
        (ParamLocation(b"t"), head("/t=a"), []),
        (ParamLocation(b"t"), head("/?tt=a&T=b&t"), [b""]),
        (ParamLocation(b"t"), head("/?t=a&x=1&%74=%62"), [b"a", b"b"]),
        (ParamLocation(b"t"), head("/?t=a%2&t=%zz"), [b"a%2", b"%zz"]),
        (CookieLocation(b"c"), head("/", "cookie: a=1; c=x; b=2", 'cookie: c="y"'), [b"x", b"y"]),
        (CookieLocation(b"c"), head("/", "cookie: cc=x; C=y"), []),
    ],
)
def test_every_value_of_a_place_is_found(location: Location, request_head: Head, tokens: list[bytes]) -> None:
    assert location.tokens(request_head) == tokens


@pytest.mark.parametrize(
    ("location", "request_head", "path", "fields"),
    [
        (BEARER, head("/a?b", "x: 1", "Authorization: Bearer a"), b"/a?b", [(b"x", b"1")]),
        (ParamLocation(b"t"), head("/a?t=a"), b"/a", []),
        (ParamLocation(b"t"), head("/a?b=%41&t=a&%74=b&c"), b"/a?b=%41&c", []),
        (CookieLocation(b"c"), head("/", "cookie: a=1; c=x; b=2"), b"/", [(b"cookie", b"a=1; b=2")]),
        (CookieLocation(b"c"), head("/", "cookie: c=x", "cookie: c=y;c=z"), b"/", []),
    ],
)
def test_what_is_removed_is_gone_and_the_rest_stays(
    location: Location, request_head: Head, path: bytes, fields: list[tuple[bytes, bytes]]
) -> None:
    location.remove(request_head)
    assert location.tokens(request_head) == []
    assert request_head.path == path
    assert [item for item in request_head.items() if item[0] != b"host"] == fields
