"""Envoy's access log formats, compiled: text and JSON lines from a request's record. Pure.

A format is a text with operators (`%REQ(USER-AGENT):40%`), or keys with such texts. It is taken apart once; a line is
then made by a list of small functions. What is not known is `-` in text and null in JSON. In JSON a value that is one
operator keeps its type, and keys are sorted; both as Envoy 1.40 does.

Lines are Envoy's, byte for byte (tests/conformance/test_access_logs.py), but for these: whatever a peer sent, a line
stays one line of valid UTF-8, so that in text control characters are written `\\x0a`; where Envoy logs the first of
several fields of a name, this logs them all, joined by `, `; the bytes of a chunked body count its framing; and why a
connection was refused is told in the words of Python's sockets.

Source: Envoy, "Command operators" (observability/access_log/usage); Istio, pilot/pkg/model/telemetry_logging.go.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from time import gmtime, strftime
from typing import Final, TypeAlias

from pymesh.access_log_formats import Command, header_names, parse_format
from pymesh.errors import ConfigError
from pymesh_proxy.errors import Flag
from pymesh_proxy.telemetry.record import RequestRecord

Value: TypeAlias = str | int | None
Operator: TypeAlias = Callable[[RequestRecord], Value]
Render: TypeAlias = Callable[[RequestRecord], str]


def compile_format(format: str | Mapping[str, str]) -> Render:  # noqa: A002 - the word that everybody uses for it
    """The function that makes a line of a record. A text ends as it says; a JSON object ends its line.

    Raises:
        ConfigError: an operator that is not known, or not written as it must be; the text has the place.
    """
    if isinstance(format, str):
        return _text_line(_parts(format))
    members = [(key, _json_member(key, format[key])) for key in sorted(format)]
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

    def render(record: RequestRecord) -> str:
        line = encode({key: member(record) for key, member in members})
        return (line if line.isprintable() else line.translate(_JSON_ESCAPES)) + "\n"

    return render


def _text_line(parts: list[str | Operator]) -> Render:
    """The function for a text with operators.

    A line is put together at once and looked at as a whole: nearly none has anything in it that must be escaped.
    """
    operators = [part for part in parts if not isinstance(part, str)]
    pattern = "".join([part.replace("%", "%%") if isinstance(part, str) else "%s" for part in parts])
    pattern, end = (pattern[:-1], "\n") if pattern.endswith("\n") else (pattern, "")

    def render(record: RequestRecord) -> str:
        values = tuple(["-" if (value := operator(record)) is None else value for operator in operators])
        line = pattern % values
        if not _is_clean(line):
            line = pattern % tuple([_escaped(value) for value in values])
        return line + end

    return render


def _json_member(key: str, text: str) -> Operator:
    try:
        parts = _parts(text)
    except ConfigError as error:
        raise error.at(key) from None
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]
    return lambda record: "".join([part if isinstance(part, str) else _plain(part(record)) for part in parts])


# --- Values as text ---------------------------------------------------------------------------------------------------

# What would end a line, or move a terminal's cursor: C0, DEL, C1, and Unicode's two line separators.
_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    code: f"\\u{code:04x}" for code in (0x2028, 0x2029)
}

# ASCII that is shown as it is, mapped to itself, and the rest to something else.
_SHOWN: Final = bytes(code if 0x20 <= code < 0x7F else code ^ 1 for code in range(256))

_JSON_ESCAPES: Final = {code: f"\\u{code:04x}" for code in _ESCAPES}


def _plain(value: Value) -> str:
    return "-" if value is None else str(value)


def _is_clean(line: str) -> bool:
    """Whether nothing in it has to be escaped: as `isprintable`, which looks every character up in Unicode's tables and
    takes twice as long for ASCII.
    """
    if not line.isascii():
        return line.isprintable()
    raw = line.encode()
    return raw.translate(_SHOWN) == raw


def _escaped(value: str | int) -> str:
    text = str(value)
    return text if text.isprintable() else text.translate(_ESCAPES)


def decode_value(value: bytes) -> str:
    """A header's value: UTF-8, or else each byte a character, as Envoy's JSON has it."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


# --- Operators --------------------------------------------------------------------------------------------------------


def _parts(text: str) -> list[str | Operator]:
    """Literal texts and operators, in order."""
    return [part if isinstance(part, str) else _operator(part) for part in parse_format(text)]


def _operator(command: Command) -> Operator:
    maker = _MAKERS.get(command.name)
    operator = _OPERATORS[command.name] if maker is None else maker(command.argument)
    return operator if command.length is None else _shortened(operator, command.length)


def _shortened(operator: Operator, length: int) -> Operator:
    def shortened(record: RequestRecord) -> Value:
        value = operator(record)
        return value if value is None else str(value)[:length]

    return shortened


# --- Operators with an argument: makers of functions ------------------------------------------------------------------


def _request_header(argument: str) -> Operator:
    fields = [_request_field(name) for name in header_names(argument)]
    return fields[0] if len(fields) == 1 else _first_of(*fields)


def _response_header(argument: str) -> Operator:
    fields = [_response_field(name) for name in header_names(argument)]
    return fields[0] if len(fields) == 1 else _first_of(*fields)


def _first_of(one: Operator, other: Operator) -> Operator:
    def first(record: RequestRecord) -> Value:
        value = one(record)
        return other(record) if value is None else value

    return first


def _request_field(name: str) -> Operator:
    if name in {":authority", "host"}:
        return lambda record: decode_value(record.headers.authority) or None if record.headers else None
    if name == ":path":
        return lambda record: decode_value(record.headers.path) or None if record.headers else None
    if name == ":method":
        return lambda record: record.method or None
    key = b"x-forwarded-proto" if name == ":scheme" else name.encode()

    def field(record: RequestRecord) -> Value:
        if record.headers is None or (value := record.headers.get(key)) is None:
            return None
        return value.decode() if value.isascii() else decode_value(value)

    return field


def _response_field(name: str) -> Operator:
    if name == ":status":
        return lambda record: str(record.status) if record.status else None
    key = name.encode()

    def field(record: RequestRecord) -> Value:
        if record.response_headers is None or (value := record.response_headers.get(key)) is None:
            return None
        return value.decode() if value.isascii() else decode_value(value)

    return field


@lru_cache(maxsize=64)
def _stamp(pattern: str, second: int) -> str:
    return strftime(pattern, gmtime(second))


@lru_cache(maxsize=64)
def _iso_stamp(milliseconds: int) -> str:
    return f"{_stamp('%Y-%m-%dT%H:%M:%S', milliseconds // 1000)}.{milliseconds % 1000:03}Z"


def _iso_time(record: RequestRecord) -> Value:
    return _iso_stamp(int(record.wall * 1000))


def _start_time(argument: str) -> Operator:
    """`%START_TIME%` in ISO 8601, or by strftime in UTC, with `%s` for Unix time and `%3f` for digits of the second."""
    if not argument:
        return _iso_time
    pieces = [_time_piece(piece) for piece in re.findall(r"%[1-9]?f|%s|(?:%[^1-9fs]|[^%])+|%", argument)]

    def time(record: RequestRecord) -> Value:
        second, microsecond = divmod(int(record.wall * 1_000_000), 1_000_000)
        return "".join([piece(second, microsecond) for piece in pieces])

    return time


def _time_piece(piece: str) -> Callable[[int, int], str]:
    """What becomes of (second, microsecond): digits of the fraction, the second itself, or the rest by strftime."""
    if piece == "%s":  # strftime's own would take UTC for local time
        return lambda second, _: str(second)
    if piece.startswith("%") and piece.endswith("f") and piece[1:-1] in "123456789":
        digits = int(piece[1:-1] or 9)
        return lambda _, microsecond: f"{microsecond:06}000"[:digits]
    return lambda second, _: _stamp(piece, second)


_MAKERS: Final[dict[str, Callable[[str], Operator]]] = {
    "REQ": _request_header,
    "RESP": _response_header,
    "START_TIME": _start_time,
}

# --- Operators that stand alone ---------------------------------------------------------------------------------------

_TCP: Final = "TCP"
_CONNECTION_FAILURE: Final = Flag.UPSTREAM_CONNECTION_FAILURE  # (an attribute of an enumeration costs 40 ns)
_NO_CLUSTER: Final = Flag.NO_CLUSTER
_NO_FLAG: Final = Flag.NONE


def _milliseconds(start: float, end: float) -> int | None:
    return int((end - start) * 1000) if start and end else None


def _host(address: str) -> str | None:
    return address.rpartition(":")[0].strip("[]") or None


def _port(address: str) -> int | None:
    port = address.rpartition(":")[2]
    return int(port) if port.isdecimal() else None


def _underscored(words: str) -> str | None:
    """Envoy writes no spaces into these, so that a text line can be split at spaces."""
    return words.replace(" ", "_") or None


def _transport_failure(record: RequestRecord) -> Value:
    return _underscored(record.notes.get("reason", "")) if record.flag is _CONNECTION_FAILURE else None


def _local_address(record: RequestRecord) -> str:
    """Where the client meant to go, as Envoy has it once the original destination is restored."""
    return record.facts.original or record.facts.local


def _remote_address(record: RequestRecord) -> str:
    """The client, as Envoy has it: whom the proxy before us names in x-forwarded-for, without a port; or who connected.

    At the edge the last one named there is whoever connected.
    """
    named = None if record.headers is None else record.headers.get(b"x-forwarded-for")
    if named is None:
        return record.facts.remote
    if len(named) > _MAX_NAMED:
        named = named.rpartition(b",")[2].strip()
    return _named_address(record.facts.remote, named) if len(named) <= _MAX_NAMED else record.facts.remote


# Some addresses; an IPv6 address with a zone has fewer characters than 64.
_MAX_NAMED: Final = 128


@lru_cache(maxsize=1024)
def _named_address(direct: str, named: bytes) -> str:
    """The client of a request that came from `direct`, on behalf of the last one that is `named`.

    Remembered: a connection says the same again and again, and finding out takes longer than anything else in a line.
    """
    last = named.rpartition(b",")[2].strip().decode("latin-1")
    if last == (_host(direct) or "") or not _is_address(last):
        return direct
    return f"[{last}]:0" if ":" in last else f"{last}:0"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _cluster(record: RequestRecord) -> Value:
    """None for one that there is not, as in Envoy; the route's name and the details say which was meant."""
    return None if record.flag is _NO_CLUSTER else record.cluster or None


_OPERATORS: Final[dict[str, Operator]] = {
    "BYTES_RECEIVED": lambda record: record.bytes_received,
    "BYTES_SENT": lambda record: record.bytes_sent,
    "CONNECTION_TERMINATION_DETAILS": lambda record: _underscored(record.details) if record.protocol == _TCP else None,
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS": lambda record: record.facts.remote or None,
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": lambda record: _host(record.facts.remote),
    "DOWNSTREAM_LOCAL_ADDRESS": lambda record: record.facts.original or record.facts.local or None,
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": lambda record: _host(_local_address(record)),
    "DOWNSTREAM_LOCAL_PORT": lambda record: _port(_local_address(record)),
    "DOWNSTREAM_LOCAL_URI_SAN": lambda record: record.facts.own or None,
    "DOWNSTREAM_PEER_FINGERPRINT_256": lambda record: record.facts.peer_certificate_hash or None,
    "DOWNSTREAM_PEER_SUBJECT": lambda record: record.facts.peer_subject or None,
    "DOWNSTREAM_PEER_URI_SAN": lambda record: record.facts.peer or None,
    "DOWNSTREAM_REMOTE_ADDRESS": lambda record: _remote_address(record) or None,
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": lambda record: _host(_remote_address(record)),
    "DOWNSTREAM_REMOTE_PORT": lambda record: _port(_remote_address(record)),
    "DURATION": lambda record: _milliseconds(record.t_start, record.t_end),
    "PROTOCOL": lambda record: None if record.protocol == _TCP else record.protocol,
    "REQUESTED_SERVER_NAME": lambda record: record.facts.sni or None,
    "RESPONSE_CODE": lambda record: record.status,
    "RESPONSE_CODE_DETAILS": lambda record: None if record.protocol == _TCP else _underscored(record.details),
    "RESPONSE_DURATION": lambda record: (
        None if record.response_headers is None else _milliseconds(record.t_start, record.t_first_byte)
    ),
    # `value` is two calls of Python code.
    "RESPONSE_FLAGS": lambda record: record.flag._value_ if record.gave_up is _NO_FLAG else record.flags,
    "RESPONSE_TX_DURATION": lambda record: (
        None if record.response_headers is None else _milliseconds(record.t_first_byte, record.t_end)
    ),
    "ROUTE_NAME": lambda record: record.route or None,
    "UPSTREAM_CLUSTER": _cluster,
    "UPSTREAM_CLUSTER_RAW": _cluster,
    "UPSTREAM_HOST": lambda record: record.endpoint or None,
    "UPSTREAM_LOCAL_ADDRESS": lambda record: record.upstream_local or None,
    "UPSTREAM_PEER_URI_SAN": lambda record: record.upstream_peer or None,
    "UPSTREAM_REMOTE_ADDRESS": lambda record: record.endpoint or None,
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": lambda record: _host(record.endpoint),
    "UPSTREAM_REMOTE_PORT": lambda record: _port(record.endpoint),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": lambda record: record.attempts,
    "UPSTREAM_TRANSPORT_FAILURE_REASON": _transport_failure,
}
