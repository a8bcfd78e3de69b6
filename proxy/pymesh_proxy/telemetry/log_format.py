"""Envoy's access log formats, compiled: text and JSON lines from a request's record. Pure.

A format is a text with operators (`%REQ(USER-AGENT):40%`), or keys with such texts. It is taken apart once, and what it
asks of a record becomes one function (`log_operators.py`). What is not known is `-` in text and null in JSON. In JSON a
value that is one operator keeps its type, and keys are sorted; both as Envoy 1.40 does.

Lines are Envoy's, byte for byte (tests/conformance/test_access_logs.py), but for these: whatever a peer sent, a line
stays one line of valid UTF-8, so that in text control readable are written `\\x0a`; where Envoy logs the first of
several fields of a name, this logs them all, joined by `, `; the bytes of a chunked body count its framing; and why a
connection was refused is told in the words of Python's sockets.

Source: Envoy, "Command operators" (observability/access_log/usage); Istio, pilot/pkg/model/telemetry_logging.go.
"""

import json
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from pymesh.access_log_formats import Command, parse_format
from pymesh.errors import ConfigError
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.telemetry.log_operators import NO_HEAD, Value, readable, values_of
from pymesh_proxy.telemetry.record import RequestRecord

# A line of a record and the two heads, which the record itself gives up early; None where there is none. UTF-8.
Render: TypeAlias = Callable[[RequestRecord, Head | None, Head | None], bytes]
_Parts: TypeAlias = list[str | Command]

# What would end a line, or move a terminal's cursor: C0, DEL, C1, and Unicode's two line separators.
_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    code: f"\\u{code:04x}" for code in (0x2028, 0x2029)
}
_JSON_ESCAPES: Final = {code: f"\\u{code:04x}" for code in _ESCAPES}
# ASCII that is shown as it is, mapped to itself, and the rest to something else.
_SHOWN: Final = bytes(code if 0x20 <= code < 0x7F else code ^ 1 for code in range(256))


def compile_format(format: str | Mapping[str, str]) -> Render:  # noqa: A002 - the word that everybody uses for it
    """The function that makes a line of a record. A text ends as it says; a JSON object ends its line.

    Raises:
        ConfigError: an operator that is not known, or not written as it must be; the text has the place.
    """
    if isinstance(format, str):
        return _text_line(parse_format(format))
    return _json_line({key: _parts_at(key, format[key]) for key in sorted(format)})


def _text_line(parts: _Parts) -> Render:
    """The function for a text with operators.

    A line is put together at once and looked at as a whole: nearly none has anything in it that must be escaped.
    """
    values = values_of([part for part in parts if isinstance(part, Command)], "-")
    pattern = "".join([part.replace("%", "%%") if isinstance(part, str) else "%s" for part in parts])
    pattern, end = (pattern[:-1], b"\n") if pattern.endswith("\n") else (pattern, b"")

    def render(record: RequestRecord, request: Head | None, response: Head | None) -> bytes:
        found = values(record, request or NO_HEAD, response or NO_HEAD)
        line = pattern % found
        if line.isascii() and (clean := line.encode()).translate(_SHOWN) == clean:
            return clean + end
        line = pattern % tuple([_escaped(value) for value in found])
        return line.encode("utf-8", "backslashreplace") + end

    return render


def _json_line(members: Mapping[str, _Parts]) -> Render:
    """The function for an object. A value of one operator is what that gives; any other is text."""
    values = values_of([part for parts in members.values() for part in parts if isinstance(part, Command)], None)
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

    def render(record: RequestRecord, request: Head | None, response: Head | None) -> bytes:
        found = iter(values(record, request or NO_HEAD, response or NO_HEAD))
        made: dict[str, Value] = {}
        for key, parts in members.items():
            if len(parts) == 1 and isinstance(parts[0], Command):
                made[key] = readable(next(found))
            else:
                made[key] = "".join([part if isinstance(part, str) else _plain(next(found)) for part in parts])
        line = encode(made)
        line = line if line.isprintable() else line.translate(_JSON_ESCAPES)
        return line.encode("utf-8", "backslashreplace") + b"\n"

    return render


def _parts_at(key: str, text: str) -> _Parts:
    try:
        return parse_format(text)
    except ConfigError as error:
        raise error.at(key) from None


def _plain(value: Value) -> str:
    return "-" if value is None else str(readable(value))


def _escaped(value: Value) -> str:
    text = str(readable(value))
    return text if text.isprintable() else text.translate(_ESCAPES)
