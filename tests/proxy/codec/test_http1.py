"""HTTP/1.1 heads, byte by byte and line by line: what is accepted, and what it means."""

import pytest

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MessageError,
    parse_request,
    parse_response,
    request_has_body,
    response_framing,
)
from pymesh_proxy.codec.shape import NO_FIELDS
from tests.proxy.codec.heads import HOST, get, refusal, request, response

# --- Split points -----------------------------------------------------------------------------------------------------

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nGET /a?b=c HTTP/1.1\r\nHost: a.b:80\r\n\r\n",
    b"POST http://other/x HTTP/1.1\r\nhost:a\r\nContent-Length:  12\t\r\nX: \xff\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    b"PATCH / HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: Chunked\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200\r\n\r\n",
    b"HTTP/1.0 404 \r\nServer: x\r\n\r\n",
    b"HTTP/1.1 999 \xe4\tb\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
]


@pytest.mark.parametrize("data", REQUESTS)
def test_a_request_is_whole_at_its_last_byte_and_not_before(data: bytes) -> None:
    for split in range(len(data)):
        assert parse_request(data[:split]) is None, data[:split]
    for behind in (b"", b"x", b"\r\n", b"GET / HTTP/1.1\r\n", b"\x00\n\xff"):
        parsed = parse_request(data + behind)
        assert parsed is not None
        assert parsed[1] == len(data)


@pytest.mark.parametrize("data", RESPONSES)
def test_a_response_is_whole_at_its_last_byte_and_not_before(data: bytes) -> None:
    for split in range(len(data)):
        assert parse_response(data[:split]) is None, data[:split]
    parsed = parse_response(data + b"\x00hello")
    assert parsed is not None
    assert parsed[1] == len(data)


# --- What a head means ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "host", "path", "authority", "host_sent"),
    [
        (b"GET /a?b#".rstrip(b"#"), b"h", b"/a?b", b"h", b"h"),
        (b"GET //a//../b%2f", b"h:80", b"//a//../b%2f", b"h:80", b"h:80"),
        (b"GET /", b"", b"/", b"", b""),
        (b"GET /", b"[2001:db8::1]:8080", b"/", b"[2001:db8::1]:8080", b"[2001:db8::1]:8080"),
        (b"GET http://h", b"h", b"/", b"h", b"h"),
        (b"GET HTTP://h?q", b"h", b"/?q", b"h", b"h"),
        (b"GET https://other:8/p?q?r", b"h", b"/p?q?r", b"other:8", b"other:8"),
        (b"GET http://Other/", b"other", b"/", b"Other", b"Other"),
        (b"OPTIONS *", b"h", b"*", b"h", b"h"),
        (b"OPTIONS http://h:8001", b"h", b"*", b"h:8001", b"h:8001"),
        (b"OPTIONS http://h/", b"h", b"/", b"h", b"h"),
        (b"OPTIONS http://h?q", b"h", b"/?q", b"h", b"h"),
        (b"CONNECT h:443", b"x", b"h:443", b"h:443", b"x"),
        (b"CONNECT [::1]:443", b"x", b"[::1]:443", b"[::1]:443", b"x"),
    ],
)
def test_the_four_forms_of_a_target(start: bytes, host: bytes, path: bytes, authority: bytes, host_sent: bytes) -> None:
    head = request(get(b"Host: " + host, start=start + b" HTTP/1.1"))
    assert (head.path, head.authority, head.get(b"host")) == (path, authority, host_sent)
    assert head.fields().lower().count(b"host:") == 1


@pytest.mark.parametrize(
    "host", [b"a:", b"a:0", b"a:00080", b"a:65535", b"%C3%a4.a%20:1", b"[fe80::1%25eth0]:1", b":1"]
)
def test_what_a_host_may_be(host: bytes) -> None:
    assert request(get(b"Host: " + host)).authority == host


def test_a_port_is_a_number_of_sixteen_bits() -> None:
    for port in (*range(0, 60_000, 97), *range(59_990, 66_000), *range(66_000, 100_000, 97)):
        data = b"CONNECT a:%d HTTP/1.1\r\nHost: a\r\n\r\n" % port
        if port > 65_535:
            assert refusal(data).details == "http1.invalid_connect_target"
        else:
            assert request(data).authority == b"a:%d" % port


@pytest.mark.parametrize(
    ("version", "lines", "persistent"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"Connection: close"], False),
        (b"1.1", [b"Connection: Foo ,\tCLOSE"], False),
        (b"1.1", [b"Connection: x", b"Connection: close"], False),
        (b"1.1", [b"Connection: keep-alive, close"], False),
        (b"1.1", [b"Connection: closed"], True),
        (b"1.0", [], False),
        (b"1.0", [b"Connection: keep-alive"], True),
        (b"1.0", [b"Connection: keep-alive, close"], False),
        (b"1.0", [b"Content-Length: 0"], False),
    ],
)
def test_persistence(version: bytes, lines: list[bytes], persistent: bool) -> None:
    head = request(get(b"Host: a", *lines, start=b"GET / HTTP/" + version))
    assert head.persistent is persistent
    assert head.minor == int(version[-1:])


def test_no_request_follows_a_connect() -> None:
    assert not request(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").persistent


@pytest.mark.parametrize(
    ("version", "lines", "upgrade"),
    [
        (b"1.1", [b"Connection: Upgrade", b"Upgrade: WebSocket "], b"websocket"),
        (b"1.1", [b"Connection: keep-alive, upgrade", b"Upgrade: a, b"], b"a, b"),
        (b"1.1", [b"Upgrade: websocket"], b""),
        (b"1.1", [b"Connection: upgrade"], b""),
        (b"1.0", [b"Connection: upgrade", b"Upgrade: websocket"], b""),
        (b"1.1", [b"Connection: upgrade", b"Upgrade: x", b"Content-Length: 0"], b"x"),
        (b"1.1", [b"Connection: upgrade", b"Upgrade: x", b"Content-Length: 1"], b""),
        (b"1.1", [b"Connection: upgrade", b"Upgrade: x", b"Transfer-Encoding: chunked"], b""),
    ],
)
def test_an_upgrade_is_asked_for_by_both_fields_in_http_1_1(version: bytes, lines: list[bytes], upgrade: bytes) -> None:
    assert request(get(b"Host: a", *lines, start=b"GET / HTTP/" + version)).upgrade == upgrade


@pytest.mark.parametrize(
    ("lines", "length", "chunked", "body"),
    [
        ([], None, False, False),
        ([b"Content-Length: 0"], 0, False, False),
        ([b"Content-Length:\t007 "], 7, False, True),
        ([b"Content-Length: 999999999999999999"], 10**18 - 1, False, True),
        ([b"Transfer-Encoding: chunked"], None, True, True),
        ([b"transfer-encoding: \t CHUNKED \t"], None, True, True),
    ],
)
def test_request_framing(lines: list[bytes], length: int | None, chunked: bool, body: bool) -> None:
    head = request(get(b"Host: a", *lines, start=b"POST / HTTP/1.1"))
    assert (head.content_length, head.chunked, request_has_body(head)) == (length, chunked, body)


@pytest.mark.parametrize(
    ("method", "status", "lines", "framing"),
    [
        (b"GET", 200, [b"Content-Length: 5"], 5),
        (b"GET", 200, [b"Transfer-Encoding: chunked"], -1),
        (b"GET", 200, [], None),
        (b"GET", 200, [b"Content-Length: 0"], 0),
        (b"HEAD", 200, [b"Content-Length: 5"], 0),
        (b"HEAD", 200, [b"Transfer-Encoding: chunked"], 0),
        (b"GET", 304, [b"Content-Length: 5"], 0),
        (b"GET", 304, [b"Transfer-Encoding: chunked"], 0),
        (b"GET", 204, [], 0),
        (b"GET", 100, [], 0),
        (b"GET", 199, [], 0),
        (b"CONNECT", 200, [b"Content-Length: 5"], None),
        (b"CONNECT", 200, [b"Transfer-Encoding: chunked"], None),
        (b"CONNECT", 407, [b"Content-Length: 5"], 5),
    ],
)
def test_response_framing(method: bytes, status: int, lines: list[bytes], framing: int | None) -> None:
    head = response(get(*lines, start=b"HTTP/1.1 %d x" % status))
    assert response_framing(head, method) == framing


def test_a_204_that_says_it_has_no_bytes_is_cured_of_saying_so() -> None:
    head = response(get(b"Content-Length: 0", b"X: y", start=b"HTTP/1.1 204 No Content"))
    assert head.fields() == b"X: y\r\n"


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_the_limits_are_the_same_for_a_head_in_one_piece_and_in_many() -> None:
    fields = [HOST, *[b"X: y"] * (MAX_FIELDS - 1)]
    assert len(request(get(*fields)).items()) == MAX_FIELDS
    size = 400
    padding = b"X: " + b"y" * (size - len(get(HOST, b"X: ")))
    data = get(HOST, padding)
    assert len(data) == size
    assert parse_request(data, max_bytes=size) is not None
    assert all(parse_request(data[:end], max_bytes=size) is None for end in range(size))
    with pytest.raises(MessageError):
        parse_request(data, max_bytes=size - 1)


def test_an_endless_line_is_refused_before_it_ends() -> None:
    for start in (b"GET /", get(HOST)[:-2] + b"X", get(HOST)[:-2] + b"X: "):
        assert parse_request(start + b"a" * 1000) is None
        assert refusal(start + b"a" * MAX_HEAD_BYTES).status == 431


def test_a_bad_line_is_refused_as_soon_as_it_ends() -> None:
    assert refusal(b"HELO there\r\n").details == "http1.invalid_request_line"
    assert refusal(b"GET / HTTP/1.1\r\nwhat\r\n").details == "http1.header_without_colon"


# --- Like the head before ---------------------------------------------------------------------------------------------


def many(*sizes: int) -> list[bytes]:
    return [get(HOST, *[b"X-%d: y" % number for number in range(size)]) for size in sizes]


@pytest.mark.parametrize(
    ("before", "data"),
    [
        (get(HOST, b"X: y"), get(HOST, b"X: y")),
        (get(HOST, b"X: y"), get(HOST, b"X: y\r\nY: z")),
        (get(HOST, b"X: y"), get(HOST, b"X: yy")),
        (get(HOST, b"Content-Length: 5"), get(HOST, b"Content-Length: 6")),
        (get(HOST, b"Content-Length: 5"), b"POST /other HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\n"),
        (b"GET / HTTP/1.0\r\n\r\n", get(HOST)),
        (b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\n\r\nX: y\r\n\r\n"),
        *((before, after) for before in many(0, 3, 60) for after in many(0, 3, 60)),
    ],
)
def test_what_came_before_changes_nothing(before: bytes, data: bytes) -> None:
    like = NO_FIELDS
    for read in (before, data, data, before, data):
        known, fresh = parse_request(read, like=like), parse_request(read)
        assert known is not None
        assert fresh is not None
        assert known[1] == fresh[1]
        assert known[0].shape.names == fresh[0].shape.names
        for name in set(Head.__slots__) - {"shape"}:  # large ones are made anew
            assert getattr(known[0], name) == getattr(fresh[0], name), name
        like = known[0].shape
