"""Requests that proxies and servers have read in more than one way, and a few that they must not refuse.

A request that hides another one hides `GET /smuggled`: a proxy that forwards two requests, or another body, shows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
HELLO: Final = b"5\r\nhello\r\n0\r\n\r\n"
# The same bytes are an empty chunked body and a request, or one body of this length.
HIDDEN: Final = b"0\r\n\r\n" + SMUGGLED
CONTROLS: Final = (0x00, 0x01, 0x07, 0x08, 0x0B, 0x0C, 0x0E, 0x1B, 0x1F, 0x7F, 0x80, 0xFF)


@dataclass(frozen=True, slots=True)
class Crafted:
    """What a client sends, or an upstream answers.

    Attributes:
        group: what is tried, a heading of the table.
        name: unique within its group.
        data: every byte.
        method: of the request that a crafted response answers.
        closes: the upstream ends the connection behind its crafted response.
    """

    group: str
    name: str
    data: bytes
    method: bytes = b"GET"
    closes: bool = False

    @property
    def key(self) -> str:
        """Its row in the table."""
        return f"{self.group}: {self.name}"


def request(
    *lines: bytes, method: bytes = b"POST", target: bytes = b"/x", body: bytes = b"", host: bool = True
) -> bytes:
    """A request whose field lines, but for Host, are given."""
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method, target), *([b"Host: a"] if host else []), *lines, b"", body])


def shown(value: bytes) -> str:
    """`value` so that it can be read in a table."""
    return repr(value)[2:-1] if len(value) < 60 else repr(value[:24])[2:-1] + f"… ({len(value)} bytes)"


def requests() -> Iterator[Crafted]:
    """Every crafted request."""
    for group, made in GROUPS.items():
        for name, data in made():
            yield Crafted(group, name, data)


Named = Iterator[tuple[str, bytes]]

# --- Content-Length ---------------------------------------------------------------------------------------------------

LENGTHS: Final = (
    b"5", b"05", b"0000000000000000000005", b"+5", b"-5", b"5 ", b"5\t", b"\t5", b"  5", b"5,5", b"5, 5", b"5,",
    b",5", b"5,6", b"5;a=b", b"5.0", b"5e0", b"0x5", b"5h", b"5 5", b"", b" ", b"five", b"\xef\xbc\x95", b"1_0",
    b"5\x00", b"5\x0b", b"\x0b5", b"\x0c5", b"5\xa0", b"'5'", b'"5"', b"4294967301", b"18446744073709551621",
    b"9223372036854775808", b"99999999999999999999999", b"5\r 5", b"5\r\n 5", b"\r\n 5", b"\r\n\t5", b"5\n",
)  # fmt: skip
LENGTH_NAMES: Final = (
    b"content-length:", b"CONTENT-LENGTH: ", b"Content-Length:\t", b"Content-Length : ", b"Content-Length\t: ",
    b" Content-Length: ", b"\tContent-Length: ", b"Content-Length\x00: ", b"Content-Length\x0b: ",
    b"\x0bContent-Length: ", b"Content_Length: ", b"Content-Length\xa0: ", b"Content Length: ",
    b"Content-Length\r\n : ", b"Content-Length", b"Content-Length= ", b"Content-Length:: ", b"X: y\nContent-Length: ",
    b"X: y\rContent-Length: ", b"X: y\r\r\nContent-Length: ", b"X: y\n\rContent-Length: ", b"X:\nContent-Length: ",
    b"X: y\\r\\nContent-Length: ",
)  # fmt: skip
HIDING: Final = b"%d" % len(SMUGGLED)


def content_lengths() -> Named:
    for value in LENGTHS:
        yield f"'{shown(value)}'", request(b"Content-Length:" + b" " * (value[:1] != b"\r") + value, body=b"hello")
    for name in LENGTH_NAMES:
        yield f"written '{shown(name)}'", request(name + HIDING, body=SMUGGLED)
    zero, all_of_it = b"Content-Length: 0", b"Content-Length: " + HIDING
    yield "twice the same", request(b"Content-Length: 5", b"Content-Length: 5", body=b"hello")
    yield "0, then another", request(zero, all_of_it, body=SMUGGLED)
    yield "one, then 0", request(all_of_it, zero, body=SMUGGLED)
    yield "two, spelled differently", request(b"Content-Length: 0", b"content-length: " + HIDING, body=SMUGGLED)
    yield "two, fields between", request(all_of_it, b"X: y", b"Z: w", zero, body=SMUGGLED)
    yield "three", request(zero, all_of_it, zero, body=SMUGGLED)
    yield "second one folded", request(all_of_it, b"X: y\r\n Content-Length: 0", body=SMUGGLED)
    yield "of GET", request(b"Content-Length: 5", method=b"GET", body=b"hello")
    yield "of GET, hiding a request", request(all_of_it, method=b"GET", body=SMUGGLED)
    yield "of HEAD", request(b"Content-Length: 5", method=b"HEAD", body=b"hello")
    yield "of DELETE", request(b"Content-Length: 5", method=b"DELETE", body=b"hello")
    yield "of OPTIONS", request(b"Content-Length: 5", method=b"OPTIONS", body=b"hello")
    yield "of TRACE", request(b"Content-Length: 5", method=b"TRACE", body=b"hello")
    yield "0 of GET", request(zero, method=b"GET")
    yield "none, a body all the same", request(body=SMUGGLED)
    yield "too short for what comes", request(b"Content-Length: 3", body=b"hello")
    yield "more than what comes", request(b"Content-Length: 9", body=b"hello")
    yield "of HTTP/1.0", b"POST /x HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    yield "twice in HTTP/1.0", b"POST /x HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"
    yield "listed in Connection", request(b"Connection: content-length", all_of_it, body=SMUGGLED)


# --- Transfer-Encoding ------------------------------------------------------------------------------------------------

CODINGS: Final = (
    b"chunked", b"Chunked", b"CHUNKED", b"chunKed", b"  chunked", b"\tchunked", b"chunked ", b"chunked\t",
    b"chunked;q=1", b"chunked;", b'"chunked"', b"'chunked'", b"chunked, chunked", b"chunked,", b",chunked",
    b", chunked", b"chunked,,", b"identity", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked, identity",
    b"identity, chunked", b"xchunked", b"chunkedx", b"chunk", b"", b" ", b"x chunked", b"chunked x", b"\x0bchunked",
    b"chunked\x0b", b"\x0cchunked", b"chunked\x00", b"\x00chunked", b"chun\tked", b"cow", b"trailers, chunked",
    b"chunked\xa0", b"\xffchunked", b"\xc4\xb1chunked", b"chun\xe2\x84\xaaed", b"chunked\r x", b"\rchunked",
    b"\r\n chunked", b"\r\n\tchunked", b"chunked\r\n ", b"x\r\n chunked", b"chunked\n", b"\nchunked",
)  # fmt: skip
CODING_NAMES: Final = (
    b"transfer-encoding: ", b"TRANSFER-ENCODING:", b"Transfer-Encoding : ", b"Transfer-Encoding\t: ",
    b" Transfer-Encoding: ", b"\tTransfer-Encoding: ", b"Transfer-Encoding\x00: ", b"\x00Transfer-Encoding: ",
    b"Transfer-Encoding\x0b: ", b"Transfer_Encoding: ", b"Transfer Encoding: ", b"Transfer-Encoding\xff: ",
    b"Transfer-Encoding\r\n : ", b"Transfer-Encoding", b"Transfer-Encoding:: ", b"X: y\nTransfer-Encoding: ",
    b"X: y\rTransfer-Encoding: ", b"X: y\r\r\nTransfer-Encoding: ", b"X:\x00Transfer-Encoding: ", b"TE: ",
    b"Content-Encoding: ",
)  # fmt: skip


# What may be a coding to one and none to another, beside a length.
HIDDEN_CODINGS: Final = (
    b"identity", b"xchunked", b"chunked\x0b", b"\x0bchunked", b"chunked, identity", b"x", b"", b"chunked;a",
    b'"chunked"', b"chunked\x00", b"gzip", b"gzip, chunked",
)  # fmt: skip
HIDDEN_CODING_NAMES: Final = (
    b"Transfer-Encoding : ", b" Transfer-Encoding: ", b"Transfer_Encoding: ", b"Transfer-Encoding\t: ",
    b"X: y\nTransfer-Encoding: ", b"X: y\rTransfer-Encoding: ", b"Transfer-Encoding\x00: ",
)  # fmt: skip


def transfer_encodings() -> Named:
    for value in CODINGS:
        glue = b"" if value[:1] in {b"\r", b"\n"} else b" "
        yield f"'{shown(value)}'", request(b"Transfer-Encoding:" + glue + value, body=HELLO)
    for name in CODING_NAMES:
        yield f"written '{shown(name)}'", request(name + b"chunked", body=HIDDEN)
    chunked = b"Transfer-Encoding: chunked"
    yield "twice", request(chunked, chunked, body=HELLO)
    for first, second in (
        (b"chunked", b"identity"),
        (b"identity", b"chunked"),
        (b"gzip", b"chunked"),
        (b"chunked", b"cow"),
    ):
        name = f"{first.decode()}, then {second.decode()}"
        yield name, request(b"Transfer-Encoding: " + first, b"Transfer-encoding: " + second, body=HELLO)
    yield "of GET", request(chunked, method=b"GET", body=HELLO)
    yield "of HEAD", request(chunked, method=b"HEAD", body=HELLO)
    yield "empty, of GET", request(chunked, method=b"GET", body=b"0\r\n\r\n")
    yield "of HTTP/1.0", b"POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO
    yield (
        "of HTTP/1.0, kept alive",
        (b"POST /x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + HIDDEN),
    )
    yield "listed in Connection", request(b"Connection: transfer-encoding", chunked, body=HIDDEN)
    yield "chunks without it", request(body=HELLO)
    yield "never ends", request(chunked, body=b"5\r\nhello\r\n")


def both_framings() -> Named:
    length = b"Content-Length: %d" % len(HIDDEN)
    chunked = b"Transfer-Encoding: chunked"
    yield "the length first", request(length, chunked, body=HIDDEN)
    yield "the coding first", request(chunked, length, body=HIDDEN)
    yield "a length of 0", request(b"Content-Length: 0", chunked, body=HELLO)
    yield "a length that fits", request(b"Content-Length: %d" % len(HELLO), chunked, body=HELLO)
    yield (
        "a length that is too short",
        request(b"Content-Length: 4", chunked, body=b"23\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"),
    )
    yield "an empty length", request(b"Content-Length:", chunked, body=HELLO)
    yield "in HTTP/1.0", request(length, chunked, body=HIDDEN).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    yield "of GET", request(length, chunked, method=b"GET", body=HIDDEN)
    for value in HIDDEN_CODINGS:
        yield f"coding '{shown(value)}'", request(length, b"Transfer-Encoding: " + value, body=HIDDEN)
    for name in HIDDEN_CODING_NAMES:
        yield f"coding written '{shown(name)}'", request(length, name + b"chunked", body=HIDDEN)
    yield "two codings and a length", request(chunked, b"Transfer-Encoding: identity", length, body=HIDDEN)
    yield "a coding and two lengths", request(chunked, length, b"Content-Length: 0", body=HIDDEN)


# --- Chunks -----------------------------------------------------------------------------------------------------------

SIZES: Final = (
    b"5", b"05", b"0" * 14 + b"5", b"0" * 15 + b"5", b"0" * 40 + b"5", b"5 ", b"5\t", b" 5", b"\t5", b"+5", b"-5",
    b"0x5", b"5;", b"5;a", b"5;a=b", b"5 ;a=b", b"5; a = b", b'5;a="b"', b'5;a="\\""', b'5;a="b', b"5;a=\x00",
    b"5;a=\x7f", b"5;a=\xff", b"5;\x0b", b"5;a=b\nX", b"5;a=b\rX", b"5;a=b;c=d", b"5;=b", b"5;a==b", b"5;;",
    b"5;" + b"a" * 5000, b"5;a=b\n5", b"5,", b"5.0", b"5h", b"5 5", b"5_", b"", b" ", b"G", b"\x005", b"5\x00",
    b"5\x0b", b"\xef\xbc\x95", b"10000000000000005", b"FFFFFFFFFFFFFFFF", b"8000000000000005", b"FFFFFFFFFFFFFFFB",
    b"FFFFFFFF00000005", b"5:", b"5=a", b'5;a="\r\n"', b"5\r", b"5\n",
)  # fmt: skip
DATA_ENDS: Final = (b"", b"\n", b"\r", b"\rX", b"\r\r\n", b"\n\n", b"\n\r", b"XX", b" \r\n", b"X\r\n")
LAST: Final = (
    b"0\n\n", b"0\r\n\n", b"0\n\r\n", b"0\r\r\n\r\n", b"00\r\n\r\n", b"000000000000000000\r\n\r\n", b"0;a=b\r\n\r\n",
    b"0 \r\n\r\n", b"-0\r\n\r\n", b"+0\r\n\r\n", b"0x0\r\n\r\n", b"0\r\n\r\r\n", b"0\r\n\rX", b"0\r\n \r\n",
    b"0\r\n" + SMUGGLED, b"0", b"0\r\n",
)  # fmt: skip
TRAILERS: Final = (
    b"X: y\r\n", b"X: y\r\nZ:\r\n", b"x-checksum: 1;2\r\n", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"Connection: close\r\n", b"Authorization: x\r\n",
    b"X-Forwarded-For: 1.2.3.4\r\n", b"Trailer: X\r\n", b"X : y\r\n", b" X: y\r\n", b"X\r\n", b": y\r\n",
    b"X: y\r\n z\r\n", b"X: y\n", b"X: y\rZ: w\r\n", b"X: \x00\r\n", b"X\x00: y\r\n", b"X: \xff\r\n",
    b"X: " + b"y" * 20_000 + b"\r\n", b"X: y\r\n" * 300, b"Content-Length : 5\r\n", b"X: y\nContent-Length: 5\r\n",
)  # fmt: skip


def chunks() -> Named:
    coded = b"Transfer-Encoding: chunked"
    for size in SIZES:
        yield f"size '{shown(size)}'", request(coded, body=size + b"\r\nhello\r\n0\r\n\r\n")
    yield "size in capitals", request(coded, body=b"A\r\nhellohello\r\n0\r\n\r\n")
    yield "size with a bare line feed", request(coded, body=b"5\nhello\r\n0\r\n\r\n")
    yield "size too small", request(coded, body=b"4\r\nhello\r\n0\r\n\r\n")
    yield "size too large", request(coded, body=b"7\r\nhello\r\n0\r\n\r\n" + SMUGGLED)
    for end in DATA_ENDS:
        yield f"data ended by '{shown(end)}'", request(coded, body=b"5\r\nhello" + end + b"0\r\n\r\n")
    for last in LAST:
        yield f"last chunk '{shown(last)}'", request(coded, body=b"5\r\nhello\r\n" + last)
    yield "extension hides a request", request(coded, body=b"0;\n" + SMUGGLED[:-2] + b"\r\n\r\n")
    yield "bare line feed in an extension hides chunks", request(coded, body=b"2;\nxx\r\n4c\r\n0\r\n\r\n" + SMUGGLED)
    yield "many small ones", request(coded, body=b"1\r\nx\r\n" * 500 + b"0\r\n\r\n")
    yield "many with an extension", request(coded, body=b"1;a=b\r\nx\r\n" * 1500 + b"0\r\n\r\n")


def trailers() -> Named:
    for fields in TRAILERS:
        yield (
            f"'{shown(fields)}'",
            request(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n" + fields + b"\r\n"),
        )
    yield "and then a request", request(b"Transfer-Encoding: chunked", body=b"0\r\nX: y\r\n\r\n" + SMUGGLED)


# --- Lines and characters ---------------------------------------------------------------------------------------------


def lines() -> Named:
    yield "bare line feeds only", b"GET /x HTTP/1.1\nHost: a\n\n"
    yield "bare line feed behind the request line", b"GET /x HTTP/1.1\nHost: a\r\n\r\n"
    yield "bare line feed behind a field", b"GET /x HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"
    yield "bare line feed at the end", b"GET /x HTTP/1.1\r\nHost: a\r\n\n"
    yield "bare line feed twice at the end", b"GET /x HTTP/1.1\r\nHost: a\n\n"
    yield "bare carriage returns only", b"GET /x HTTP/1.1\rHost: a\r\r"
    yield "bare carriage return in a value", request(b"X: a\rb", method=b"GET")
    yield "bare carriage return at the end of a value", request(b"X: a\r", method=b"GET")
    yield "bare carriage return before a name", request(b"\rX: a", method=b"GET")
    yield "bare carriage return in the target", request(method=b"GET", target=b"/a\rb")
    yield "carriage return twice", b"GET /x HTTP/1.1\r\r\nHost: a\r\r\n\r\r\n"
    yield "line feed, carriage return", b"GET /x HTTP/1.1\n\rHost: a\n\r\n\r"
    yield (
        "bare carriage return hides a field",
        request(b"X: a\rContent-Length: " + HIDING, method=b"GET", body=SMUGGLED),
    )
    yield "empty line in front", b"\r\n" + request(method=b"GET")
    yield "two empty lines in front", b"\r\n\r\n" + request(method=b"GET")
    yield "line feed in front", b"\n" + request(method=b"GET")
    yield "carriage return in front", b"\r" + request(method=b"GET")
    yield "space in front", b" " + request(method=b"GET")
    yield "NUL in front", b"\0" + request(method=b"GET")
    yield (
        "white space between request line and fields",
        request(b"X: y", method=b"GET").replace(b"\r\nHost", b"\r\n Host"),
    )
    yield "folded field", request(b"X: a\r\n b", method=b"GET")
    yield "folded field, tab", request(b"X: a\r\n\tb", method=b"GET")
    yield "folded field, empty", request(b"X: a\r\n ", method=b"GET")
    yield "folded field that looks like one", request(b"X: a\r\n Host: b", method=b"GET")
    yield "folded Host", b"GET /x HTTP/1.1\r\nHost:\r\n a\r\n\r\n"
    yield "first field folded", b"GET /x HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n"
    yield "no colon", request(b"X", method=b"GET")
    yield "no name", request(b": y", method=b"GET")
    yield "no name, no value", request(b":", method=b"GET")
    yield "no value", request(b"X:", method=b"GET")
    yield "white space for a value", request(b"X: \t ", method=b"GET")
    yield "space before the colon", request(b"X : y", method=b"GET")
    yield "tab before the colon", request(b"X\t: y", method=b"GET")
    yield "space in a name", request(b"X Y: z", method=b"GET")
    for sign in b'"(),/;<=>?@[\\]{}':
        yield f"name with {chr(sign)}", request(b"X%cY: z" % sign, method=b"GET")
    yield "name of all token characters", request(b"!#$%&'*+-.^_`|~09azAZ: y", method=b"GET")
    for code in CONTROLS:
        yield f"byte {code:02x} in a value", request(b"X: a%cb" % code, method=b"GET")
        yield f"byte {code:02x} in a name", request(b"X%cY: z" % code, method=b"GET")
    yield "head that does not end", b"GET /x HTTP/1.1\r\nHost: a\r\n"
    yield "101 fields", request(*[b"X-%d: y" % number for number in range(100)], method=b"GET")
    yield "99 fields", request(*[b"X-%d: y" % number for number in range(98)], method=b"GET")
    yield "70 KiB in one field", request(b"X: " + b"y" * 70_000, method=b"GET")
    yield "7 KiB in one field", request(b"X: " + b"y" * 7_000, method=b"GET")


# --- Request line -----------------------------------------------------------------------------------------------------

METHODS: Final = (
    b"GET", b"get", b"GeT", b"M-SEARCH", b"PATCH", b"TRACE", b"A" * 30, b"", b" GET", b"GET ", b"G ET", b"G\tT",
    b"GET/", b"G(T", b"G\xc9T", b"G\0T", b"G:T", b'"GET"', b"PRI",
)  # fmt: skip
TARGETS: Final = (
    b"/", b"//", b"//b/x", b"/a?b=c", b"/a?b?c", b"/a/../b", b"/..;/x", b"/a;b", b"/%00", b"/%0d%0aX:%20y", b"/%",
    b"/a b", b"/a\tb", b"", b"a", b"?a", b"#", b"/#f", b"/a#b", b"/a?b#c", b"/\\", b"/a|b", b'/"<>^`{}',
    b"/" + b"a" * 7000, b"/\xc3\xa9", b"*", b"*/", b"**", b"http://a/x", b"HTTP://a/x", b"https://a/x", b"http://a",
    b"http://a?b", b"http://a#b", b"http://b/x", b"http://a:80/x", b"http://a:/x", b"http://a:99999/x",
    b"http://a:port/x", b"http://u@a/x", b"http://u:p@a/x", b"http:///x", b"http://", b"http:/x", b"http:a",
    b"ftp://a/x", b"file:///x", b"javascript:x", b"http://[::1]/x", b"http://[::1/x", b"http://a b/x",
    b"http://a\\b/x", b"http://a%00/x", b"http://*/x", b"http://a/../x", b"a:80", b"//a:80/x", b"x://a/b",
    b"http://a,b/x", b"http://\xc3\xa9/",
)  # fmt: skip
VERSIONS: Final = (
    b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/1.10",
    b"HTTP/01.1", b"HTTP/1.01", b"HTTP/1", b"HTTP/1.", b"HTTP/.1", b"HTTP/1,1", b"http/1.1", b"HTTP/1.1 ",
    b"HTTP/1.1\t", b" HTTP/1.1", b"HTTP/ 1.1", b"HTTP /1.1", b"HTTP/1. 1", b"HTTP1.1", b"HTTPS/1.1", b"HTTP/1.1x",
    b"HTTP/11", b"HTTP/-1.1", b"HTTP/+1.1", b"HTTP/1.1\0", b"ICY/1.1", b"XTTP/1.1", b"",
)  # fmt: skip


def methods() -> Named:
    for method in METHODS:
        yield f"'{shown(method)}'", request(method=method)
    yield "connection preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield "CONNECT a:80", request(method=b"CONNECT", target=b"a:80")
    yield "CONNECT of another host", request(method=b"CONNECT", target=b"b:80")
    yield "CONNECT without a port", request(method=b"CONNECT", target=b"a")
    yield "CONNECT /", request(method=b"CONNECT", target=b"/")
    yield "CONNECT http://a/", request(method=b"CONNECT", target=b"http://a/")
    yield "CONNECT with a body", request(b"Content-Length: " + HIDING, method=b"CONNECT", target=b"a:80", body=SMUGGLED)
    yield "CONNECT, then a request", request(method=b"CONNECT", target=b"a:80", body=SMUGGLED)


def targets() -> Named:
    for target in TARGETS:
        yield f"'{shown(target)}'", request(method=b"GET", target=target)
    for code in CONTROLS:
        yield f"with byte {code:02x}", request(method=b"GET", target=b"/a%cb" % code)
    yield "* of OPTIONS", request(method=b"OPTIONS", target=b"*")
    yield "/ of OPTIONS", request(method=b"OPTIONS", target=b"/")
    yield "http://a of OPTIONS", request(method=b"OPTIONS", target=b"http://a")
    yield "http://a/ of OPTIONS", request(method=b"OPTIONS", target=b"http://a/")


def versions() -> Named:
    for version in VERSIONS:
        yield f"'{shown(version)}'", b"GET /x " + version + b"\r\nHost: a\r\n\r\n"
    yield "none and no fields", b"GET /x\r\n"
    yield "two spaces before it", b"GET /x  HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "two spaces before the target", b"GET  /x HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "tab before it", b"GET /x\tHTTP/1.1\r\nHost: a\r\n\r\n"
    yield "tab before the target", b"GET\t/x HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "HTTP/1.0 without Host", b"GET /x HTTP/1.0\r\n\r\n"
    yield "HTTP/1.0, kept alive", b"GET /x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
    yield "twice", b"GET /x HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n"


# --- Host -------------------------------------------------------------------------------------------------------------

HOSTS: Final = (
    b"a", b"A.b", b" a ", b"\ta", b"", b" ", b"a:80", b"a:", b"a:080", b"a:99999", b"a:999999", b"a:port", b"a:80:81",
    b":80", b"a.", b"[::1]", b"[::1]:80", b"[::1", b"::1", b"[a]", b"127.0.0.1", b"a, b", b"a,b", b"a b", b"u@a",
    b"a/b", b"a?b", b"a#b", b"a\\b", b"a%00", b"a_b", b"*", b"http://a", b"a;b", b"\xc3\xa9", b"a\x00b", b"a\x0bb",
    b"a\x7f", b"a\rb", b"'a'", b'"a"', b"a<b>", b"a" * 300,
)  # fmt: skip


def hosts() -> Named:
    for value in HOSTS:
        yield f"'{shown(value)}'", request(b"Host: " + value, method=b"GET", host=False)
    yield "none", request(method=b"GET", host=False)
    yield "twice the same", request(b"Host: a", method=b"GET")
    yield "twice, differing", request(b"Host: b", method=b"GET")
    yield "twice, in another spelling", request(b"hOST: b", method=b"GET")
    yield "twice, fields between", request(b"X: y", b"Host: b", method=b"GET")
    yield "twice in HTTP/1.0", b"GET /x HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"
    yield "second one with a space before the colon", request(b"Host : b", method=b"GET")
    yield "second one folded away", request(b" Host: b", method=b"GET")
    yield "second one behind a bare line feed", request(b"X: y\nHost: b", method=b"GET")
    yield "another than the target's", request(method=b"GET", target=b"http://b/x")
    yield "none, but the target's", request(method=b"GET", target=b"http://b/x", host=False)
    yield "empty, and the target's", request(b"Host:", method=b"GET", target=b"http://b/x", host=False)
    yield "two, and the target's", request(b"Host: b", method=b"GET", target=b"http://a/x")
    yield "listed in Connection", request(b"Connection: host", method=b"GET")


# --- Fields that change what a message is -----------------------------------------------------------------------------

FIELDS: Final = (
    b"Connection: close", b"Connection: keep-alive", b"Connection: close, keep-alive", b"Connection: x-a\r\nX-A: 1",
    b"Connection: close\r\nConnection: x-a\r\nX-A: 1", b"Connection:", b"Connection: ,", b"Connection: x y",
    b"Connection: cookie\r\nCookie: a", b"Connection: x-forwarded-for\r\nX-Forwarded-For: 1.2.3.4", b"Keep-Alive: 5",
    b"Proxy-Connection: keep-alive", b"TE: trailers", b"TE: chunked", b"Connection: te\r\nTE: trailers",
    b"Trailer: X", b"Trailer: Content-Length", b"Upgrade: websocket", b"Connection: upgrade\r\nUpgrade: x",
    b"Connection: upgrade\r\nUpgrade: websocket", b"Connection: upgrade",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    b"Connection: upgrade\r\nUpgrade: TLS/1.0", b"Connection: upgrade\r\nUpgrade: websocket, x",
    b"Expect: 100-continue", b"Expect: 200-ok", b"Expect: 100-continue, x", b"Expect:", b"Max-Forwards: 0",
    b"X-HTTP-Method-Override: DELETE", b"Content-Encoding: gzip", b"X: a\r\nX: b",
)  # fmt: skip


def fields() -> Named:
    for field in FIELDS:
        yield f"'{shown(field)}'", request(field, method=b"GET")
    upgrade = b"Connection: upgrade\r\nUpgrade: websocket"
    yield "upgrade, then a request", request(upgrade, method=b"GET", body=SMUGGLED)
    yield "upgrade with a length", request(upgrade, b"Content-Length: " + HIDING, body=SMUGGLED)
    yield "upgrade with chunks", request(upgrade, b"Transfer-Encoding: chunked", body=HIDDEN)
    yield "Expect with a body", request(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello")
    yield "Expect in HTTP/1.0", b"POST /x HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"


# --- One behind the other ---------------------------------------------------------------------------------------------


def pipelines() -> Named:
    get, post = request(method=b"GET"), request(b"Content-Length: 5", body=b"hello")
    chunked = request(b"Transfer-Encoding: chunked", body=HELLO)
    yield "two GETs", get + get
    yield "five GETs", get * 5
    yield "POST, GET", post + get
    yield "chunks, GET", chunked + get
    yield "chunks with a trailer, GET", chunked[:-2] + b"X: y\r\n\r\n" + get
    yield "HEAD, GET", request(method=b"HEAD") + get
    yield "GET, POST, chunks, GET", get + post + chunked + get
    yield "an empty line between", get + b"\r\n" + get
    yield "an empty line behind a body", post + b"\r\n" + get
    yield "two empty lines between", get + b"\r\n\r\n" + get
    yield "a line feed between", get + b"\n" + get
    yield "a space between", get + b" " + get
    yield "garbage behind", get + b"garbage\r\n\r\n"
    yield "NUL behind", get + b"\0" * 20
    yield "close, then another", request(b"Connection: close", method=b"GET") + get
    yield "HTTP/1.0, then another", b"GET /x HTTP/1.0\r\nHost: a\r\n\r\n" + get
    yield "HTTP/1.0 kept alive, then another", b"GET /x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" + get
    yield "a body of 0, then another", request(b"Content-Length: 0") + get
    yield "half of another behind", get + get[:20]
    yield "a bad one behind", get + request(b"X : y", method=b"GET")
    yield "one with two framings behind", get + request(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=HELLO)
    yield "a bad chunk, then another", request(b"Transfer-Encoding: chunked", body=b"5\r\nhello0\r\n\r\n") + get


GROUPS: Final = {
    "Content-Length": content_lengths,
    "Transfer-Encoding": transfer_encodings,
    "Both framings": both_framings,
    "Chunks": chunks,
    "Trailers": trailers,
    "Lines": lines,
    "Method": methods,
    "Target": targets,
    "Version": versions,
    "Host": hosts,
    "Fields": fields,
    "Pipelining": pipelines,
}
