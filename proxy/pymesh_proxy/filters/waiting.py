"""Requests that wait for the policy service to grant a slot or a token of a rule, and what can become of them.

They get in, or are refused, or the rule's failure mode decides. Pure.
"""

import enum
from collections.abc import Callable
from typing import Final

from pymesh_proxy.telemetry.record import RequestRecord

# Requests that wait for an answer, per rule; they wait for some 50 ms, so this many are a burst that is no use.
MAX_WAITING: Final = 1024


class Mode(enum.Enum):
    """What is done while the policy service is away (`failureMode`, and, without LAST_DECISION, `otherwise`)."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"
    LAST_DECISION = "LAST_DECISION"


class Refusal(enum.Enum):
    """Why a request does not get in."""

    LIMIT = "limit"  # the limit is reached
    AWAY = "away"  # nobody can say whether it is


# Told once: None, the request is let in; else why it is not.
Settle = Callable[[Refusal | None], None]
# Called when the service should hear from us before the next heartbeat: at once, or soon enough.
Urgent = Callable[[bool], None]


class Waiting:
    """Who waits for one rule, in the order in which they came; the service is to hear of each at once.

    Attributes:
        settles: by request, what is called when it is decided.
    """

    __slots__ = ("_urgent", "settles")

    def __init__(self, urgent: Urgent) -> None:
        self.settles: dict[RequestRecord, Settle] = {}
        self._urgent = urgent

    def __len__(self) -> int:
        return len(self.settles)

    def __contains__(self, record: RequestRecord) -> bool:
        return record in self.settles

    @property
    def full(self) -> bool:
        """Whether nobody else may wait."""
        return len(self.settles) >= MAX_WAITING

    def add(self, record: RequestRecord, settle: Settle) -> None:
        """Have the request wait; `settle` is called once, unless the request leaves before."""
        self.settles[record] = settle
        self._urgent(True)

    def leave(self, record: RequestRecord) -> Settle | None:
        """The request waits no more, whatever becomes of it; None if it did not."""
        return self.settles.pop(record, None)

    def admit(self, take: Callable[[RequestRecord], bool]) -> None:
        """Let in the first ones, for as long as `take` has something for them."""
        while self.settles:
            record = next(iter(self.settles))
            if not take(record):
                return
            self.settles.pop(record)(None)

    def decide(self, decide: Callable[[RequestRecord], Refusal | None]) -> None:
        """Let nobody wait any longer."""
        settles, self.settles = self.settles, {}
        for record, settle in settles.items():
            settle(decide(record))
