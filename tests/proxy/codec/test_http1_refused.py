"""HTTP/1.1 heads that are refused: the smuggling table, and whatever is not well formed, each with its details.

The tables are the contract with everything behind this proxy: what two servers could read in two ways stays outside.
"""

import pytest

from pymesh_proxy.codec.http1 import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MessageError,
    parse_request,
    parse_response,
)
from pymesh_proxy.errors import Flag
from tests.proxy.codec.heads import HOST, get, refusal

FRAMING = {
    "CL and TE": (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "TE and CL": (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "CL 0 and TE": (b"Content-Length: 0", b"Transfer-Encoding: chunked"),
}
LENGTHS = (
    b"5, 5", b"5,5", b"5,", b"+5", b"-5", b"-0", b"0x5", b"5 5", b"5;", b"5.0", b"5e0", b"five", b"", b" ", b"1_000",
    b"\xd9\xa5", b"9" * 19, b"18446744073709551621", b"chunked",
)  # fmt: skip
CODINGS = (
    b"chunked, chunked", b"xchunked", b"chunkedx", b"chunked,", b",chunked", b"chunked;q=1", b"gzip", b"gzip, chunked",
    b"chunked, gzip", b"identity", b"chunked, identity", b"", b'"chunked"', b"chunked \xa0", b"\xc4\xb1chunked", b"0",
)  # fmt: skip


@pytest.mark.parametrize("lines", FRAMING.values(), ids=FRAMING)
def test_two_framings_are_one_too_many(lines: tuple[bytes, bytes]) -> None:
    error = refusal(get(HOST, *lines, start=b"POST / HTTP/1.1"))
    assert (error.status, error.details) == (400, "http1.content_length_with_transfer_encoding")


@pytest.mark.parametrize("value", LENGTHS)
def test_a_length_is_digits_and_nothing_else(value: bytes) -> None:
    error = refusal(get(HOST, b"Content-Length: " + value, start=b"POST / HTTP/1.1"))
    assert (error.status, error.details) == (400, "http1.invalid_content_length")


@pytest.mark.parametrize("value", CODINGS)
def test_chunked_once_is_the_only_transfer_coding(value: bytes) -> None:
    error = refusal(get(HOST, b"Transfer-Encoding: " + value, start=b"POST / HTTP/1.1"))
    assert (error.status, error.details) == (501, "http1.unsupported_transfer_encoding")


@pytest.mark.parametrize("second", [b"chunked", b"identity", b"x"])
def test_a_repeated_transfer_encoding_is_not_chunked(second: bytes) -> None:
    lines = (b"Transfer-Encoding: chunked", b"transfer-encoding: " + second)
    assert refusal(get(HOST, *lines)).details == "http1.unsupported_transfer_encoding"
    assert refusal(get(HOST, *reversed(lines))).details == "http1.unsupported_transfer_encoding"


REFUSED = {
    # framing
    "two CL": (get(HOST, b"Content-Length: 5", b"content-length: 6"), 400, "repeated_content_length"),
    "two equal CL": (get(HOST, b"Content-Length: 5", b"Content-Length: 5"), 400, "repeated_content_length"),
    "TE in 1.0": (
        get(HOST, b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"), 400, "transfer_encoding_in_http_1_0",
    ),
    "TE with a vertical tab": (get(HOST, b"Transfer-Encoding: \x0bchunked"), 400, "control_character_in_header"),
    "TE with a space before the colon": (get(HOST, b"Transfer-Encoding : chunked"), 400, "space_before_colon"),
    "Connection lists CL": (
        get(HOST, b"Connection: Content-Length", b"Content-Length: 5"), 400, "connection_lists_a_protected_header",
    ),
    "Connection lists TE": (
        get(HOST, b"Connection: close, transfer-encoding"), 400, "connection_lists_a_protected_header",
    ),
    "Connection lists XFF": (get(HOST, b"Connection: X-Forwarded-For"), 400, "connection_lists_a_protected_header"),
    "Connection lists Host": (get(HOST, b"Connection: HOST"), 400, "connection_lists_a_protected_header"),
    # host
    "no Host": (get(b"X: y"), 400, "missing_host_header"),
    "no Host, absolute form": (get(start=b"GET http://a/ HTTP/1.1"), 400, "missing_host_header"),
    "two Hosts": (get(HOST, b"HOST: b"), 400, "repeated_host"),
    "two equal Hosts": (get(HOST, HOST), 400, "repeated_host"),
    "two Hosts in 1.0": (get(HOST, b"Host: b", start=b"GET / HTTP/1.0"), 400, "repeated_host"),
    "Host with a path": (get(b"Host: a/b"), 400, "invalid_host_header"),
    "Host with userinfo": (get(b"Host: u@a"), 400, "invalid_host_header"),
    "Host with a space": (get(b"Host: a b"), 400, "invalid_host_header"),
    "Host with two ports": (get(b"Host: a:1:2"), 400, "invalid_host_header"),
    "Host with a word for a port": (get(b"Host: a:http"), 400, "invalid_host_header"),
    "Host with a long port": (get(b"Host: a:000080"), 400, "invalid_host_header"),
    "Host with half an IPv6 address": (get(b"Host: [::1"), 400, "invalid_host_header"),
    "Host with something behind an IPv6 address": (get(b"Host: [::1]a"), 400, "invalid_host_header"),
    "Host with a port that is too high": (get(b"Host: a:65536"), 400, "invalid_host_header"),
    "Host with a port that is far too high": (get(b"Host: a:99999"), 400, "invalid_host_header"),
    "Host with a percent sign": (get(b"Host: 100%"), 400, "invalid_host_header"),
    "Host with half of an encoded byte": (get(b"Host: a%2"), 400, "invalid_host_header"),
    "Host with half of an encoded byte and a port": (get(b"Host: a%2:80"), 400, "invalid_host_header"),
    "Host with an encoded byte that is none": (get(b"Host: a%zzb"), 400, "invalid_host_header"),
    "Host with an IPv6 zone that is none": (get(b"Host: [fe80::1%eth0]"), 400, "invalid_host_header"),
    "Host not in ASCII": (get(b"Host: \xc3\xa4"), 400, "invalid_host_header"),
    "Host with a tab": (get(b"Host: a\tb"), 400, "invalid_host_header"),
    # target
    "no slash": (get(HOST, start=b"GET a HTTP/1.1"), 400, "invalid_request_target"),
    "fragment": (get(HOST, start=b"GET /a#b HTTP/1.1"), 400, "invalid_request_target"),
    "target not in ASCII": (get(HOST, start=b"GET /\xc3\xa4 HTTP/1.1"), 400, "invalid_request_target"),
    "target with a tab": (get(HOST, start=b"GET /\ta HTTP/1.1"), 400, "invalid_request_target"),
    "target with a NUL": (get(HOST, start=b"GET /\x00 HTTP/1.1"), 400, "invalid_request_target"),
    "asterisk for GET": (get(HOST, start=b"GET * HTTP/1.1"), 400, "invalid_request_target"),
    "authority form for GET": (get(HOST, start=b"GET a:80 HTTP/1.1"), 400, "invalid_request_target"),
    "absolute form, another scheme": (get(HOST, start=b"GET ftp://a/ HTTP/1.1"), 400, "invalid_request_target"),
    "absolute form, no host": (get(HOST, start=b"GET http:/// HTTP/1.1"), 400, "invalid_request_target"),
    "absolute form, only a port": (get(HOST, start=b"GET http://:80/ HTTP/1.1"), 400, "invalid_request_target"),
    "absolute form, userinfo": (get(HOST, start=b"GET http://u@a/ HTTP/1.1"), 400, "invalid_request_target"),
    "absolute form, backslash": (get(HOST, start=rb"GET http://a\@b/ HTTP/1.1"), 400, "invalid_request_target"),
    "absolute form, port too high": (get(HOST, start=b"GET http://a:65536/ HTTP/1.1"), 400, "invalid_request_target"),
    "absolute form, percent sign": (get(HOST, start=b"GET http://a%/ HTTP/1.1"), 400, "invalid_request_target"),
    "absolute form, half of an encoded byte": (
        get(HOST, start=b"GET http://a%f/?b HTTP/1.1"), 400, "invalid_request_target"
    ),
    "CONNECT to a port too high": (get(HOST, start=b"CONNECT a:65536 HTTP/1.1"), 400, "invalid_connect_target"),
    "CONNECT to a percent sign": (get(HOST, start=b"CONNECT a%g0:80 HTTP/1.1"), 400, "invalid_connect_target"),
    "CONNECT to a path": (get(HOST, start=b"CONNECT / HTTP/1.1"), 400, "invalid_connect_target"),
    "CONNECT without a port": (get(HOST, start=b"CONNECT a HTTP/1.1"), 400, "invalid_connect_target"),
    "CONNECT with an empty port": (get(HOST, start=b"CONNECT a: HTTP/1.1"), 400, "invalid_connect_target"),
    "CONNECT without a host": (get(HOST, start=b"CONNECT :80 HTTP/1.1"), 400, "invalid_connect_target"),
    "CONNECT to IPv6 without a port": (get(HOST, start=b"CONNECT [::1] HTTP/1.1"), 400, "invalid_connect_target"),
    # request line
    "two spaces": (get(HOST, start=b"GET  / HTTP/1.1"), 400, "invalid_request_line"),
    "a space in front": (get(HOST, start=b" GET / HTTP/1.1"), 400, "invalid_request_line"),
    "a space behind": (get(HOST, start=b"GET / HTTP/1.1 "), 400, "invalid_request_line"),
    "a tab for a space": (get(HOST, start=b"GET\t/\tHTTP/1.1"), 400, "invalid_request_line"),
    "HTTP/0.9": (b"GET /\r\n", 400, "invalid_request_line"),
    "two empty lines first": (b"\r\n" + b"\r\n" + get(HOST), 400, "invalid_request_line"),
    "bad method": (get(HOST, start=b"G(T / HTTP/1.1"), 400, "invalid_method"),
    "no method": (get(HOST, start=b" / HTTP/1.1"), 400, "invalid_method"),
    "HTTP/2.0": (get(HOST, start=b"GET / HTTP/2.0"), 400, "unsupported_version"),
    "HTTP/1.2": (get(HOST, start=b"GET / HTTP/1.2"), 400, "unsupported_version"),
    "http/1.1": (get(HOST, start=b"GET / http/1.1"), 400, "unsupported_version"),
    "HTTP/1.10": (get(HOST, start=b"GET / HTTP/1.10"), 400, "unsupported_version"),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "unsupported_version"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00", 400, "control_character"),
    # lines
    "bare LF everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", 400, "bare_line_feed"),
    "bare LF in the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bare_line_feed"),
    "bare LF between fields": (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400, "bare_line_feed"),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bare_line_feed"),
    "bare CR in the request line": (b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bare_carriage_return"),
    "bare CR in a field": (b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400, "bare_carriage_return"),
    "CR CR LF": (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400, "bare_carriage_return"),
    "folded line": (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400, "folded_header_line"),
    "folded line, tab": (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n", 400, "folded_header_line"),
    "space before the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "folded_header_line"),
    "space before colon": (get(b"Host : a"), 400, "space_before_colon"),
    "tab before colon": (get(HOST, b"X\t: y"), 400, "space_before_colon"),
    "no colon": (get(HOST, b"what"), 400, "header_without_colon"),
    "empty name": (get(HOST, b": y"), 400, "empty_header_name"),
    "bad name": (get(HOST, b"X(y): z"), 400, "invalid_header_name"),
    "name not in ASCII": (get(HOST, b"X\xc3\xa4: z"), 400, "invalid_header_name"),
    "NUL in a name": (get(HOST, b"X\x00: z"), 400, "invalid_header_name"),
    "NUL in a value": (get(HOST, b"X: \x00"), 400, "control_character_in_header"),
    "escape in a value": (get(HOST, b"X: \x1b[2J"), 400, "control_character_in_header"),
    "DEL in a value": (get(HOST, b"X: \x7f"), 400, "control_character_in_header"),
    # size
    "too many fields": (get(HOST, *[b"X: y"] * MAX_FIELDS), 431, "headers_too_large"),
    "a field too large": (get(HOST, b"X: " + b"y" * MAX_HEAD_BYTES), 431, "headers_too_large"),
    "a target too large": (get(HOST, start=b"GET /" + b"y" * MAX_HEAD_BYTES + b" HTTP/1.1"), 431, "headers_too_large"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "status", "details"), REFUSED.values(), ids=REFUSED)
def test_refused_requests(data: bytes, status: int, details: str) -> None:
    error = refusal(data)
    assert (error.status, error.flag, error.details) == (status, Flag.DOWNSTREAM_PROTOCOL_ERROR, f"http1.{details}")


@pytest.mark.parametrize("data", [case[0] for case in REFUSED.values()], ids=REFUSED)
def test_what_is_refused_is_refused_in_any_portions(data: bytes) -> None:
    """No way of cutting it gets it through: at the latest the last byte brings the refusal."""
    step = max(1, len(data) // 64)
    for end in range(0, len(data), step):
        try:
            assert parse_request(data[:end]) is None
        except MessageError:
            return
    refusal(data)


REFUSED_RESPONSES = {
    "CL and TE": (get(b"Content-Length: 5", b"Transfer-Encoding: chunked"), "content_length_with_transfer_encoding"),
    "two CL": (get(b"Content-Length: 5", b"Content-Length: 5"), "repeated_content_length"),
    "CL list": (get(b"Content-Length: 5, 5"), "invalid_content_length"),
    "gzip, chunked": (get(b"Transfer-Encoding: gzip, chunked"), "unsupported_transfer_encoding"),
    "folded line": (get(b"X: y", b" z"), "folded_header_line"),
    "NUL": (get(b"X: \x00"), "control_character_in_header"),
    "Connection lists CL": (get(b"Connection: content-length"), "connection_lists_a_protected_header"),
    "too many fields": (get(*[b"X: y"] * (MAX_FIELDS + 1)), "headers_too_large"),
    "too large": (get(b"X: " + b"y" * MAX_HEAD_BYTES), "headers_too_large"),
}


@pytest.mark.parametrize(("tail", "details"), REFUSED_RESPONSES.values(), ids=REFUSED_RESPONSES)
def test_refused_response_fields(tail: bytes, details: str) -> None:
    data = tail.replace(b"GET / HTTP/1.1", b"HTTP/1.1 200 OK")
    with pytest.raises(MessageError) as caught:
        parse_response(data)
    error = caught.value
    assert (error.status, error.flag, error.details) == (502, Flag.UPSTREAM_PROTOCOL_ERROR, f"http1.{details}")


@pytest.mark.parametrize(
    ("data", "details"),
    [
        (b"HTTP/1.1 20 OK\r\n\r\n", "invalid_status_line"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "invalid_status_line"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "invalid_status_line"),
        (b"HTTP/1.1  200 OK\r\n\r\n", "invalid_status_line"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "invalid_status_line"),
        (b"HTTP/1.1 200 O\x00K\r\n\r\n", "invalid_status_line"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "invalid_status_line"),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "invalid_status_line"),
        (b"HTTP/1.1 200 OK\nX: y\n\n", "bare_line_feed"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "control_character"),
        (b"HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n", "content_length_not_allowed"),
        (b"HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer_encoding_not_allowed"),
        (b"HTTP/1.1 101 x\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer_encoding_not_allowed"),
        (b"HTTP/1.1 100 x\r\nContent-Length: 7\r\n\r\n", "content_length_not_allowed"),
        (b"HTTP/1.0 200 x\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer_encoding_in_http_1_0"),
    ],
)
def test_refused_responses(data: bytes, details: str) -> None:
    with pytest.raises(MessageError) as caught:
        parse_response(data)
    assert caught.value.details == f"http1.{details}"
