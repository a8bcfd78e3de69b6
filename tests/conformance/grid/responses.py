"""Responses of a hostile or broken upstream: to a GET, or the method given."""

from collections.abc import Iterator
from typing import Final

from tests.conformance.grid.requests import CODINGS, CONTROLS, DATA_ENDS, LAST, Crafted, shown

OK: Final = b"HTTP/1.1 200 OK"
# What an upstream says behind its answer, hoping that it is taken for the answer to somebody else's request.
SMUGGLED: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"
HELLO: Final = b"5\r\nhello\r\n0\r\n\r\n"


def response(*lines: bytes, first: bytes = OK, body: bytes = b"") -> bytes:
    """A response of these lines."""
    return b"\r\n".join([first, *lines, b"", body])


FIRST_LINES: Final = (
    b"HTTP/1.1 200 OK", b"HTTP/1.1 200 ", b"HTTP/1.1 200", b"HTTP/1.1 200  two", b"HTTP/1.1 200 \xe9",
    b"HTTP/1.1 200 a\0b", b"HTTP/1.1 200 a\x0bb", b"HTTP/1.1 200\tOK", b"HTTP/1.1  200 OK", b" HTTP/1.1 200 OK",
    b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 000 OK", b"HTTP/1.1 600 OK",
    b"HTTP/1.1 999 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 2x0 OK", b"HTTP/1.1 OK", b"HTTP/1.0 200 OK",
    b"HTTP/1.2 200 OK", b"HTTP/2.0 200 OK", b"HTTP/2 200", b"HTTP/0.9 200 OK", b"http/1.1 200 OK", b"ICY 200 OK",
    b"HTTP/1.1x 200 OK", b"hello", b"", b"HTTP/1.1 200 OK\n", b"HTTP/1.1 200 O\rK", b"\r\nHTTP/1.1 200 OK",
    b"HTTP/1.1 226 IM Used", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 503 ",
)  # fmt: skip
LENGTHS: Final = (
    b"5", b"05", b"+5", b"-5", b"5, 5", b"5,6", b"", b"x", b"0x5", b"5 ", b"5\x0b", b"5\0",
    b"99999999999999999999999", b"18446744073709551621", b"5.0", b"3",
)  # fmt: skip
SIZES: Final = (
    b"5", b"05", b"5;a=b", b"5 ", b" 5", b"+5", b"-5", b"0x5", b"G", b"", b"5\n", b"5;a=b\n5", b"10000000000000005",
    b"5\r", b"0" * 40 + b"5", b"5;" + b"a" * 5000,
)  # fmt: skip
TRAILERS: Final = (
    b"X: y\r\n", b"Content-Length: 5\r\n", b"X : y\r\n", b"X: y\r\n z\r\n", b"X: \0\r\n", b"X: y\n",
    b"X: " + b"y" * 20_000 + b"\r\n", b"Set-Cookie: a\r\n",
)  # fmt: skip


def responses() -> Iterator[Crafted]:
    """Every crafted response."""
    for first in FIRST_LINES:
        yield Crafted("Status line", f"'{shown(first)}'", response(b"Content-Length: 5", first=first, body=b"hello"))
    yield from lengths()
    yield from codings()
    yield from bodies()
    yield from heads()
    yield from statuses()


def lengths() -> Iterator[Crafted]:
    group = "Length of a response"
    for value in LENGTHS:
        yield Crafted(group, f"'{shown(value)}'", response(b"Content-Length: " + value, body=b"hello"))
    five = b"Content-Length: 5"
    yield Crafted(group, "twice the same", response(five, five, body=b"hello"))
    yield Crafted(group, "twice, differing", response(five, b"Content-Length: 13", body=b"hello"))
    yield Crafted(group, "space before the colon", response(b"Content-Length : 5", body=b"hello"))
    yield Crafted(group, "more than what comes", response(b"Content-Length: 9", body=b"hello"), closes=True)
    yield Crafted(group, "with chunks", response(five, b"Transfer-Encoding: chunked", body=HELLO))
    yield Crafted(group, "behind chunks", response(b"Transfer-Encoding: chunked", five, body=HELLO))
    yield Crafted(group, "another answer behind", response(five, body=b"hello" + SMUGGLED))
    yield Crafted(group, "0, and a body", response(b"Content-Length: 0", body=SMUGGLED))


def codings() -> Iterator[Crafted]:
    group = "Coding of a response"
    for value in CODINGS:
        if b"\n" not in value:
            data = response(b"Transfer-Encoding: " + value, body=HELLO)
            yield Crafted(group, f"'{shown(value)}'", data, closes=True)
    chunked = b"Transfer-Encoding: chunked"
    yield Crafted(group, "twice", response(chunked, chunked, body=HELLO))
    yield Crafted(group, "of HTTP/1.0", response(chunked, first=b"HTTP/1.0 200 OK", body=HELLO), closes=True)
    yield Crafted(group, "space before the colon", response(b"Transfer-Encoding : chunked", body=HELLO), closes=True)
    yield Crafted(group, "folded", response(b"Transfer-Encoding:\r\n chunked", body=HELLO), closes=True)


def bodies() -> Iterator[Crafted]:
    group = "Chunks of a response"
    chunked = b"Transfer-Encoding: chunked"
    for size in SIZES:
        data = response(chunked, body=size + b"\r\nhello\r\n0\r\n\r\n")
        yield Crafted(group, f"size '{shown(size)}'", data, closes=True)
    for end in DATA_ENDS:
        data = response(chunked, body=b"5\r\nhello" + end + b"0\r\n\r\n")
        yield Crafted(group, f"data ended by '{shown(end)}'", data, closes=True)
    for last in LAST:
        yield Crafted(
            group, f"last chunk '{shown(last)}'", response(chunked, body=b"5\r\nhello\r\n" + last), closes=True
        )
    for fields in TRAILERS:
        data = response(chunked, body=b"5\r\nhello\r\n0\r\n" + fields + b"\r\n")
        yield Crafted(group, f"trailer '{shown(fields)}'", data, closes=True)
    yield Crafted(group, "cut off", response(chunked, body=b"5\r\nhel"), closes=True)
    yield Crafted(group, "another answer behind", response(chunked, body=HELLO + SMUGGLED))
    yield Crafted(group, "until the connection closes", response(body=b"hello"), closes=True)


def heads() -> Iterator[Crafted]:
    group = "Head of a response"
    five = b"Content-Length: 5"
    for code in CONTROLS:
        yield Crafted(group, f"byte {code:02x} in a value", response(five, b"X: a%cb" % code, body=b"hello"))
        yield Crafted(group, f"byte {code:02x} in a name", response(five, b"X%cY: z" % code, body=b"hello"))
    for line in (
        b"X : y",
        b" X: y",
        b"X",
        b": y",
        b"X: a\r\n b",
        b"X: a\rb",
        b"X: a\nb",
        b"X: a\nSet-Cookie: b",
        b"X Y: z",
        b"X:",
    ):
        yield Crafted(group, f"'{shown(line)}'", response(five, line, body=b"hello"))
    yield Crafted(group, "bare line feeds", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello")
    yield Crafted(group, "101 fields", response(five, *[b"X-%d: y" % number for number in range(101)], body=b"hello"))
    yield Crafted(group, "70 KiB in one field", response(five, b"X: " + b"y" * 70_000, body=b"hello"))
    yield Crafted(group, "Connection lists the length", response(five, b"Connection: content-length", body=b"hello"))
    yield Crafted(group, "Connection lists a field", response(five, b"Connection: x-a", b"X-A: 1", body=b"hello"))
    yield Crafted(
        group,
        "Connection: close, another answer behind",
        response(five, b"Connection: close", body=b"hello" + SMUGGLED),
    )
    yield Crafted(group, "does not end", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", closes=True)
    yield Crafted(group, "nothing at all", b"", closes=True)


def statuses() -> Iterator[Crafted]:
    group = "Answers without a body"
    five = b"Content-Length: 5"
    for first in (b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified"):
        word = first.split()[1].decode()
        yield Crafted(group, word, response(first=first))
        yield Crafted(group, f"{word} with a length", response(five, first=first))
        yield Crafted(group, f"{word} with a length of 0", response(b"Content-Length: 0", first=first))
        yield Crafted(group, f"{word} with a body", response(five, first=first, body=b"hello"))
        yield Crafted(group, f"{word} with chunks", response(b"Transfer-Encoding: chunked", first=first, body=HELLO))
        yield Crafted(group, f"{word}, another answer behind", response(first=first, body=SMUGGLED))
    yield Crafted(group, "HEAD", response(five), method=b"HEAD")
    yield Crafted(group, "HEAD, a body", response(five, body=b"hello"), method=b"HEAD")
    yield Crafted(group, "HEAD, chunks", response(b"Transfer-Encoding: chunked", body=HELLO), method=b"HEAD")
    yield Crafted(group, "HEAD, another answer behind", response(five, body=SMUGGLED), method=b"HEAD")
    hello = response(five, body=b"hello")
    for word in (b"100 Continue", b"102 Processing", b"103 Early Hints", b"199 x"):
        name = word.decode()
        yield Crafted(group, f"{name} before it", response(first=b"HTTP/1.1 " + word) + hello)
    yield Crafted(group, "100 with a length", response(five, first=b"HTTP/1.1 100 Continue", body=b"hello") + hello)
    yield Crafted(
        group, "100 with chunks", response(b"Transfer-Encoding: chunked", first=b"HTTP/1.1 100 x", body=HELLO) + hello
    )
    yield Crafted(group, "100 only", response(first=b"HTTP/1.1 100 Continue"), closes=True)
    yield Crafted(group, "101 that nobody asked for", response(first=b"HTTP/1.1 101 x", body=SMUGGLED))
    upgrade = b"Connection: upgrade\r\nUpgrade: websocket"
    yield Crafted(
        group, "101 that nobody asked for, in full", response(upgrade, first=b"HTTP/1.1 101 x", body=SMUGGLED)
    )
    yield Crafted(group, "205 with a body", response(five, first=b"HTTP/1.1 205 x", body=b"hello"))
