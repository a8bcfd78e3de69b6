"""One concurrency limit as one sidecar sees it: the slots it was granted, the requests that have one, who waits.

Pure: what comes from the policy service is told by `answer`, and what it should hear is asked for by `report`. A slot
is had by a request's record, so that giving it back twice, or not at all, cannot happen: a request is in `holders` or
it is not. Who waits, and what becomes of whom the service does not answer, is as for tokens (waiting.py).
"""

import sys
from dataclasses import dataclass
from typing import Final

from pymesh import policy_answers
from pymesh.policy_api import HEARTBEAT, Demand, Grant
from pymesh_proxy.filters import waiting
from pymesh_proxy.filters.standing import Mode, Standing
from pymesh_proxy.filters.waiting import Urgent, Waiting
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
        standing: who decides.
        waiting: the requests that wait for a slot, and why others are refused.
        usable: how many there may be at the moment.
        limit: of all sidecars together, as configured, then as last heard.
    """

    __slots__ = (
        "__weakref__", "_grant", "_of", "_peak", "_peak_before", "_reported", "_rotated", "_said", "_settings",
        "holders", "limit", "name", "standing", "stats", "urgent", "usable", "waiting",
    )  # fmt: skip

    def __init__(self, settings: SlotSettings, stats: PolicyStats, urgent: Urgent) -> None:
        self.name = name = settings.name
        self._settings = settings
        self.stats = stats
        self.urgent = urgent
        self.holders: set[RequestRecord] = set()
        self.usable = 0
        self.limit = settings.limit
        self.standing = Standing(settings.mode, settings.otherwise)
        self.waiting = Waiting(urgent, self.standing)
        self._grant = 0
        self._reported = Demand(name, 0, 0, 0)
        self._peak = self._peak_before = 0
        self._rotated = 0.0
        self.recount()

    def configure(self, settings: SlotSettings) -> None:
        """What the configuration in force says; slots in use stay as they are, the grant unless retired."""
        if settings != self._settings:
            self.limit, self.waiting.exhausted = settings.limit, False
        elif self.standing.in_force:
            return
        if not self.standing.in_force:  # the service does not know that we want anything again
            self.urgent(True)
        self._settings = settings
        self.standing.configure(settings.mode, settings.otherwise)
        waiting.settle(self)

    def retire(self) -> None:
        """The rule is not in force any more: whoever still comes by it is let in."""
        if self.standing.in_force:
            self._grant, self.waiting.exhausted = 0, False  # the service gives the slots to others
            self.standing.retire()
            waiting.settle(self)

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
        standing = self.standing
        if standing.down:
            self.stats.without(standing.mode.value.lower())
        else:
            self.stats.allowed += 1
        return True

    def note(self) -> str:
        """How the request that just got its slot got it, for people."""
        return f"{self._said}{len(self.holders)}{self._of}"

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

    # --- The service ---

    def report(self, now: float) -> Demand:
        """What the service should know. `now` is in seconds of any clock."""
        in_use = len(self.holders)
        demand = in_use + len(self.waiting) + self.waiting.refused
        self.waiting.refused = 0
        recent = max(self._peak, self._peak_before)
        if now - self._rotated >= HEARTBEAT:
            self._peak_before, self._peak, self._rotated = self._peak, in_use, now
        wanted = min(max(demand, recent + spare(recent)), max(self.limit, in_use))
        self._reported = Demand(self.name, max(self._grant, in_use), in_use, wanted)
        return self._reported

    @property
    def owes(self) -> bool:
        """Whether slots that were asked back have come free and the service does not know."""
        return self._reported.held > max(self._grant, len(self.holders))

    def answer(self, grant: Grant, *, now: float, in_time: bool, whole: bool = True) -> None:
        """What the service grants, `now`; an answer that was not `in_time` does not end its absence.

        `whole`: it knew of our last report. Otherwise it says nothing about what was wanted there.
        """
        self.standing.hear(grant, in_time=in_time)
        if not grant.problem:
            self._grant, self.limit = grant.slots, grant.limit
            refused = whole and grant.slots < self._reported.wanted and not grant.coming
            self.waiting.exhausted = refused or grant.slots >= grant.limit
        waiting.settle(self)
        if self.waiting or self.owes:
            self.urgent(True)

    def recount(self) -> None:
        """What the next request gets, from what is known and what the failure mode says."""
        standing, granted = self.standing, self._grant
        why = standing.away or standing.problem
        if not standing.in_force:
            self.usable = _UNLIMITED
            self._said, self._of = f"{self.name}: let in, since it is no longer in force; ", " are in"
        elif not standing.down:
            self.usable = granted
            self._said, self._of = f"{self.name}: slot ", f" of {self.limit}"
        elif standing.mode is Mode.LAST_DECISION:
            self.usable = granted
            self._said = f"{self.name}: slot "
            self._of = f" of {granted} granted before the policy service was away ({why})"
        else:
            self.usable = _UNLIMITED if standing.mode is Mode.OPEN else 0
            self._said = f"{self.name}: let in, since the policy service is away ({why}); "
            self._of = " are in"

    # --- For people ---

    def refused(self, now: float) -> tuple[str, policy_answers.Fields]:
        """What a caller is told for whom there is no slot: a sentence, and header fields."""
        return f"{self.name}: the limit is reached", policy_answers.slot_fields(self.name, self.limit, RETRY_AFTER)

    def why_full(self) -> str:
        """Why there is no slot."""
        if self.standing.down:
            return f"all {self._grant} slots granted before the policy service was away are in use"
        return f"no slot: {len(self.holders)} in use here, of {self.limit} in all"


def spare(recent: int) -> int:
    """Slots to have beyond what was lately in use, so that a little more traffic need not wait for an answer.

    None for a rule without traffic: what lies idle here is missing elsewhere.
    """
    return recent and recent // 4 + 1
