"""HTTP/1.1 message heads: one strict grammar, RFC 9112, and the framing that follows from a head. Sans-IO.

A pattern for the start line and `shape_of` for the field lines recognise the well-formed head. What they do not
recognise is refused with a reason, never repaired: no bare CR or LF, no folded lines, no space before a colon, no
control characters. Message framing is where request smuggling lives, so the rules stand in one place (`_frame`,
`response_framing`) and no second parser behind them.

Two leniencies: an empty line before a request (RFC 9112 2.2), and no space before an empty reason phrase.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.shape import HOP_BY_HOP, NO_FIELDS, Shape, shape_of
from pymesh_proxy.errors import Flag, ProxyError

# Envoy's defaults: 60 KiB of head, 100 fields (HttpProtocolOptions.max_headers_count).
MAX_HEAD_BYTES: Final = 60 * 1024
MAX_FIELDS: Final = 100

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# Each line can be read in one way only, so nothing is ever tried twice. Possessive quantifiers stand on single
# characters only: on groups they are wrong before CPython 3.11.5 (gh-106052), where a group that fails may consume.
# A target without '#': a fragment never travels (RFC 9112 3.2), and proxies disagree about what to do with one.
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb"++) ([!\"$-~]++) HTTP/1\.([01])(?:\r\n|\Z)")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*+))?")

# RFC 3986 3.2.2 and 3.2.3: a percent sign stands before two hexadecimal digits, and a port that is no port is refused:
# what one takes for a name and another for something else leads to two places.
_PORT: Final = rb"[0-5]?[0-9]{1,4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]++|%[0-9A-Fa-f]{2})*)"
    rb"(?::(?:" + _PORT + rb")?)?"
)
_ABSOLUTE: Final = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?@]*)(/[^?]*)?(\?.*)?")
# CONNECT names a host and a port, both of them (RFC 9110 9.3.6). What they may be is for `_HOST` to say.
_AUTHORITY_FORM: Final = re.compile(rb"[^:].*:[0-9]+")
# So that no peer's 64 bit integer can overflow.
_MAX_LENGTH_DIGITS: Final = 18

# Fields that a Connection header must not take away from a message: framing, routing, and whom a request is believed to
# come from, would change under us.
_PROTECTED: Final = frozenset(
    {
        b"host", b"content-length", b"transfer-encoding",
        b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-client-cert",
    }
)  # fmt: skip

# What recurs from head to head (hosts, status lines, Connection fields) is read once: this many lines of each are
# remembered, if they are no longer than this: 0.1 MB for each kind at the worst.
_REMEMBERED: Final = 256
_MAX_REMEMBERED_BYTES: Final = 128


class MessageError(ProxyError):
    """A peer's message breaks the grammar or the framing rules; `details` says how."""


Refusal: TypeAlias = Callable[[str], MessageError]


def bad_request(details: str) -> MessageError:
    """A refusal of what the client sent: 400, but 431 and 501 where RFC 6585 and RFC 9112 6.1 have a better word."""
    status = {"headers_too_large": 431, "unsupported_transfer_encoding": 501}.get(details, 400)
    return MessageError(status, Flag.DOWNSTREAM_PROTOCOL_ERROR, f"http1.{details}")


def bad_response(details: str) -> MessageError:
    """A refusal of what the upstream sent."""
    return MessageError(502, Flag.UPSTREAM_PROTOCOL_ERROR, f"http1.{details}")


def parse_request(
    data: bytes, max_bytes: int = MAX_HEAD_BYTES, max_fields: int = MAX_FIELDS, like: Shape = NO_FIELDS
) -> tuple[Head, int] | None:
    """The request head at the start of `data` and where its body starts; None if more bytes are needed.

    `like`: the shape that it probably has, of the head before it on the connection.

    Raises:
        MessageError: the bytes cannot become an acceptable request: 400, 431 (too large) or 501 (transfer coding).
    """
    start = 0
    match = _REQUEST_LINE.match(data)
    if match is None and data.startswith(b"\r\n"):
        start = 2
        match = _REQUEST_LINE.match(data, start)
    end = data.find(b"\r\n\r\n", start)
    if end < 0 or match is None:
        _refuse_or_wait(data[start:], _REQUEST_LINE, max_bytes, max_fields, bad_request)
        return None
    first = match.end()
    lines = data[first:end].split(b"\r\n") if first < end else []
    shape = shape_of(lines, like)
    if shape is None:
        _refuse_or_wait(data[start:], _REQUEST_LINE, max_bytes, max_fields, bad_request)
        return None
    if end + 4 - start > max_bytes or len(lines) > max_fields:
        raise bad_request("headers_too_large")
    head = Head(lines, shape)
    if shape.repeated:
        _refuse_repeated(shape, (b"host", b"content-length"), bad_request)
    method, target, minor = match.groups()
    head.method = method
    if minor == b"0":
        head.minor = 0
        head.persistent = False
    if shape.framing:
        _frame(head, lines, bad_request)
    _locate(head, lines, target)
    return head, end + 4


def parse_response(
    data: bytes, max_bytes: int = MAX_HEAD_BYTES, max_fields: int = MAX_FIELDS, like: Shape = NO_FIELDS
) -> tuple[Head, int] | None:
    """The response head at the start of `data` and where its body starts; None if more bytes are needed.

    `like`: the shape that it probably has, of the head before it on the connection.

    Raises:
        MessageError: the bytes cannot become an acceptable response (502, flag UPE).
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        _refuse_or_wait(data, _STATUS_LINE, max_bytes, max_fields, bad_response)
        return None
    lines = data[:end].split(b"\r\n")
    first = lines.pop(0)
    start = _known_status_line(first) if len(first) <= _MAX_REMEMBERED_BYTES else _status_line(first)
    shape = shape_of(lines, like)
    if start is None or shape is None:
        _refuse_or_wait(data, _STATUS_LINE, max_bytes, max_fields, bad_response)
        return None
    if end + 4 > max_bytes or len(lines) > max_fields:
        raise bad_response("headers_too_large")
    head = Head(lines, shape)
    head.minor, head.status, head.reason = start
    if shape.repeated:
        _refuse_repeated(shape, (b"content-length",), bad_response)
    if shape.framing:
        _frame(head, lines, bad_response)
    else:
        head.persistent = head.minor == 1
    if head.status < 200 or head.status == 204:
        _expect_no_body(head)
    return head, end + 4


def _status_line(line: bytes) -> tuple[int, int, bytes] | None:
    """The 1 in HTTP/1.1, the status and its reason phrase; None if `line` is no status line."""
    match = _STATUS_LINE.fullmatch(line)
    return None if match is None else (int(match[1]), int(match[2]), match[3] or b"")


_known_status_line = lru_cache(maxsize=_REMEMBERED)(_status_line)


def _refuse_repeated(shape: Shape, single: tuple[bytes, ...], bad: Refusal) -> None:
    """Refuse fields that must not be repeated."""
    for name in shape.repeated:
        if name in single:
            raise bad("repeated_" + name.decode().replace("-", "_"))


# --- Framing: RFC 9112 section 6, and connection persistence: 9.3 -----------------------------------------------------


def _frame(head: Head, lines: list[bytes], bad: Refusal) -> None:
    """Content-Length, Transfer-Encoding and Connection of a request or a response that came with `lines`."""
    where = head.shape.where
    place = where.get(b"content-length")
    if place is not None:
        length = lines[place][15:].strip(b" \t")
        if not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS:
            raise bad("invalid_content_length")
        head.content_length = int(length)
    if b"transfer-encoding" in where:
        if head.content_length is not None:
            raise bad("content_length_with_transfer_encoding")
        if head.minor == 0:
            raise bad("transfer_encoding_in_http_1_0")
        if (head.get(b"transfer-encoding") or b"").lower() != b"chunked":
            raise bad("unsupported_transfer_encoding")
        head.chunked = True
    place = where.get(b"connection")
    if place is None:
        head.persistent = head.minor == 1
        return
    line = lines[place]
    if b"connection" in head.shape.repeated:
        line = b"connection:" + (head.get(b"connection") or b"")
    asked = _known_connection(line) if len(line) <= _MAX_REMEMBERED_BYTES else _connection(line)
    if asked is None:
        head.persistent = True
        return
    if asked.protected:
        raise bad("connection_lists_a_protected_header")
    head.listed = asked.listed
    head.persistent = not asked.close and (head.minor == 1 or asked.keep_alive)
    # RFC 9110 7.8: in HTTP/1.0 it means nothing. With a body it is not passed on: others, Envoy too, take what follows
    # the head of an upgrade for the new protocol, whatever Content-Length says.
    if asked.upgrade and head.minor == 1 and not head.chunked and not head.content_length:
        head.upgrade = (head.get(b"upgrade") or b"").lower()


@dataclass(frozen=True, slots=True)
class _Connection:
    """What a Connection field asks for (RFC 9110 7.6.1). `listed`: all options but the names of such fields anyway."""

    listed: frozenset[bytes]
    protected: bool
    close: bool
    keep_alive: bool
    upgrade: bool


def _connection(line: bytes) -> _Connection | None:
    """The meaning of the field line `Connection: ...`; None where that is `keep-alive`, and nothing else, as mostly."""
    options = frozenset([token.strip(b" \t") for token in line[11:].lower().split(b",")])
    if options == {b"keep-alive"}:
        return None
    protected = not _PROTECTED.isdisjoint(options)
    close, keep_alive, upgrade = b"close" in options, b"keep-alive" in options, b"upgrade" in options
    return _Connection(options - HOP_BY_HOP, protected, close, keep_alive, upgrade)


_known_connection = lru_cache(maxsize=_REMEMBERED)(_connection)


def _expect_no_body(head: Head) -> None:
    """A 1xx or 204 has no body and must not announce one (RFC 9110 8.6, RFC 9112 6.1); Envoy's words."""
    if head.chunked:
        raise bad_response("transfer_encoding_not_allowed")
    if head.content_length is not None:
        if head.content_length:
            raise bad_response("content_length_not_allowed")
        head.remove(b"content-length")  # a harmless mistake that is common enough


def _locate(head: Head, lines: list[bytes], target: bytes) -> None:
    """Split the request target (RFC 9112 3.2) into `path` and `authority`."""
    place = head.shape.where.get(b"host")
    if place is None:
        if head.minor == 1:
            raise bad_request("missing_host_header")
        host = b""
    else:
        line = lines[place]
        known = _known_host(line) if len(line) <= _MAX_REMEMBERED_BYTES else _host(line)
        if known is None:
            raise bad_request("invalid_host_header")
        host = known
    head.authority = host
    head.path = target
    if target[0] == 0x2F and head.method != b"CONNECT":  # origin-form, "/..."
        return
    if head.method == b"CONNECT":
        if _HOST.fullmatch(target) is None or _AUTHORITY_FORM.fullmatch(target) is None:
            raise bad_request("invalid_connect_target")
        head.authority = target
        head.persistent = False  # what follows is meant for a tunnel: no request to us, whatever we answer
        return
    if target == b"*" and head.method == b"OPTIONS":
        return
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or absolute[1][:1] in {b"", b":"} or _HOST.fullmatch(absolute[1]) is None:
        raise bad_request("invalid_request_target")
    path, query = absolute[2] or b"", absolute[3] or b""
    # OPTIONS for the server as a whole is `*` from here on (RFC 9112 3.2.4).
    head.path = b"*" if head.method == b"OPTIONS" and not path and not query else (path or b"/") + query
    if absolute[1] != host:
        # The target wins over Host (RFC 9112 3.2.2), and Host is rewritten so that nobody behind us sees another.
        head.authority = absolute[1]
        head.set(b"host", absolute[1])


def _host(line: bytes) -> bytes | None:
    """What the field line `Host: ...` names; None if that is no host."""
    host = line[5:].strip(b" \t")
    return None if _HOST.fullmatch(host) is None else host


_known_host = lru_cache(maxsize=_REMEMBERED)(_host)


def request_has_body(head: Head) -> bool:
    """Whether body bytes follow the request head (RFC 9112 6.3: neither framing header means none)."""
    return head.chunked or bool(head.content_length)


def response_framing(head: Head, method: bytes) -> int | None:
    """How many body bytes follow a response head: a length, -1 for chunked, None for "until the connection closes".

    RFC 9112 6.3, rules 1 to 8, in order.
    """
    status = head.status
    if method == b"HEAD" or status in {204, 304} or status < 200:
        return 0
    if method == b"CONNECT" and status < 300:
        return None
    if head.chunked:
        return -1
    return head.content_length


# --- Why a head is refused --------------------------------------------------------------------------------------------

_FIELD_LINE: Final = re.compile(_TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+")
_FIELD_FAULTS: Final = (
    (re.compile(rb"[ \t]"), "folded_header_line"),
    (re.compile(rb"[^:]*[ \t]+:"), "space_before_colon"),
    (re.compile(rb"[^:]*$"), "header_without_colon"),
    (re.compile(_TOKEN + rb"*[^!#$%&'*+\-.^_`|~0-9A-Za-z:]"), "invalid_header_name"),
    (re.compile(rb":"), "empty_header_name"),
)


def _refuse_or_wait(data: bytes, first: re.Pattern[bytes], max_bytes: int, max_fields: int, bad: Refusal) -> None:
    """Return if `data` may still become a head; raise what is wrong with it otherwise. Never on the common path.

    Every line is looked at as soon as it is complete, so that a peer that sends nonsense hears of it at once.
    """
    lines = data.split(b"\r\n")
    partial = lines.pop()
    for number, line in enumerate(lines):
        if number == 0:
            if first.fullmatch(line) is None:
                raise bad(_explain_start_line(line, bad))
        elif line and _FIELD_LINE.fullmatch(line) is None:
            raise bad(_explain_field(line))
    if b"\n" in partial:
        raise bad("bare_line_feed")
    if b"\r" in partial[:-1]:
        raise bad("bare_carriage_return")
    if re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", partial):
        raise bad("control_character")
    if len(data) > max_bytes or len(lines) > max_fields + 1:
        raise bad("headers_too_large")


def _explain_start_line(line: bytes, bad: Refusal) -> str:
    if b"\n" in line:
        return "bare_line_feed"
    if b"\r" in line:
        return "bare_carriage_return"
    if bad is bad_response:
        return "invalid_status_line"
    words = line.split(b" ")
    if len(words) != 3:
        return "invalid_request_line"
    if re.fullmatch(_TOKEN + rb"+", words[0]) is None:
        return "invalid_method"
    if re.fullmatch(rb"[!\"$-~]+", words[1]) is None:
        return "invalid_request_target"
    return "unsupported_version"


def _explain_field(line: bytes) -> str:
    if b"\n" in line:
        return "bare_line_feed"
    if b"\r" in line:
        return "bare_carriage_return"
    for fault, words in _FIELD_FAULTS:
        if fault.match(line):
            return words
    return "control_character_in_header"
