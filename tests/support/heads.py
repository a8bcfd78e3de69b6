"""Request heads for tests, made by the proxy's own parser from bytes on the wire."""

from collections.abc import Iterable

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import parse_request, parse_response


def request(
    path: str = "/", host: str = "reviews", *, method: str = "GET", headers: Iterable[tuple[str, str]] = ()
) -> Head:
    """The head of `METHOD path`, as the proxy would have read it."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers)]
    parsed = parse_request("\r\n".join([*lines, "", ""]).encode())
    assert parsed is not None
    return parsed[0]


def read_request(*lines: bytes, start: bytes = b"GET /a HTTP/1.1", host: bytes = b"Host: a") -> Head:
    """The head of a request that is spelled out: its first line, Host (none if that is empty), other lines."""
    parsed = parse_request(b"\r\n".join((start, *([host] if host else []), *lines, b"", b"")))
    assert parsed is not None
    return parsed[0]


def read_response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> Head:
    """The head of a response that is spelled out: its first line, and the others."""
    parsed = parse_response(b"\r\n".join((start, *lines, b"", b"")))
    assert parsed is not None
    return parsed[0]
