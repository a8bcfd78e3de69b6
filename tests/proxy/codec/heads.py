"""Heads spelled out line by line, and the refusal of one that is not well formed."""

import pytest

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import (
    MessageError,
    parse_request,
    parse_response,
)

HOST = b"Host: a"


def request(data: bytes) -> Head:
    """The head of `data`, which has nothing behind it."""
    parsed = parse_request(data)
    assert parsed is not None
    assert parsed[1] == len(data)
    return parsed[0]


def response(data: bytes) -> Head:
    """The head of an answer, which has nothing behind it."""
    parsed = parse_response(data)
    assert parsed is not None
    assert parsed[1] == len(data)
    return parsed[0]


def get(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> bytes:
    """A head of these lines."""
    return b"\r\n".join((start, *lines, b"", b""))


def refusal(data: bytes) -> MessageError:
    """Why the head of a request is refused."""
    with pytest.raises(MessageError) as caught:
        parse_request(data)
    return caught.value
