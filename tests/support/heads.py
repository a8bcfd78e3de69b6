"""Request heads for tests, made by the proxy's own parser from bytes on the wire."""

from collections.abc import Iterable

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import parse_request


def request(
    path: str = "/", host: str = "reviews", *, method: str = "GET", headers: Iterable[tuple[str, str]] = ()
) -> Head:
    """The head of `METHOD path`, as the proxy would have read it."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers)]
    parsed = parse_request("\r\n".join([*lines, "", ""]).encode())
    assert parsed is not None
    return parsed[0]
