"""What is asked, and of whom."""

import pytest

from benchmarks.load.target import Request, Target, Trust, parse_headers, parse_target
from pymesh.errors import MeshError

TARGET = Target("127.0.0.1", 8080, tls=False, authority="127.0.0.1:8080", path="/a?b=c")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://127.0.0.1:8080/a?b=c", TARGET),
        ("http://example.org", Target("example.org", 80, tls=False, authority="example.org", path="/")),
        ("https://[::1]/x", Target("::1", 443, tls=True, authority="[::1]", path="/x")),
    ],
)
def test_targets(url: str, target: Target) -> None:
    assert parse_target(url) == target
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8080", "ftp://a/", "http:///a", "http://a:99999/", "http://a/ b", "http://a/ü", "http://u:p@a/",
     "http://a/\r\nx"],
)  # fmt: skip
def test_what_is_no_target(url: str) -> None:
    with pytest.raises(MeshError, match="is no target"):
        parse_target(url)


@pytest.mark.parametrize(
    ("request_", "sent"),
    [
        (Request(), b"GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"),
        (Request(headers=(("host", "x"), ("A", "b"))), b"GET /a?b=c HTTP/1.1\r\nhost: x\r\nA: b\r\n\r\n"),
        (Request("POST", (("host", "x"),), 3), b"POST /a?b=c HTTP/1.1\r\nhost: x\r\nContent-Length: 3\r\n\r\nxxx"),
        (Request("POST", (("host", "x"),)), b"POST /a?b=c HTTP/1.1\r\nhost: x\r\nContent-Length: 0\r\n\r\n"),
        (
            Request("PUT", (("host", "x"),), 5, chunk_bytes=3),
            b"PUT /a?b=c HTTP/1.1\r\nhost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxxx\r\n2\r\nxx\r\n0\r\n\r\n",
        ),
    ],
)
def test_requests(request_: Request, sent: bytes) -> None:
    assert request_.encode(TARGET) == sent


def test_the_last_request_of_a_connection_says_so() -> None:
    assert b"\r\nConnection: close\r\n" in Request().encode(TARGET, close=True)


@pytest.mark.parametrize(
    "request_",
    [
        Request("GET /x"), Request(headers=(("a b", "c"),)), Request(headers=(("a", "b\r\nc: d"),)),
        Request(headers=(("Content-Length", "5"),)), Request(headers=(("transfer-encoding", "chunked"),)),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused(request_: Request) -> None:
    with pytest.raises(MeshError):
        request_.encode(TARGET)


def test_headers_of_a_command_line() -> None:
    assert parse_headers(["A: b", "c:d: e"]) == (("A", "b"), ("c", "d: e"))
    with pytest.raises(MeshError, match="is no header"):
        parse_headers(["a"])


def test_files_that_tls_cannot_use_are_named() -> None:
    with pytest.raises(MeshError, match=r"cannot use /nonexistent/root\.pem"):
        Trust(roots="/nonexistent/root.pem").context()
