"""How long a request may take: up to four deadlines, and which one has passed. Pure.

A request keeps no deadlines, only when something last happened. They are worked out of that when its connection asks
(`timers.py`), which it does no later than the first of them, and when one comes nearer.
"""

import enum
from dataclasses import dataclass

from pymesh_proxy.timers import NEVER


class Expired(enum.Enum):
    """What took too long."""

    RESPONSE = "response"  # the route's timeout: from the end of the request to the end of the response
    ARRIVAL = "arrival"  # the manager's request_timeout: from the first byte of the request to its last
    ATTEMPT = "attempt"  # the retry policy's per-try timeout: to the head of the response
    IDLE = "idle"  # the stream's idle timeout: not a byte of body moved in either direction


@dataclass(slots=True)
class Deadlines:
    """When each is over, in monotonic seconds; NEVER for what is not limited, or not at this time."""

    response: float = NEVER
    arrival: float = NEVER
    attempt: float = NEVER
    idle: float = NEVER

    def first(self) -> float:
        """The earliest one."""
        return min(self.response, self.arrival, self.attempt, self.idle)

    def expired(self, now: float) -> Expired | None:
        """Which one has passed at `now`; the widest, if several have."""
        if now >= self.response:
            return Expired.RESPONSE
        if now >= self.arrival:
            return Expired.ARRIVAL
        if now >= self.attempt:
            return Expired.ATTEMPT
        return Expired.IDLE if now >= self.idle else None
