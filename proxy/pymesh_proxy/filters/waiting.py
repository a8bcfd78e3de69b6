"""Requests that find no slot or token of a rule: they wait for the policy service to grant one, or are refused, or the
rule's failure mode decides. Pure.
"""

import enum
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from pymesh_proxy.filters.standing import Mode, Standing
from pymesh_proxy.telemetry.record import RequestRecord

# Requests that wait for an answer, per rule; they wait for some 50 ms, so this many are a burst that is no use.
MAX_WAITING: Final = 1024


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
        exhausted: the service has said that there is no more, and none coming: asking again at once is of no use.
        refused: requests that were refused for that; who reports them sets it back.
    """

    __slots__ = ("_standing", "_urgent", "exhausted", "refused", "settles")

    def __init__(self, urgent: Urgent, standing: Standing) -> None:
        self.settles: dict[RequestRecord, Settle] = {}
        self.exhausted = False
        self.refused = 0
        self._urgent = urgent
        self._standing = standing

    def __len__(self) -> int:
        return len(self.settles)

    def __contains__(self, record: RequestRecord) -> bool:
        return record in self.settles

    def refusal(self) -> Refusal | None:
        """Why a request for which there is nothing is refused at once; None if the service may still give something."""
        standing = self._standing
        if standing.down:
            return Refusal.LIMIT if standing.mode is Mode.LAST_DECISION else Refusal.AWAY
        if self.exhausted or len(self.settles) >= MAX_WAITING:
            self.refused += 1
            self._urgent(False)
            return Refusal.LIMIT
        return None

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


class Rule(Protocol):
    """What requests wait for: slots, or the tokens of a rate."""

    standing: Standing
    waiting: Waiting

    def take(self, record: RequestRecord) -> bool:
        """Let the request in, if there is something for it."""

    def recount(self) -> None:
        """Who decides may have changed, and with that what there is."""


# Functions, and no methods of one class of rules or of those who wait: a rule and who waits for it would refer to each
# other, and what a push has made is never looked through for such circles again.


def settle(rule: Rule) -> None:
    """Something has changed: decide again about those who wait."""
    _look_again(rule)
    rule.waiting.admit(rule.take)
    if rule.standing.down or rule.waiting.exhausted:
        rule.waiting.decide(partial(_decide, rule))


def lose(rule: Rule, why: str) -> None:
    """The service is away; `why` may be another reason than before."""
    if why != rule.standing.away:
        rule.standing.away = why
        settle(rule)


def give_up(rule: Rule, record: RequestRecord) -> None:
    """A request has waited for as long as it may."""
    told = rule.waiting.leave(record)
    if told is not None:
        rule.standing.in_vain = True
        _look_again(rule)
        told(_decide(rule, record))
        settle(rule)


def _look_again(rule: Rule) -> None:
    rule.standing.decide()
    rule.recount()


def _decide(rule: Rule, record: RequestRecord) -> Refusal | None:
    if rule.take(record):
        return None
    return rule.waiting.refusal() or Refusal.LIMIT  # the service is there, and nothing came in time
