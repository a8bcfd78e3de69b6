"""Why the proxy answered by itself, or cut a connection: one table from reason to response flag and status.

Flags are Envoy's (access log `%RESPONSE_FLAGS%`), so that dashboards and people can read them.
"""

import enum


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


class ProxyError(Exception):
    """A failure of one request or connection that becomes an answer, or a reset, in one place (`exchange`).

    Attributes:
        status: the HTTP status that the client gets, if it can still get one.
        flag: Envoy's response flag.
        details: Envoy's response code details, snake_case.
        retryable: nothing of the request has been processed, so another attempt can do no harm.
    """

    def __init__(self, status: int, flag: Flag, details: str, *, retryable: bool = False) -> None:
        self.status = status
        self.flag = flag
        self.details = details
        self.retryable = retryable
        super().__init__(f"{status} {flag.value} {details}")


STATUS_OF_FLAG = {
    Flag.NO_HEALTHY_UPSTREAM: 503,
    Flag.UPSTREAM_REQUEST_TIMEOUT: 504,
    Flag.UPSTREAM_REMOTE_RESET: 503,
    Flag.UPSTREAM_CONNECTION_FAILURE: 503,
    Flag.UPSTREAM_CONNECTION_TERMINATION: 503,
    Flag.UPSTREAM_OVERFLOW: 503,
    Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED: 503,
    Flag.LOCAL_RESET: 503,
    Flag.NO_ROUTE: 404,
    Flag.NO_CLUSTER: 503,
    Flag.UPSTREAM_PROTOCOL_ERROR: 502,
    Flag.DURATION_TIMEOUT: 504,
    Flag.STREAM_IDLE_TIMEOUT: 408,
    Flag.DOWNSTREAM_PROTOCOL_ERROR: 400,
    Flag.RATE_LIMITED: 429,
    Flag.UNAUTHORIZED_EXTERNAL_SERVICE: 403,
}
