"""Active health checks, as far as they are decisions: thresholds, and when to check again. Pure.

Source: envoy.config.core.v3.HealthCheck, and Envoy's documentation "Health checking".
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from pymesh_proxy.upstream.endpoint import Endpoint, Health


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """A request, and the answers that count as good. An empty `host` is the cluster's name.

    `expected` and `retriable` are ranges of statuses, ends excluded. A status that is neither expected nor retriable
    makes an endpoint unhealthy at once, without regard to the threshold.
    """

    path: str
    host: str = ""
    method: str = "GET"
    expected: tuple[tuple[int, int], ...] = ((200, 201),)
    retriable: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """What to send, and what has to come back, in this order, perhaps with more between. Both empty: a connection."""

    send: bytes = b""
    receive: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """When and how the endpoints of a cluster are checked. Times are seconds.

    Attributes:
        unhealthy_threshold, healthy_threshold: checks in a row after which an endpoint changes sides.
        unhealthy_interval: between checks of an endpoint that is unhealthy; `..._edge_interval` while a threshold is
            not reached yet; `no_traffic_...` while the cluster has never been used.
        initial_jitter, jitter: at most, before the first check and between checks; `jitter_percent` of the interval.
        reuse: one connection serves many checks.
    """

    what: HttpCheck | TcpCheck
    timeout: float
    interval: float
    unhealthy_threshold: int
    healthy_threshold: int
    unhealthy_interval: float
    unhealthy_edge_interval: float
    healthy_edge_interval: float
    no_traffic_interval: float = 60.0
    no_traffic_healthy_interval: float = 60.0
    initial_jitter: float = 0.0
    jitter: float = 0.0
    jitter_percent: int = 0
    reuse: bool = True


class Result(enum.Enum):
    """What became of one check."""

    GOOD = "good"
    DEGRADED = "degraded"  # good, and the endpoint says of itself that it is degraded (x-envoy-degraded)
    BAD = "bad"  # an answer that says that it is not healthy
    RETRIABLE = "retriable"  # an answer that may be better the next time
    NETWORK = "network"  # no connection, or it broke
    TIMEOUT = "timeout"


class HealthStats:
    """Counters of one cluster, by Envoy's names."""

    __slots__ = ("attempt", "failure", "network_failure", "success")

    def __init__(self) -> None:
        self.attempt = self.success = self.failure = self.network_failure = 0


class Progress:
    """How far an endpoint is on the way to the other side."""

    __slots__ = ("_bad", "_first", "_good", "good")

    def __init__(self) -> None:
        self._first = True
        self._good = self._bad = 0
        self.good = False  # the last check was

    def take(self, result: Result, endpoint: Endpoint, check: HealthCheck) -> bool:
        """Mark `endpoint` by the result of a check; whether a threshold is still to be reached.

        The very first check decides alone, so that a start is not slow.
        """
        first, self._first = self._first, False
        self.good = result in {Result.GOOD, Result.DEGRADED}
        failed = bool(endpoint.flags & Health.FAILED_ACTIVE_HC)
        if self.good:
            self._bad = 0
            endpoint.mark(Health.DEGRADED_ACTIVE_HC, on=result is Result.DEGRADED)
            if not failed:
                return False
            self._good += 1
            if not first and self._good < check.healthy_threshold:
                return True
            endpoint.mark(Health.FAILED_ACTIVE_HC | Health.ACTIVE_HC_TIMEOUT, on=False)
            return False
        self._good = 0
        pending = False
        if not failed:
            self._bad += 1
            pending = result is not Result.BAD and self._bad < check.unhealthy_threshold
            if not pending:
                endpoint.mark(Health.FAILED_ACTIVE_HC, on=True)
        if endpoint.flags & Health.FAILED_ACTIVE_HC:
            endpoint.mark(Health.ACTIVE_HC_TIMEOUT, on=result is Result.TIMEOUT)
        return pending


def pause(check: HealthCheck, *, good: bool, pending: bool, traffic: bool, random: Callable[[], float]) -> float:
    """Seconds until the next check. `traffic`: the cluster has been used since the start."""
    if not traffic:
        base = check.no_traffic_healthy_interval if good else check.no_traffic_interval
    elif good:
        base = check.healthy_edge_interval if pending else check.interval
    else:
        base = check.unhealthy_edge_interval if pending else check.unhealthy_interval
    return base + base * check.jitter_percent / 100 * random() + check.jitter * random()


def judge(check: HttpCheck, status: int, *, degraded: bool) -> Result:
    """What the answer to an HTTP check means."""
    if _within(status, check.expected):
        return Result.DEGRADED if degraded else Result.GOOD
    return Result.RETRIABLE if _within(status, check.retriable) else Result.BAD


def found(wanted: tuple[bytes, ...], data: bytes) -> bool:
    """Whether all of `wanted` is in `data`, one behind the other."""
    at = 0
    for part in wanted:
        at = data.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


def _within(status: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= status < end for first, end in ranges)
