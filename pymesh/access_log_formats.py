"""Access log formats: those that people know, and the grammar of Envoy's command operators. Pure.

A format is a text with operators (`%REQ(USER-AGENT):40%`). What a format may hold is the same for a proxy that compiles
it and for a control plane that is asked to hand it out, so it is said here, once; what an operator's value is, is the
proxy's own.

Source: Envoy, "Access logging" (configuration/observability/access_log/usage); Istio,
pilot/pkg/model/telemetry_logging.go.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from pymesh.errors import ConfigError

ENVOY_TEXT_FORMAT: Final = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "
    '"%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"\n'
)
ISTIO_TEXT_FORMAT: Final = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% '
    '%BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" '
    '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% '
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
ISTIO_JSON_FORMAT: Final[Mapping[str, str]] = {
    "start_time": "%START_TIME%",
    "route_name": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}

# Operators that stand alone, and those that take something in parentheses.
PLAIN: Final = frozenset({
    "BYTES_RECEIVED", "BYTES_SENT", "CONNECTION_TERMINATION_DETAILS", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_LOCAL_PORT", "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_256", "DOWNSTREAM_PEER_SUBJECT", "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_REMOTE_ADDRESS", "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_REMOTE_PORT", "DURATION",
    "PROTOCOL", "REQUESTED_SERVER_NAME", "RESPONSE_CODE", "RESPONSE_CODE_DETAILS", "RESPONSE_DURATION",
    "RESPONSE_FLAGS", "RESPONSE_TX_DURATION", "ROUTE_NAME", "UPSTREAM_CLUSTER", "UPSTREAM_CLUSTER_RAW",
    "UPSTREAM_HOST", "UPSTREAM_LOCAL_ADDRESS", "UPSTREAM_PEER_URI_SAN", "UPSTREAM_REMOTE_ADDRESS",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "UPSTREAM_REMOTE_PORT", "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
})  # fmt: skip
WITH_ARGUMENT: Final = frozenset({"REQ", "RESP", "START_TIME"})

_OPERATOR: Final = re.compile(r"%(?P<name>[A-Z][A-Z0-9_]*)(?:\((?P<argument>.*?)\))?(?::(?P<length>[0-9]{1,9}))?%")
_HEADER_NAME: Final = re.compile(r":?[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PSEUDO_HEADERS: Final = {
    "REQ": frozenset({":authority", ":path", ":method", ":scheme"}),
    "RESP": frozenset({":status"}),
}


class Command(NamedTuple):
    """An operator in a format: `%NAME(argument):length%`; the argument is empty, the length None where not given."""

    name: str
    argument: str = ""
    length: int | None = None


def parse_format(text: str) -> list[str | Command]:
    """Literal texts and operators, in order.

    Raises:
        ConfigError: an operator that is not known, or not written as it must be; the text has the place.
    """
    parts: list[str | Command] = []
    literal = ""
    position = 0
    while position < len(text):
        if text[position] != "%":
            end = text.find("%", position)
            end = len(text) if end < 0 else end
            literal += text[position:end]
        elif text.startswith("%%", position):
            literal += "%"
            end = position + 2
        else:
            match = _OPERATOR.match(text, position)
            if match is None:
                raise ConfigError(f"{_at(position)}: no operator begins with this %; write %% for a percent sign")
            if literal:
                parts.append(literal)
                literal = ""
            parts.append(_command(match, _at(position)))
            end = match.end()
        position = end
    if literal:
        parts.append(literal)
    return parts


def header_names(argument: str) -> list[str]:
    """The names, in lower case, in what REQ and RESP take in parentheses: one, or two with a `?` between them."""
    return argument.lower().split("?")


def _at(position: int) -> str:
    return f"access log format, character {position + 1}"


def _command(match: re.Match[str], where: str) -> Command:
    name, argument, length = match["name"], match["argument"], match["length"]
    if name in PLAIN:
        if argument is not None:
            raise ConfigError(f"{where}: %{name}% takes nothing in parentheses")
    elif name not in WITH_ARGUMENT:
        raise ConfigError(f"{where}: unknown operator %{name}%; known are {', '.join(sorted(PLAIN | WITH_ARGUMENT))}")
    elif name == "START_TIME":
        if not (argument or "").isprintable():
            raise ConfigError(f"{where}: %{name}%: control characters have no place in a time")
    else:
        _check_headers(name, argument or "", f"{where}: %{name}%")
    return Command(name, argument or "", None if length is None else int(length))


def _check_headers(name: str, argument: str, where: str) -> None:
    names = header_names(argument)
    if len(names) > 2 or not all(_HEADER_NAME.fullmatch(one) for one in names):
        raise ConfigError(f"{where} takes a header name, or two with a ? between them, in parentheses")
    for one in names:
        if one.startswith(":") and one not in _PSEUDO_HEADERS[name]:
            raise ConfigError(f"{where}: there is no pseudo-header {one}")
