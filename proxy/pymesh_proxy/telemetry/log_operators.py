"""What Envoy's command operators stand for in a record: expressions of Python, to be compiled into one function. Pure.

A line has two dozen operators, and to call a function for each costs three times what they do. So an operator is an
expression here, and a format is compiled as a whole (`values_of`), as the standard library makes dataclasses. Of what
somebody configures only names of headers come into a source, by their `repr`.

The names in an expression:

- `record`; `request` and `response`, the heads, which are `NO_HEAD` where there was none;
- `absent`, which an unknown value is in this kind of line;
- what NAMES has.

A header is UTF-8, and its other bytes are surrogates (`errors="surrogateescape"`): `readable` gives them their form.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from time import gmtime, strftime
from types import CodeType
from typing import Final, TypeAlias, cast

from pymesh.access_log_formats import Command, header_names
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag
from pymesh_proxy.telemetry.record import RequestRecord

Value: TypeAlias = str | int | None
# The values of (record, its request's head, its response's), in the order of the operators.
Values: TypeAlias = Callable[[RequestRecord, Head, Head], tuple[Value, ...]]

# Stands for a head that never came: it has no fields.
NO_HEAD: Final = Head()
# Some addresses in x-forwarded-for; an IPv6 address with a zone has fewer characters than 64.
_MAX_NAMED: Final = 128


def values_of(commands: Sequence[Command], absent: str | None) -> Values:
    """The function that gives all `commands` of a record; what is not known is `absent`."""
    names = {**NAMES, "absent": absent}
    sources = [_expression(command, names) for command in commands]
    code: CodeType = compile(
        f"lambda record, request, response: ({''.join(source + ', ' for source in sources)})", "<log format>", "eval"
    )
    return cast("Values", eval(code, names))  # noqa: S307 - sources are those below: see the module


def decode_value(value: bytes) -> str:
    """A header's value: UTF-8, or else each byte a character, as Envoy's JSON has it."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def readable(value: Value) -> Value:
    """A value as an expression gives it, with the bytes that were no UTF-8 as in `decode_value`."""
    if not isinstance(value, str) or value.isascii():
        return value
    try:
        return decode_value(value.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # half of a surrogate pair, from somebody's configuration
        return value


# --- From a command to its expression ---------------------------------------------------------------------------------


def _expression(command: Command, names: dict[str, object]) -> str:
    """The source of one operator. What it needs besides NAMES is put into `names`."""
    if command.name == "START_TIME":
        source = _start_time(command.argument, names)
    elif command.name in ("REQ", "RESP"):
        field = _request_field if command.name == "REQ" else _response_field
        source = "absent"
        for name in reversed(header_names(command.argument)):
            source = f"({field(name, source)})"
    else:
        source = f"({OPERATORS[command.name]})"
    if command.length is None:
        return source
    return f"(found if (found := {source}) is absent else str(readable(found))[:{command.length}])"


# Sources of a header's value, or of what stands `otherwise`.


def _header(head: str, name: str, otherwise: str) -> str:
    decoded = 'value.decode("utf-8", "surrogateescape")'
    return f"{otherwise} if (value := {head}.get({name.encode()!r})) is None else {decoded}"


def _request_field(name: str, otherwise: str) -> str:
    match name:
        case ":authority" | "host":
            return f'request.authority.decode("utf-8", "surrogateescape") or {otherwise}'
        case ":path":
            return f'request.path.decode("utf-8", "surrogateescape") or {otherwise}'
        case ":method":
            return f'record.said[0].decode("latin-1") or {otherwise}'
        case ":scheme":
            return _header("request", "x-forwarded-proto", otherwise)
    return _header("request", name, otherwise)


def _response_field(name: str, otherwise: str) -> str:
    if name == ":status":
        return f"str(record.status) if record.status else {otherwise}"
    return _header("response", name, otherwise)


# --- Times ------------------------------------------------------------------------------------------------------------


def _start_time(argument: str, names: dict[str, object]) -> str:
    """`%START_TIME%` in ISO 8601, or by strftime in UTC, with `%s` for Unix time and `%3f` for digits of the second."""
    if not argument:
        return "iso_time(int(record.wall * 1000))"
    pieces = [_time_piece(piece) for piece in re.findall(r"%[1-9]?f|%s|(?:%[^1-9fs]|[^%])+|%", argument)]

    def time(microseconds: int) -> str:
        second, microsecond = divmod(microseconds, 1_000_000)
        return "".join([piece(second, microsecond) for piece in pieces])

    name = f"time_{len(names)}"
    names[name] = time
    return f"{name}(int(record.wall * 1000000))"


def _time_piece(piece: str) -> Callable[[int, int], str]:
    """What becomes of (second, microsecond): digits of the fraction, the second itself, or the rest by strftime."""
    if piece == "%s":  # strftime's own would take UTC for local time
        return lambda second, _: str(second)
    if piece.startswith("%") and piece.endswith("f") and piece[1:-1] in "123456789":
        digits = int(piece[1:-1] or 9)
        return lambda _, microsecond: f"{microsecond:06}000"[:digits]
    return lambda second, _: _stamp(piece, second)


@lru_cache(maxsize=64)
def _stamp(pattern: str, second: int) -> str:
    return strftime(pattern, gmtime(second))


@lru_cache(maxsize=64)
def _iso_time(milliseconds: int) -> str:
    return f"{_stamp('%Y-%m-%dT%H:%M:%S', milliseconds // 1000)}.{milliseconds % 1000:03}Z"


# --- Addresses --------------------------------------------------------------------------------------------------------


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _port(address: str) -> int | None:
    port = address.rpartition(":")[2]
    return int(port) if port.isdecimal() else None


def _client(direct: str, named: bytes | None) -> str:
    """The client, as Envoy has it: whom the proxy before us names in x-forwarded-for, without a port; or who connected.

    At the edge the last one named there is whoever connected.
    """
    if named is None:
        return direct
    if len(named) > _MAX_NAMED:
        named = named.rpartition(b",")[2].strip()
    return _named_client(direct, named) if len(named) <= _MAX_NAMED else direct


@lru_cache(maxsize=1024)
def _named_client(direct: str, named: bytes) -> str:
    """The client of a request that came from `direct`, on behalf of the last one that is `named`.

    Remembered: a connection says the same again and again, and finding out takes longer than anything else in a line.
    """
    last = named.rpartition(b",")[2].strip().decode("latin-1")
    if last == _host(direct) or not _is_address(last):
        return direct
    return f"[{last}]:0" if ":" in last else f"{last}:0"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


# --- Operators that stand alone ---------------------------------------------------------------------------------------

NAMES: Final[Mapping[str, object]] = {
    "CONNECTION_FAILURE": Flag.UPSTREAM_CONNECTION_FAILURE,
    "NO_CLUSTER": Flag.NO_CLUSTER,
    "NO_FLAG": Flag.NONE,
    "NO_HEAD": NO_HEAD,
    "client": _client,
    "host": _host,
    "iso_time": _iso_time,
    "port": _port,
    "readable": readable,
}


def _milliseconds(start: str, end: str) -> str:
    return f"int((end - start) * 1000) if (start := record.{start}) and (end := record.{end}) else absent"


def _port_of(address: str) -> str:
    return f"absent if (number := port({address})) is None else number"


# Envoy writes no spaces into these, so that a text line can be split at spaces.
_DETAILS: Final = "record.details.replace(' ', '_') or absent"
# Where the client meant to go, as Envoy has it once the original destination is restored.
_LOCAL: Final = "record.facts.original or record.facts.local"
_CLIENT: Final = "client(record.facts.remote, request.get(b'x-forwarded-for'))"
_ENDPOINT: Final = "'' if record.picked is None else record.picked.address"
# Not for one that there is not, as in Envoy; the route's name and the details say which was meant.
_CLUSTER: Final = "absent if record.flag is NO_CLUSTER else record.cluster or absent"

OPERATORS: Final[Mapping[str, str]] = {
    "BYTES_RECEIVED": "record.bytes_received",
    "BYTES_SENT": "record.bytes_sent",
    "CONNECTION_TERMINATION_DETAILS": f"{_DETAILS} if record.protocol == 'TCP' else absent",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS": "record.facts.remote or absent",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": "host(record.facts.remote) or absent",
    "DOWNSTREAM_LOCAL_ADDRESS": f"{_LOCAL} or absent",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": f"host({_LOCAL}) or absent",
    "DOWNSTREAM_LOCAL_PORT": _port_of(_LOCAL),
    "DOWNSTREAM_LOCAL_URI_SAN": "record.facts.own or absent",
    "DOWNSTREAM_PEER_FINGERPRINT_256": "record.facts.peer_certificate_hash or absent",
    "DOWNSTREAM_PEER_SUBJECT": "record.facts.peer_subject or absent",
    "DOWNSTREAM_PEER_URI_SAN": "record.facts.peer or absent",
    "DOWNSTREAM_REMOTE_ADDRESS": f"{_CLIENT} or absent",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": f"host({_CLIENT}) or absent",
    "DOWNSTREAM_REMOTE_PORT": _port_of(_CLIENT),
    "DURATION": _milliseconds("t_start", "t_end"),
    "PROTOCOL": "absent if (protocol := record.protocol) == 'TCP' else protocol",
    "REQUESTED_SERVER_NAME": "record.facts.sni or absent",
    "RESPONSE_CODE": "record.status",
    "RESPONSE_CODE_DETAILS": f"absent if record.protocol == 'TCP' else {_DETAILS}",
    "RESPONSE_DURATION": f"absent if response is NO_HEAD else {_milliseconds('t_start', 't_first_byte')}",
    # `value` is two calls of Python code.
    "RESPONSE_FLAGS": "record.flag._value_ if record.gave_up is NO_FLAG else record.flags",
    "RESPONSE_TX_DURATION": f"absent if response is NO_HEAD else {_milliseconds('t_first_byte', 't_end')}",
    "ROUTE_NAME": "('' if record.matched is None else record.matched.name) or absent",
    "UPSTREAM_CLUSTER": _CLUSTER,
    "UPSTREAM_CLUSTER_RAW": _CLUSTER,
    "UPSTREAM_HOST": f"({_ENDPOINT}) or absent",
    "UPSTREAM_LOCAL_ADDRESS": "record.upstream_local or absent",
    "UPSTREAM_PEER_URI_SAN": "record.upstream_peer or absent",
    "UPSTREAM_REMOTE_ADDRESS": f"({_ENDPOINT}) or absent",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": f"host({_ENDPOINT}) or absent",
    "UPSTREAM_REMOTE_PORT": _port_of(_ENDPOINT),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": "record.attempts",
    "UPSTREAM_TRANSPORT_FAILURE_REASON": (
        "record.notes.get('reason', '').replace(' ', '_') or absent if record.flag is CONNECTION_FAILURE else absent"
    ),
}
