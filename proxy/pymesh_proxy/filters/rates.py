"""One leased rate as one sidecar sees it: the tokens that it has in stock, and who waits for one.

Pure, like slots.py, whose interface this is: what comes from the policy service is told by `answer`, and what it should
hear is asked for by `report`. Each request that is let in spends a token; nothing comes back when it ends.
"""

import sys
from dataclasses import dataclass
from typing import Final

from pymesh import policy_answers
from pymesh.policy_api import RATE_LEASE, WHOLE_SHARE, Demand, Grant
from pymesh_proxy.filters import waiting
from pymesh_proxy.filters.bucket import Bucket
from pymesh_proxy.filters.slots import spare
from pymesh_proxy.filters.standing import Mode, Standing
from pymesh_proxy.filters.waiting import Urgent, Waiting
from pymesh_proxy.telemetry.policy_metrics import PolicyStats
from pymesh_proxy.telemetry.record import RequestRecord

_UNLIMITED: Final = sys.maxsize


@dataclass(frozen=True, slots=True)
class RateSettings:
    """A rule of kind `rate`: `requests` in `period` seconds, `burst` at once, over all sidecars together.

    On a dry run the filter lets in whom the rule refuses.
    """

    name: str
    requests: int
    period: int
    burst: int
    mode: Mode
    otherwise: Mode
    dry_run: bool = False


class RateRule:
    """The stock of the rule `name`, and who waits for a token.

    Attributes:
        stock: requests that may be let in now.
        standing, waiting: see slots.SlotRule.
        free_at: when there is one, in seconds of the clock that `answer` goes by.
    """

    __slots__ = (
        "__weakref__", "_alone", "_asked_before", "_low", "_mark", "_refused", "_reported", "_rotated", "_settings",
        "_share", "_used", "free_at", "name", "standing", "stats", "stock", "urgent", "waiting",
    )  # fmt: skip

    def __init__(self, settings: RateSettings, stats: PolicyStats, urgent: Urgent) -> None:
        self.name = settings.name
        self._settings = settings
        self.stats = stats
        self.urgent = urgent
        self.stock = 0
        self.standing = Standing(settings.mode, settings.otherwise)
        self.waiting = Waiting(urgent, self.standing)
        self.free_at = 0.0
        self._share = 0
        self._alone: Bucket | None = None  # our share of the rate, from the first request without the service on
        self._reported = Demand(settings.name, 0, 0, 0)
        self._used = self._refused = 0  # on this stream: tokens spent, requests for which there was none
        self._mark, self._rotated = 0, 0.0  # their sum, and the time, when this lease began
        self._asked_before = 0  # requests in the lease before
        self._low = 0  # the stock at which it is time to ask for more

    def configure(self, settings: RateSettings) -> None:
        """What the configuration in force says; the stock stays as it is, unless the rule was retired."""
        if settings != self._settings:
            self.waiting.exhausted = False
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
            # As for slots. Counting goes on: the service takes the stock for spent, and counts from the next report.
            self.stock, self.waiting.exhausted = 0, False
            self.standing.retire()
            waiting.settle(self)

    # --- Requests ---

    @property
    def usable(self) -> int:
        """Requests that may come in now."""
        standing = self.standing
        return _UNLIMITED if not standing.in_force or (standing.down and standing.mode is Mode.OPEN) else self.stock

    def take(self, record: RequestRecord) -> bool:
        """Spend a token on the request if there is one. Every request comes through here."""
        standing = self.standing
        if standing.down or not standing.in_force:
            return self._take_alone(record)
        stock = self.stock
        if stock <= 0:
            return False
        self.stock = stock - 1
        self._used += 1
        self.stats.allowed += 1
        if stock == self._low:
            self.urgent(False)
        return True

    def note(self) -> str:
        """How the request that just got its token got it, for people."""
        if not self.standing.in_force:
            return f"{self.name}: let in, since it is no longer in force"
        if not self.standing.down:
            return f"{self.name}: token, {self.stock} left here"
        why = self.standing.reason
        if self.standing.mode is Mode.OPEN:
            return f"{self.name}: let in, since the policy service is away ({why})"
        return f"{self.name}: by {self._share / WHOLE_SHARE:.1%} of the rate, since the policy service is away ({why})"

    def release(self, record: RequestRecord) -> None:
        """The request is over; if it still waited, it does no more."""
        if self.waiting.settles:
            self.waiting.leave(record)

    # --- The service ---

    def begin_stream(self) -> None:
        """A new stream: what is spent is counted from here on."""
        self._used = self._refused = self._mark = self.waiting.refused = 0

    def report(self, now: float) -> Demand:
        """What the service should know. `now` is in seconds of any clock."""
        self._refused += self.waiting.refused
        self.waiting.refused = 0
        asked = self._used + self._refused
        recent = max(self._asked_before, asked - self._mark)
        lasted = now - self._rotated
        if lasted >= RATE_LEASE:
            self._asked_before = round((asked - self._mark) * RATE_LEASE / lasted)
            self._mark, self._rotated = asked, now
        wanted = max(len(self.waiting), min(recent + spare(recent), self._settings.burst))
        self._low = wanted // 2
        self._reported = Demand(self.name, max(0, self.stock), 0, wanted, self._used)
        return self._reported

    def answer(self, grant: Grant, *, now: float, in_time: bool, whole: bool = True) -> None:
        """What the service grants; see slots.SlotRule.answer."""
        self.standing.hear(grant, in_time=in_time)
        if not grant.problem:
            self.stock = grant.slots + grant.used - self._used
            self._share = grant.share
            self.waiting.exhausted = whole and grant.slots < self._reported.wanted and not grant.coming
            self.free_at = now + grant.retry_after
        waiting.settle(self)
        if self.waiting:
            self.urgent(True)

    # --- Deciding ---

    def recount(self) -> None:
        """While the service is there, nothing is decided alone."""
        if not self.standing.down:
            self._alone = None

    def _take_alone(self, record: RequestRecord) -> bool:
        """Decide without the service: by our share of the rate, where it had told us one."""
        standing = self.standing
        if not standing.in_force:
            return True
        if standing.mode is Mode.CLOSED:
            return False
        if standing.mode is Mode.LAST_DECISION and not self._take_of_share(record.t_start):
            return False
        self.stats.without(standing.mode.value.lower())
        return True

    def _take_of_share(self, now: float) -> bool:
        """What is in stock first, then what our share brings; of that half a second's worth at once."""
        if self.stock > 0:
            self.stock -= 1
            self._used += 1
            return True
        if not self._share:
            return False
        if self._alone is None:
            interval = self._settings.period * WHOLE_SHARE / (self._settings.requests * self._share)
            self._alone = Bucket(interval, max(0.0, RATE_LEASE - interval), now)
        return self._alone.take(now)

    # --- For people ---

    def refused(self, now: float) -> tuple[str, policy_answers.Fields]:
        """What a caller is told for whom there is no token: a sentence, and header fields."""
        rate = self._settings
        wait = max(0.0, self.free_at - now) if self._alone is None else self._alone.wait(now)
        sentence = policy_answers.rate_sentence(
            self.name, rate.requests, rate.period, burst=rate.burst, by=(), wait=wait
        )
        return sentence, policy_answers.rate_fields(self.name, rate.requests, rate.period, wait)

    def why_full(self) -> str:
        """Why there is no token."""
        if self.standing.down:
            return f"{self._share / WHOLE_SHARE:.1%} of the rate is all that is known to be ours"
        return f"no token, of {self._settings.requests} in {self._settings.period} s"
