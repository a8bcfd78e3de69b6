"""What makes a message malformed, rule by rule of RFC 9113 section 8."""

import pytest

from pymesh.http2.events import Field, Fields
from pymesh.http2.messages import Kind, MalformedError, section

METHOD, SCHEME, PATH, AUTHORITY = (
    (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"a:80"),
)  # fmt: skip
HEAD = (METHOD, SCHEME, PATH, AUTHORITY)
OK = (b":status", b"200")


def but(*changed: Field) -> Fields:
    """A request with other pseudo-header fields."""
    names = dict(changed)
    return tuple((name, names.get(name, value)) for name, value in HEAD)


@pytest.mark.parametrize(
    "fields",
    [
        HEAD,
        (PATH, AUTHORITY, SCHEME, METHOD),
        (METHOD, SCHEME, PATH, (b"host", b"a")),
        (*HEAD, (b"host", b"a:80")),
        (*HEAD, (b"te", b"trailers"), (b"x", b""), (b"x", b"a\tb \xfc"), (b"cookie", b"a"), (b"cookie", b"b")),
        but((b":method", b"OPTIONS"), (b":path", b"*")),
        but((b":path", b"/a?b=c#\xfc")),
        ((b":method", b"CONNECT"), AUTHORITY),
        (*HEAD, (b"content-length", b"0")),
    ],
)
def test_well_formed_requests(fields: Fields) -> None:
    assert section(Kind.REQUEST, fields).fields == fields


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ((), ":method"),
        ((SCHEME, PATH, AUTHORITY), ":method"),
        ((METHOD, PATH, AUTHORITY), ":scheme"),
        ((METHOD, SCHEME, AUTHORITY), ":path"),
        ((METHOD, SCHEME, PATH), "neither"),
        ((METHOD, SCHEME, PATH, (b":authority", b"")), "neither"),
        ((*HEAD, METHOD), "twice"),
        ((*HEAD, AUTHORITY), "twice"),
        ((*HEAD, OK), ":status' in a request"),
        ((*HEAD, (b":protocol", b"websocket")), ":protocol"),
        ((METHOD, SCHEME, (b"x", b"y"), PATH, AUTHORITY), "after other fields"),
        (but((b":method", b"")), ":method"),
        (but((b":method", b"GET /")), ":method"),
        (but((b":scheme", b"ht tp")), ":scheme"),
        (but((b":path", b"")), ":path"),
        (but((b":path", b"a")), ":path"),
        (but((b":path", b"*")), ":path"),
        (but((b":path", b"/a b")), ":path"),
        (but((b":path", b"/ HTTP/1.1\r\nx: y")), "characters"),
        (but((b":authority", b"user@a")), ":authority"),
        (but((b":authority", b"a b")), ":authority"),
        ((*HEAD, (b"host", b"b")), "the same"),
        ((*HEAD, (b"host", b"a:80"), (b"host", b"a:80")), "the same"),
        (((b":method", b"CONNECT"), AUTHORITY, PATH), "CONNECT"),
        (((b":method", b"CONNECT"), (b"host", b"a")), "CONNECT"),
        ((*HEAD, (b"X", b"y")), "no name"),
        ((*HEAD, (b"", b"y")), "no name"),
        ((*HEAD, (b"a b", b"y")), "no name"),
        ((*HEAD, (b"a:", b"y")), "no name"),
        ((*HEAD, (b"a\0", b"y")), "no name"),
        ((*HEAD, (b"x", b"a\r\nb: c")), "characters"),
        ((*HEAD, (b"x", b"a\nb")), "characters"),
        ((*HEAD, (b"x", b"\0")), "characters"),
        ((*HEAD, (b"x", b"\x7f")), "characters"),
        ((*HEAD, (b"x", b" a")), "characters"),
        ((*HEAD, (b"x", b"a\t")), "characters"),
        ((*HEAD, (b"x", b" ")), "characters"),
        ((*HEAD, (b"connection", b"close")), "no place"),
        ((*HEAD, (b"keep-alive", b"1")), "no place"),
        ((*HEAD, (b"proxy-connection", b"close")), "no place"),
        ((*HEAD, (b"transfer-encoding", b"chunked")), "no place"),
        ((*HEAD, (b"upgrade", b"h2c")), "no place"),
        ((*HEAD, (b"te", b"gzip")), "no place"),
        ((*HEAD, (b"content-length", b"1"), (b"content-length", b"1")), "content-length"),
        ((*HEAD, (b"content-length", b"+1")), "content-length"),
        ((*HEAD, (b"content-length", b"1, 1")), "content-length"),
        ((*HEAD, (b"content-length", b"")), "content-length"),
        ((*HEAD, (b"content-length", b"1" * 19)), "content-length"),
    ],
)
def test_malformed_requests(fields: Fields, text: str) -> None:
    with pytest.raises(MalformedError, match=text):
        section(Kind.REQUEST, fields)


@pytest.mark.parametrize("status", [b"100", b"103", b"200", b"599", b"999"])
def test_well_formed_responses(status: bytes) -> None:
    found = section(Kind.RESPONSE, ((b":status", status), (b"content-length", b"12")))
    assert (found.status, found.length) == (int(status), 12)


@pytest.mark.parametrize(
    "fields",
    [
        (), ((b"x", b"y"),), ((b":status", b""),), ((b":status", b"20"),), ((b":status", b"2000"),),
        ((b":status", b"099"),), ((b":status", b"2x0"),), ((b":status", b"101"),), (OK, OK), (OK, PATH),
        ((b"x", b"y"), OK), (OK, (b"upgrade", b"x")),
    ],
)  # fmt: skip
def test_malformed_responses(fields: Fields) -> None:
    with pytest.raises(MalformedError):
        section(Kind.RESPONSE, fields)


def test_trailers() -> None:
    assert section(Kind.TRAILERS, ((b"grpc-status", b"0"), (b"content-length", b"5"))).length is None
    with pytest.raises(MalformedError, match=":status' in trailers"):
        section(Kind.TRAILERS, (OK,))


def test_what_is_said_of_a_malformed_message_is_bounded_and_plain() -> None:
    with pytest.raises(MalformedError) as caught:
        section(Kind.REQUEST, (*HEAD, (b"\r\nforged " + b"x" * 1000, b"y")))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
