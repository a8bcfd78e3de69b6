"""Whether a failed attempt is made again, and after which pause. Pure.

The rule, in this order:

1. No retry policy, no time left, or a request that cannot be replayed: no retry.
2. Not one byte of the request was written, or the peer said that it did not process it: retry. Nothing was done.
3. The connection broke after something was written, and the method is idempotent (RFC 9110 section 9.2.2): retry.
4. Anything else only if `retry_on` names what happened; naming it is the operator's word that repeating is harmless.

And all that as long as there are attempts left; where there is none, the answer is told as `URX`.

Envoy differs in 2 and 3: it does nothing that `retry_on` does not name. See docs/support.md.
"""

import enum
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.routing import RetryPolicy

# More attempts than this is a mistake that multiplies every outage; Istio's default is 2.
MAX_RETRIES: Final = 100
# RFC 9110 section 9.2.2: safe methods, PUT and DELETE.
IDEMPOTENT_METHODS: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


class Failure(enum.Enum):
    """How an attempt ended."""

    CONNECT = "connect"  # no connection: refused, unreachable, timed out, or the TLS handshake failed
    REFUSED = "refused"  # the peer said that it did not process the request (REFUSED_STREAM, GOAWAY)
    RESET = "reset"  # the connection broke before the response head was complete
    TIMEOUT = "timeout"  # the attempt's own time (per_try_timeout) was over before the response head
    STATUS = "status"  # a response head arrived; its status may be worth another attempt


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt.

    Attributes:
        failure: how it ended.
        written: whether a byte of the request may have reached the peer.
        status: HTTP status, where `failure` is STATUS.
        grpc_status: value of a `grpc-status` response header (a trailers-only answer); None without one.
        rate_limited: the response says that a rate limit was reached (`x-envoy-ratelimited`).
        header: one of the policy's `retriable_headers` is in the response.
    """

    failure: Failure
    written: bool = False
    status: int = 0
    grpc_status: int | None = None
    rate_limited: bool = False
    header: bool = False


# What a sidecar says in Proxy-Status when its app could not be reached, or broke off (errors.CAUSES).
_PEER_FAILURES: Final = {
    b"pymesh; error=connection_refused;": Outcome(Failure.REFUSED, written=True, status=503),
    b"pymesh; error=destination_unavailable;": Outcome(Failure.REFUSED, written=True, status=503),
    b"pymesh; error=connection_limit_reached;": Outcome(Failure.REFUSED, written=True, status=503),
    b"pymesh; error=connection_terminated;": Outcome(Failure.RESET, written=True, status=503),
}
# And when it no longer takes the connection that the request came on: nobody has processed it, and on another one it
# may be sent again (RFC 9110 15.5.20).
_MISDIRECTED: Final = b"pymesh; error=destination_not_found;"


def outcome_of_response(head: Head, policy: RetryPolicy, *, from_mesh: bool) -> Outcome:
    """What a response head means for retries by `policy`.

    A 503 or 421 that a sidecar on the other side gave by itself is told apart from one of the app: it says in
    Proxy-Status (RFC 9209) whether the app ever saw the request. Believed only of a peer that has proved to be of this
    mesh.
    """
    proxy_status = (from_mesh and head.get(b"proxy-status")) or b""
    if head.status == 503:
        for beginning, outcome in _PEER_FAILURES.items():
            if proxy_status.startswith(beginning):
                return outcome
    if head.status == 421 and proxy_status.startswith(_MISDIRECTED):
        return Outcome(Failure.REFUSED, written=True, status=421)
    grpc_status = head.get(b"grpc-status")
    return Outcome(
        Failure.STATUS,
        written=True,
        status=head.status,
        grpc_status=int(grpc_status) if grpc_status is not None and _GRPC_STATUS.fullmatch(grpc_status) else None,
        rate_limited=head.has(b"x-envoy-ratelimited"),
        header=any(matches(head) for matches in policy.response_headers),
    )


_GRPC_STATUS: Final = re.compile(rb"[0-9]{1,2}")

# Words of x-envoy-retry-grpc-on.
GRPC_CONDITIONS: Final = frozenset({"cancelled", "deadline-exceeded", "resource-exhausted", "internal", "unavailable"})
# Words that a response below 400 can fulfil, and the field that it must have for that.
_BY_FIELD: Final = dict.fromkeys(GRPC_CONDITIONS, b"grpc-status") | {"envoy-ratelimited": b"x-envoy-ratelimited"}

# Name in `retry_on` -> does it cover this outcome? Source: Envoy's router filter documentation, x-envoy-retry-on and
# x-envoy-retry-grpc-on. A per-try timeout counts as a reset by the upstream there, and a connect failure does too.
_BROKEN: Final = frozenset({Failure.CONNECT, Failure.REFUSED, Failure.RESET, Failure.TIMEOUT})
CONDITIONS: Final[dict[str, Callable[[Outcome, RetryPolicy], bool]]] = {
    "5xx": lambda outcome, _: outcome.failure in _BROKEN or 500 <= outcome.status <= 599,
    "gateway-error": lambda outcome, _: outcome.failure in _BROKEN or 502 <= outcome.status <= 504,
    "reset": lambda outcome, _: outcome.failure in _BROKEN,
    "reset-before-request": lambda outcome, _: outcome.failure is Failure.RESET and not outcome.written,
    "connect-failure": lambda outcome, _: outcome.failure is Failure.CONNECT,
    "refused-stream": lambda outcome, _: outcome.failure is Failure.REFUSED,
    "retriable-4xx": lambda outcome, _: outcome.status == 409,
    "retriable-headers": lambda outcome, _: outcome.header,
    "envoy-ratelimited": lambda outcome, _: outcome.rate_limited,
    "retriable-status-codes": lambda outcome, policy: outcome.status in policy.status_codes,
    "cancelled": lambda outcome, _: outcome.grpc_status == 1,
    "deadline-exceeded": lambda outcome, _: outcome.grpc_status == 4,
    "resource-exhausted": lambda outcome, _: outcome.grpc_status == 8,
    "internal": lambda outcome, _: outcome.grpc_status == 13,
    "unavailable": lambda outcome, _: outcome.grpc_status == 14,
}


def least_status(names: frozenset[str], status_codes: frozenset[int]) -> int:
    """The lowest status that is a reason to look at a response, where these words and codes are retried on.

    Headers that a policy names may match by not being there: then every response is looked at.
    """
    if "retriable-headers" in names:
        return 0
    return min(400, *status_codes) if "retriable-status-codes" in names and status_codes else 400


def telling(names: frozenset[str]) -> frozenset[bytes]:
    """The fields that are a reason to look at a response whatever its status, where these words are retried on."""
    return frozenset([_BY_FIELD[name] for name in names & _BY_FIELD.keys()])


def parse_retry_on(text: str) -> frozenset[str]:
    """The names in a comma-separated `retry_on`.

    Raises:
        ValueError: a name is not known; the message says which ones are.
    """
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    unknown = sorted(names - CONDITIONS.keys())
    if unknown:
        raise ValueError(f"unknown retry condition {unknown[0]!r}; known are {', '.join(sorted(CONDITIONS))}")
    return names


class Decision(enum.Enum):
    """What is to be done after an attempt."""

    LEAVE = "leave"  # it is none to be made again
    RETRY = "retry"
    NONE_LEFT = "none left"  # it would be made again, but that was the last of them


def decide(
    policy: RetryPolicy | None,
    outcome: Outcome,
    attempts_made: int,
    *,
    idempotent: bool,
    replayable: bool,
    time_left: float | None = None,
) -> Decision:
    """What is to be done after `outcome`.

    Args:
        policy: the route's; None means never.
        outcome: what became of the attempt just made.
        attempts_made: attempts so far, this one included, so 1 after the first.
        idempotent: the method is in IDEMPOTENT_METHODS.
        replayable: the request can be sent again from its first byte (its body is empty or still held in full), and
            nothing of a response has gone to the client.
        time_left: seconds until the request's own deadline; None without one.
    """
    if policy is None or not replayable or (time_left is not None and time_left <= 0):
        return Decision.LEAVE
    if not _is_worth_it(policy, outcome, idempotent=idempotent):
        return Decision.LEAVE
    return Decision.RETRY if attempts_made <= policy.attempts else Decision.NONE_LEFT


def _is_worth_it(policy: RetryPolicy, outcome: Outcome, *, idempotent: bool) -> bool:
    if outcome.failure in {Failure.CONNECT, Failure.REFUSED}:
        return True
    if outcome.rate_limited:  # to ask again at once is what the limit is against; Envoy's other words give way, too
        return "envoy-ratelimited" in policy.on
    if outcome.failure is Failure.RESET and (idempotent or not outcome.written):
        return True
    return _named(policy.on, outcome, policy)


def _named(names: Iterable[str], outcome: Outcome, policy: RetryPolicy) -> bool:
    return any(CONDITIONS[name](outcome, policy) for name in names)


def backoff(policy: RetryPolicy, attempts_made: int, random: Callable[[], float]) -> float:
    """Seconds to wait before the next attempt: full jitter over an exponential window, as Envoy does.

    The window is `base_interval * (2**attempts_made - 1)`, at most `max_interval`; `random` returns [0, 1).
    """
    # 2**30 intervals are past any maximum; the cap keeps the power a small number whatever `attempts` says.
    window = policy.base_interval * ((1 << min(attempts_made, 30)) - 1)
    return min(window, policy.max_interval) * random()
