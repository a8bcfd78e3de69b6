"""One concurrency limit as one sidecar sees it: the slots it was granted, the requests that have one, who waits.

Pure: what comes from the policy service is told by `answer`, `lose` and `give_up`, and what it should hear is asked for
by `report`. A slot is had by a request's record, so that giving it back twice, or not at all, cannot happen: a request
is in `holders` or it is not.
"""

import sys
from dataclasses import dataclass
from typing import Final

from pymesh import policy_answers
from pymesh.policy_api import HEARTBEAT, Demand, Grant
from pymesh_proxy.filters.waiting import Mode, Refusal, Urgent, Waiting
from pymesh_proxy.telemetry.policy_metrics import PolicyStats
from pymesh_proxy.telemetry.record import RequestRecord

# Seconds, for `Retry-After` of a reached limit: slots come free with every request that ends.
RETRY_AFTER: Final = 1
_UNLIMITED: Final = sys.maxsize


@dataclass(frozen=True, slots=True)
class SlotSettings:
    """A rule of kind `slots`: at most `limit` requests at once in the apps of all sidecars together.

    On a dry run the filter lets in whom the rule refuses.
    """

    name: str
    limit: int
    mode: Mode
    otherwise: Mode
    dry_run: bool = False


class SlotRule:
    """The slots of the rule `name`, and who waits for one.

    Attributes:
        holders: the requests that are in the app, by their records.
        waiting: the requests that wait for a slot.
        usable: how many there may be at the moment.
        limit: of all sidecars together, as configured, then as last heard.
        away: why nothing is heard of the service; empty while it answers.
        down: the failure mode decides, by `mode`: LAST_DECISION only where there was one.
        problem: why the service grants nothing, in its words: no such rule, not this sidecar's.
        full: the last answer granted less than was wanted, and none are coming, or all there is: asking again at once
            is of no use.
    """

    __slots__ = (
        "__weakref__", "_gave_up", "_grant", "_in_force", "_of", "_peak", "_peak_before", "_refused", "_reported",
        "_rotated", "_said", "_settings", "away", "down", "full", "holders", "limit", "mode", "name", "problem",
        "stats", "urgent", "usable", "waiting",
    )  # fmt: skip

    def __init__(self, settings: SlotSettings, stats: PolicyStats, urgent: Urgent) -> None:
        self.name = name = settings.name
        self._settings = settings
        self.stats = stats
        self.urgent = urgent
        self.holders: set[RequestRecord] = set()
        self.usable = 0
        self.limit = settings.limit
        self.away = self.problem = ""
        self.full = False
        self._grant: int | None = None
        self.waiting = Waiting(urgent)
        self._gave_up = False  # a request has waited in vain for the service to know the rule
        self._reported = Demand(name, 0, 0, 0)
        self._peak = self._peak_before = self._refused = 0
        self._rotated = 0.0
        self._in_force = True
        self._recount()

    def configure(self, settings: SlotSettings) -> None:
        """What the configuration in force says; slots in use stay as they are, the grant unless retired."""
        if settings != self._settings:
            self.limit, self.full = settings.limit, False
        elif self._in_force:
            return
        if not self._in_force:  # the service does not know that we want anything again
            self.urgent(True)
        self._settings, self._in_force = settings, True
        self._settle_all()

    def retire(self) -> None:
        """The rule is not in force any more: whoever still comes by it is let in."""
        if self._in_force:
            # The service hears no more of the rule and gives the slots to others; nor do we hear of the service.
            self._in_force, self._grant, self.full, self.away = False, None, False, ""
            self._settle_all()

    # --- Requests ---

    def take(self, record: RequestRecord) -> bool:
        """Give the request a slot if one is free. Every request comes through here."""
        holders = self.holders
        count = len(holders)
        if count >= self.usable:
            return False
        holders.add(record)
        if count >= self._peak:
            self._peak = count + 1
        if self.down:
            self.stats.without(self.mode.value.lower())
        else:
            self.stats.allowed += 1
        return True

    def note(self) -> str:
        """How the request that just got its slot got it, for people."""
        return f"{self._said}{len(self.holders)}{self._of}"

    def refusal(self) -> Refusal | None:
        """Why a request that found no slot is refused at once; None if the service may still give one."""
        if self.down:
            return Refusal.LIMIT if self.mode is Mode.LAST_DECISION else Refusal.AWAY
        if self.full or self.waiting.full:
            self._refused += 1
            self.urgent(False)
            return Refusal.LIMIT
        return None

    def release(self, record: RequestRecord) -> None:
        """The request is over, whether it has a slot, waits for one, or neither."""
        holders = self.holders
        if record not in holders:
            if self.waiting.settles:
                self.waiting.leave(record)
            return
        over = len(holders) > self.usable
        holders.remove(record)
        if over:  # the service waits for this slot
            self.urgent(True)
        elif self.waiting.settles:
            self.waiting.admit(self.take)

    def give_up(self, record: RequestRecord) -> None:
        """The request has waited for as long as it may."""
        settle = self.waiting.leave(record)
        if settle is not None:
            self._gave_up = True
            self._recount()
            settle(self._decide(record))
            self._settle_all()

    # --- The service ---

    def report(self, now: float) -> Demand:
        """What the service should know. `now` is in seconds of any clock."""
        in_use = len(self.holders)
        demand = in_use + len(self.waiting) + self._refused
        self._refused = 0
        recent = max(self._peak, self._peak_before)
        if now - self._rotated >= HEARTBEAT:
            self._peak_before, self._peak, self._rotated = self._peak, in_use, now
        wanted = min(max(demand, recent + spare(recent)), max(self.limit, in_use))
        self._reported = Demand(self.name, max(self._grant or 0, in_use), in_use, wanted)
        return self._reported

    @property
    def owes(self) -> bool:
        """Whether slots that were asked back have come free and the service does not know."""
        return self._reported.held > max(self._grant or 0, len(self.holders))

    def answer(self, grant: Grant, *, now: float, in_time: bool, whole: bool = True) -> None:
        """What the service grants, `now`; an answer that was not `in_time` does not end its absence.

        `whole`: it knew of our last report. Otherwise it says nothing about what was wanted there.
        """
        if in_time:
            self.away = ""
        self.problem = grant.problem
        if not grant.problem:
            self._gave_up = False
            self._grant, self.limit = grant.slots, grant.limit
            refused = whole and grant.slots < self._reported.wanted and not grant.coming
            self.full = refused or grant.slots >= grant.limit
        self._settle_all()
        if self.waiting or self.owes:
            self.urgent(True)

    def lose(self, why: str) -> None:
        """The service is away; `why` may be another reason than before."""
        if why != self.away:
            self.away = why
            self._settle_all()

    # --- Deciding ---

    def _recount(self) -> None:
        """What the next request gets, from what is known and what the failure mode says."""
        settings, granted = self._settings, self._grant
        last = settings.mode is Mode.LAST_DECISION
        self.mode = settings.otherwise if last and granted is None else settings.mode
        self.down = bool(self.away) or (bool(self.problem) and (self._gave_up or granted is not None))
        why = self.away or self.problem
        if not self._in_force:
            self.usable, self.down = _UNLIMITED, False
            self._said, self._of = f"{self.name}: let in, since it is no longer in force; ", " are in"
        elif not self.down:
            self.usable = granted or 0
            self._said, self._of = f"{self.name}: slot ", f" of {self.limit}"
        elif self.mode is Mode.LAST_DECISION:
            self.usable = granted or 0
            self._said = f"{self.name}: slot "
            self._of = f" of {granted} granted before the policy service was away ({why})"
        else:
            self.usable = _UNLIMITED if self.mode is Mode.OPEN else 0
            self._said = f"{self.name}: let in, since the policy service is away ({why}); "
            self._of = " are in"

    def _settle_all(self) -> None:
        """Decide again about those who wait."""
        self._recount()
        self.waiting.admit(self.take)
        if self.down or self.full:
            self.waiting.decide(self._decide)

    def _decide(self, record: RequestRecord) -> Refusal | None:
        if self.take(record):
            return None
        return self.refusal() or Refusal.LIMIT  # it is there, and no slot came free in time

    # --- For people ---

    def refused(self, now: float) -> tuple[str, policy_answers.Fields]:
        """What a caller is told for whom there is no slot: a sentence, and header fields."""
        return f"{self.name}: the limit is reached", policy_answers.slot_fields(self.name, self.limit, RETRY_AFTER)

    def why_full(self) -> str:
        """Why there is no slot."""
        if self.down:
            return f"all {self._grant} slots granted before the policy service was away are in use"
        return f"no slot: {len(self.holders)} in use here, of {self.limit} in all"

    def reason(self) -> str:
        """Why nobody can say whether there is a slot."""
        return self.away or self.problem or "the policy service has not answered"


def spare(recent: int) -> int:
    """Slots to have beyond what was lately in use, so that a little more traffic need not wait for an answer.

    None for a rule without traffic: what lies idle here is missing elsewhere.
    """
    return recent and recent // 4 + 1
