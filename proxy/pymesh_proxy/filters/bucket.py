"""A rate with which a sidecar goes on by itself while the policy service is away. Pure: time is an argument."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True)
class Bucket:
    """Generic Cell Rate Algorithm, as at the service: kept is the time at which the bucket will be full again.

    Attributes:
        interval: seconds that a request takes of it.
        room: seconds before it is full in which requests are let in.
        full_at: when it is full, in seconds of any clock.
    """

    interval: float
    room: float
    full_at: float

    def wait(self, now: float) -> float:
        """Seconds until a request would be let in; 0 if it would be now."""
        return max(0.0, self.full_at - self.room - now)

    def take(self, now: float) -> bool:
        """Let a request in, if it need not wait."""
        if self.full_at - self.room > now:
            return False
        self.full_at = max(self.full_at, now) + self.interval
        return True


class Level(NamedTuple):
    """Where a rate stands: `rates` in pymesh.policy_api.ANSWER_METADATA."""

    requests: int
    period: int
    burst: int
    sidecars: int
    full_in: float

    def bucket(self, now: float) -> Bucket:
        """What was said at `now`, to go on from there as if all sidecars let in as many as this one does.

        Who was told when to come back is let in then: of what is there, a request needs no more than its own token,
        though it takes those of the others, too. So no sidecar lets in more than one request beyond its part.
        """
        interval = self.period / self.requests
        return Bucket(interval * self.sidecars, interval * (self.burst - 1), now + self.full_in)
