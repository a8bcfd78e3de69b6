"""How long a request may take: which of its deadlines comes first, and which one has passed. Pure.

A request has up to four of them. Only moments are kept, in the exchange; nothing is started or cancelled while it
goes on, and its connection asks (`timers.py`) no earlier than the first of them may have passed.
"""

import enum
from typing import Protocol


class Expired(enum.Enum):
    """What took too long."""

    RESPONSE = "response"  # the route's timeout: from the end of the request to the end of the response
    ARRIVAL = "arrival"  # the manager's request_timeout: from the first byte of the request to its last
    ATTEMPT = "attempt"  # the retry policy's per-try timeout: to the head of the response
    IDLE = "idle"  # the stream's idle timeout: not a byte of body moved in either direction


class Deadlines(Protocol):
    """The moments, in monotonic seconds; NEVER for what is not limited, or not at this time.

    Attributes:
        answer_by, arrive_by, attempt_by: see Expired.
        active_at: when something last moved.
        patience: seconds without any movement.
    """

    answer_by: float
    arrive_by: float
    attempt_by: float
    active_at: float
    patience: float


def first(of: Deadlines) -> float:
    """The earliest moment at which one of them may have passed."""
    return min(of.answer_by, of.arrive_by, of.attempt_by, of.active_at + of.patience)


def expired(of: Deadlines, now: float) -> Expired | None:
    """Which one has passed at `now`; the widest, if several have."""
    if now >= of.answer_by:
        return Expired.RESPONSE
    if now >= of.arrive_by:
        return Expired.ARRIVAL
    if now >= of.attempt_by:
        return Expired.ATTEMPT
    if now >= of.active_at + of.patience:
        return Expired.IDLE
    return None
