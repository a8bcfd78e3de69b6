"""How an answer's body goes to a client that cannot be given it as it came."""

import pytest

from pymesh_proxy.codec.http1 import parse_response
from pymesh_proxy.reframing import Reframing, reframing


def answer(fields: bytes, framing: int | None, minor: int, status: int = 200) -> tuple[Reframing | None, bytes]:
    """What an answer with these fields needs, and what is left of them."""
    parsed = parse_response(b"HTTP/1.1 %d x\r\n%b\r\n" % (status, fields))
    assert parsed is not None
    return reframing(parsed[0], framing, minor), parsed[0].fields()


@pytest.mark.parametrize(
    ("fields", "framing", "minor"),
    [
        (b"content-length: 3\r\n", 3, 1),
        (b"content-length: 3\r\n", 3, 0),
        (b"transfer-encoding: chunked\r\n", -1, 1),
    ],
)
def test_most_bodies_go_on_as_they_come(fields: bytes, framing: int, minor: int) -> None:
    assert answer(fields, framing, minor) == (None, fields)


def test_a_body_without_a_length_becomes_chunked() -> None:
    form, _ = answer(b"", None, 1)
    assert form is not None
    assert (form.wraps, form.until_close, form.opaque) == (True, False, False)
    assert form.feed(b"hello") == (b"5\r\nhello\r\n", 5)
    assert form.feed(b"") == (b"", 0)  # an empty chunk would be the end


def test_a_client_of_http_1_0_is_told_the_end_by_closing() -> None:
    form, _ = answer(b"", None, 0)
    assert form is not None
    assert (form.wraps, form.until_close) == (False, True)
    assert form.feed(b"hello") == (b"hello", 5)


def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    form, fields = answer(b"transfer-encoding: chunked\r\n", -1, 0)
    assert form is not None
    assert (form.wraps, form.until_close, fields) == (False, True, b"")
    assert form.feed(b"5\r\nhello\r\n0\r\n\r\n") == (b"hello", 5)


def test_a_head_alone_tells_a_client_of_http_1_0_nothing_of_chunks() -> None:
    assert answer(b"transfer-encoding: chunked\r\n", 0, 0) == (None, b"")


def test_after_a_101_each_side_ends_for_itself() -> None:
    form, _ = answer(b"", None, 1, status=101)
    assert form is not None
    assert (form.wraps, form.until_close, form.opaque) == (False, True, True)
    assert form.feed(b"x") == (b"x", 1)
    assert form.first_half_ends()
    assert not form.first_half_ends()
