"""Who may lead: the rules of a Lease that one replica holds and renews. Pure.

As client-go's leaderelection has them, so that a Lease means what everybody's does: another one's Lease has run out
when *we* have seen it unchanged for as long as it says, by our own clock. The times within it are for people to read;
the clocks of two nodes need not agree, they only need to run equally fast.

The holder gives up RENEW_DEADLINE after it asked for the last renewal that was granted; others saw that renewal later
than it was asked for, and wait for DURATION: there are never two, as long as the holder needs less than the difference,
five seconds, to stop.
"""

from datetime import datetime
from typing import Final, NamedTuple

# Seconds; client-go's defaults, and those of Kubernetes' own components.
DURATION: Final = 15
RENEW_DEADLINE: Final = 10.0
RETRY_PERIOD: Final = 2.0
# Those who wait wait for up to this much longer, by chance, so that they do not come all at once.
JITTER: Final = 1.2


class Record(NamedTuple):
    """What a Lease says. `holder` is empty when it was given back; times are RFC 3339 with microseconds."""

    holder: str
    duration: int
    acquired: str
    renewed: str
    transitions: int


class Candidate:
    """One who would lead, and what it has seen of the Lease."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._seen: Record | None = None
        self._since = 0.0

    def claim(self, found: Record | None, now: float, time_of_day: datetime) -> Record | None:
        """What the Lease is to say so that we hold it on, or take it over; None while it is another one's.

        Args:
            found: what it says now; None if there is none yet.
            now: seconds of a clock that never goes back.
            time_of_day: for people who read the Lease.
        """
        stamp = timestamp(time_of_day)
        if found is None:
            return Record(self.identity, DURATION, stamp, stamp, 0)
        if found != self._seen:
            self._seen, self._since = found, now
        if found.holder == self.identity:
            return found._replace(duration=DURATION, renewed=stamp)
        if found.holder and now < self._since + found.duration:
            return None
        return Record(self.identity, DURATION, stamp, stamp, found.transitions + 1)

    def give_back(self, found: Record | None, time_of_day: datetime) -> Record | None:
        """What the Lease is to say so that the next may have it at once; None if it is not ours."""
        if found is None or found.holder != self.identity:
            return None
        stamp = timestamp(time_of_day)
        return Record("", 1, stamp, stamp, found.transitions)


def timestamp(time_of_day: datetime) -> str:
    """A MicroTime of Kubernetes, which always has six digits behind the point."""
    return f"{time_of_day:%Y-%m-%dT%H:%M:%S.%f}Z"
