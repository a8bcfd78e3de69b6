"""How long a client's connection is kept: between two requests, for a head that is on its way, and in all. Pure."""

from typing import Final

from pymesh_proxy.config.model import HttpManager
from pymesh_proxy.errors import Flag
from pymesh_proxy.serving import Serving
from pymesh_proxy.timers import NEVER

# Seconds that a connection without a request is still open once it is to end, as when the proxy shuts down: its client
# may just be sending one, and a POST that meets a closed connection cannot be repeated. An answer tells it `close`.
DRAIN_IDLE: Final = 1.0


def bounded(manager: HttpManager) -> bool:
    """Whether its connections serve only so many requests, or only for so long."""
    return manager.max_requests_per_connection is not None or manager.max_connection_duration is not None


def worn_out(manager: HttpManager, requests: int, born: float, now: float) -> bool:
    """Whether a connection with so many requests, made at `born`, has served its last."""
    most, life = manager.max_requests_per_connection, manager.max_connection_duration
    return (most is not None and requests >= most) or (life is not None and now >= born + life)


def idle_until(manager: HttpManager, serving: Serving, born: float, idle_since: float) -> float:
    """When a connection without a request is closed; one past its life still waits for a request on its way."""
    until = NEVER if manager.idle_timeout is None else idle_since + manager.idle_timeout
    if serving.last:
        until = min(until, max(idle_since, serving.over_since) + DRAIN_IDLE)
    if manager.max_connection_duration is not None:
        over = max(born + manager.max_connection_duration, idle_since)
        until = min(until, over + manager.drain_timeout)
    return until


def head_limit(manager: HttpManager) -> tuple[float, Flag, str]:
    """Seconds that a head may take, and what is said of one that took longer."""
    head, whole = manager.request_headers_timeout, manager.request_timeout
    if whole is not None and (head is None or whole <= head):
        return whole, Flag.DURATION_TIMEOUT, "request_overall_timeout"
    limit = head if head is not None else manager.idle_timeout
    return NEVER if limit is None else limit, Flag.STREAM_IDLE_TIMEOUT, "request_header_timeout"
