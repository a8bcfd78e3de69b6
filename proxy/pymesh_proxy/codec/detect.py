"""What a connection speaks, told from its first bytes. Sans-IO.

TLS by its ClientHello (with the server name and ALPN in it), HTTP/2 by its preface, HTTP/1 by a request line; anything
else is opaque. The mesh's own TLS is recognised by its ALPN (`istio…`): any other TLS belongs to the application.

Source: RFC 8446 4.1.2, RFC 6066 section 3 (server_name), RFC 7301 (ALPN), RFC 9113 3.4 (preface).
"""

import enum
import re
from dataclasses import dataclass
from typing import Final

# A ClientHello with post-quantum key shares and tickets takes 1.5 to 2.5 KiB; Envoy's tls_inspector reads 16 KiB.
MAX_PEEK: Final = 16 * 1024
# A handshake message may span records; nobody needs more of them for a ClientHello than this, and each is looked at
# anew whenever more bytes arrive.
MAX_HELLO_RECORDS: Final = 64

HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_METHOD: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}"
# A line that ends in LF alone is HTTP too: the codec is there to refuse it with a reason.
_REQUEST_LINE: Final = re.compile(rb"(?:\r\n)?(" + _METHOD + rb") [!-~]+ HTTP/1\.[01]\r?\n")
# What a request line may look like while it is still arriving.
# What a lenient HTTP server could take for a request, though it is none: see `detect`.
_ALMOST_REQUEST: Final = re.compile(
    rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|TRACE|PATCH)(?:[^!#$%&'*+\-.^_`|~0-9A-Za-z])"
)
_WHITE_SPACE: Final = b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0"  # what str.split() takes for it
_TEXT: Final = re.compile(rb"[\t\x0b\x0c\r\x1c-\x7e\x80-\xff]*")
_REQUEST_START: Final = re.compile(rb"\r|(?:\r\n)?(?:" + _METHOD + rb"(?: [!-~]*(?: [HTP/1.0]{0,8}\r?)?)?)?")


class Protocol(enum.Enum):
    """What the first bytes are."""

    TLS = "tls"
    HTTP1 = "http1"
    HTTP2 = "http2"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True)
class Detection:
    """The protocol and, for TLS, what the ClientHello asks for."""

    protocol: Protocol
    server_name: str = ""
    alpn: tuple[str, ...] = ()

    @property
    def application_protocols(self) -> tuple[str, ...]:
        """What a filter chain's `application_protocols` is held against, in Envoy's words (http_inspector's)."""
        if self.protocol is Protocol.HTTP1:
            return ("http/1.1", "http/1.0")
        if self.protocol is Protocol.HTTP2:
            return ("h2c",)
        return self.alpn


OPAQUE: Final = Detection(Protocol.OPAQUE)


def detect(data: bytes, *, ended: bool = False, wary: bool = False) -> Detection | None:
    """What `data`, the start of a connection, is; None while more bytes could tell.

    `ended` says that no more will come (end of stream): the answer is then never None, nor is it beyond MAX_PEEK bytes,
    which are all that is looked at. An answer stands: no further bytes would change it.

    `wary` also calls HTTP what some server might read as HTTP: a known method before anything that ends a word, or
    `HTTP/` in the first line. The codec then refuses it. Taken for opaque, it would reach such a server with whatever
    identity headers the client wrote.
    """
    if len(data) >= MAX_PEEK:
        data, ended = data[:MAX_PEEK], True
    if not data:
        return OPAQUE if ended else None
    if data[0] == 0x16:
        found = _client_hello(data)
    elif data[0] == 0x50 and (HTTP2_PREFACE.startswith(data) or data.startswith(HTTP2_PREFACE)):
        found = Detection(Protocol.HTTP2) if len(data) >= len(HTTP2_PREFACE) else None
    elif line := _REQUEST_LINE.match(data):
        # A CONNECT is addressed to the proxy behind us: to this one it is a stream of bytes.
        found = OPAQUE if line[1] == b"CONNECT" else Detection(Protocol.HTTP1)
    elif _REQUEST_START.fullmatch(data):
        found = None
    else:
        found = _wary(data) if wary else OPAQUE
    if found is None and ended:
        return Detection(Protocol.HTTP1) if wary and _ALMOST_REQUEST.match(data.lstrip(_WHITE_SPACE)) else OPAQUE
    return found


def _wary(data: bytes) -> Detection | None:
    """What bytes that are no well-formed request line might be to a lenient server."""
    line, newline, _ = data.lstrip(_WHITE_SPACE).partition(b"\n")
    if _ALMOST_REQUEST.match(line) or (newline and b"HTTP/" in line.upper()):
        return Detection(Protocol.HTTP1)
    return None if not newline and _TEXT.fullmatch(line) else OPAQUE


class _Short(Exception):  # noqa: N818 - control flow within this module
    """The bytes end before the structure does."""


class _Malformed(Exception):  # noqa: N818 - control flow within this module
    """The structure is complete and wrong."""


class _Reader:
    """A cursor over bytes that raises _Short at the end."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self.data = data
        self.position = position
        self.end = len(data) if end is None else end

    def take(self, count: int) -> bytes:
        if self.position + count > self.end:
            raise _Short
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> "_Reader":
        """A vector with a length prefix of `size` bytes."""
        return _Reader(self.take(self.number(size)))

    def more(self) -> bool:
        return self.position < self.end


def _client_hello(data: bytes) -> Detection | None:
    """SNI and ALPN of the ClientHello that `data` starts with, which may span several records."""
    handshake = b""
    record = _Reader(data)
    complete = False
    records = 0
    while record.more() and not complete:
        records += 1
        if records > MAX_HELLO_RECORDS:
            return OPAQUE
        try:
            if record.take(1) != b"\x16" or record.take(1) != b"\x03":
                return OPAQUE
            record.take(1)
            length = record.number(2)
            if length == 0 or length > 1 << 14:
                return OPAQUE
        except _Short:
            return None
        available = min(length, record.end - record.position)
        handshake += record.take(available)
        if handshake[:1] not in {b"", b"\x01"}:
            return OPAQUE
        complete = len(handshake) >= 4 and len(handshake) >= 4 + int.from_bytes(handshake[1:4], "big")
        if available < length:
            break
    if not complete:
        too_long = len(handshake) >= 4 and int.from_bytes(handshake[1:4], "big") > MAX_PEEK
        return OPAQUE if too_long else None
    try:
        return _hello_body(_Reader(handshake, 4, 4 + int.from_bytes(handshake[1:4], "big")))
    except (_Short, _Malformed, UnicodeDecodeError):
        return OPAQUE  # complete by its own length, and yet no ClientHello


def _hello_body(hello: _Reader) -> Detection:
    hello.take(2 + 32)
    hello.vector(1)
    hello.vector(2)
    hello.vector(1)
    server_name, alpn = "", []
    seen: set[int] = set()
    if hello.more():
        extensions = hello.vector(2)
        while extensions.more():
            kind = extensions.number(2)
            if kind in seen:
                raise _Malformed  # RFC 8446 4.2; which of the two would the server believe?
            seen.add(kind)
            body = extensions.vector(2)
            if kind == 0:
                names = body.vector(2)
                if names.number(1) == 0:
                    server_name = names.vector(2).data.decode("ascii").lower()
            elif kind == 16:
                protocols = body.vector(2)
                while protocols.more():
                    alpn.append(protocols.vector(1).data.decode("latin-1"))
    return Detection(Protocol.TLS, server_name, tuple(alpn))
