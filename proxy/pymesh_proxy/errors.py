"""Why the proxy answered by itself, or cut a connection: one table from reason to response flag and status.

Flags are Envoy's (access log `%RESPONSE_FLAGS%`), so that dashboards and people can read them.
"""

import enum
from dataclasses import dataclass
from typing import Final


class Flag(enum.Enum):
    """Envoy's response flags; the value is what the access log shows."""

    NONE = "-"
    FAILED_LOCAL_HEALTH_CHECK = "LH"
    NO_HEALTHY_UPSTREAM = "UH"
    UPSTREAM_REQUEST_TIMEOUT = "UT"
    LOCAL_RESET = "LR"
    UPSTREAM_REMOTE_RESET = "UR"
    UPSTREAM_CONNECTION_FAILURE = "UF"
    UPSTREAM_CONNECTION_TERMINATION = "UC"
    UPSTREAM_OVERFLOW = "UO"
    NO_ROUTE = "NR"
    DELAY_INJECTED = "DI"
    FAULT_INJECTED = "FI"
    RATE_LIMITED = "RL"
    UNAUTHORIZED_EXTERNAL_SERVICE = "UAEX"
    RATE_LIMIT_SERVICE_ERROR = "RLSE"
    DOWNSTREAM_CONNECTION_TERMINATION = "DC"
    UPSTREAM_RETRY_LIMIT_EXCEEDED = "URX"
    STREAM_IDLE_TIMEOUT = "SI"
    DOWNSTREAM_PROTOCOL_ERROR = "DPE"
    UPSTREAM_PROTOCOL_ERROR = "UPE"
    UPSTREAM_MAX_STREAM_DURATION = "UMSDR"
    NO_CLUSTER = "NC"
    DURATION_TIMEOUT = "DT"


@dataclass(frozen=True, slots=True)
class Cause:
    """What a flag means to the client.

    Attributes:
        status: HTTP status, where the failure itself has no better one.
        error: error type for Proxy-Status (RFC 9209 section 2.3).
        body: text of the answer; Envoy's words, since people search for them.
    """

    status: int
    error: str
    body: str


CAUSES: Final = {
    Flag.NO_HEALTHY_UPSTREAM: Cause(503, "destination_unavailable", "no healthy upstream"),
    Flag.UPSTREAM_CONNECTION_FAILURE: Cause(
        503,
        "connection_refused",
        "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
    ),
    Flag.UPSTREAM_CONNECTION_TERMINATION: Cause(
        503,
        "connection_terminated",
        "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
    ),
    Flag.UPSTREAM_OVERFLOW: Cause(
        503,
        "connection_limit_reached",
        "upstream connect error or disconnect/reset before headers. reset reason: overflow",
    ),
    Flag.UPSTREAM_REQUEST_TIMEOUT: Cause(504, "http_response_timeout", "upstream request timeout"),
    Flag.DURATION_TIMEOUT: Cause(504, "http_response_timeout", "request timeout"),
    Flag.STREAM_IDLE_TIMEOUT: Cause(408, "connection_read_timeout", "stream timeout"),
    Flag.UPSTREAM_PROTOCOL_ERROR: Cause(
        502,
        "http_protocol_error",
        "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
    ),
    Flag.NO_ROUTE: Cause(404, "destination_not_found", ""),
    Flag.NO_CLUSTER: Cause(503, "proxy_configuration_error", ""),
    Flag.DOWNSTREAM_PROTOCOL_ERROR: Cause(400, "http_request_error", "Bad Request"),
    Flag.RATE_LIMITED: Cause(429, "http_request_denied", "local_rate_limited"),
    Flag.UNAUTHORIZED_EXTERNAL_SERVICE: Cause(403, "http_request_denied", ""),
    Flag.LOCAL_RESET: Cause(500, "proxy_internal_error", "internal error of the proxy"),
    Flag.NONE: Cause(200, "proxy_internal_response", ""),
}


class ProxyError(Exception):
    """A failure of one request that becomes an answer, or a reset, in one place (`exchange`).

    Attributes:
        status: the HTTP status that the client gets, if it can still get one.
        flag: Envoy's response flag.
        details: Envoy's response code details, snake_case.
        reason: what the transport said, for people: "Connection refused"; may be empty.
    """

    def __init__(self, status: int, flag: Flag, details: str, reason: str = "") -> None:
        self.status = status
        self.flag = flag
        self.details = details
        self.reason = reason
        super().__init__(f"{status} {flag.value} {details}")


def failure(flag: Flag, details: str, reason: str = "") -> ProxyError:
    """A ProxyError with the status that belongs to `flag`."""
    return ProxyError(CAUSES[flag].status, flag, details, reason)
