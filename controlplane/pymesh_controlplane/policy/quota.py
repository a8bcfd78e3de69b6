"""A leased rate: tokens that come with time, and which sidecar has how many in stock. Pure: time is an argument.

A rule's *level* is what may be let in at this moment, by whomever: at most the burst, less by what was let in, more as
time goes by. The level is shared out to sidecars as slots are, by the same book (slots.py): a stock counts against the
level until its tokens are spent, so that in any time no more is let in than burst and rate allow.
"""

from dataclasses import dataclass, field
from typing import Final

from pymesh.policy_api import RATE_LEASE, RETURN_GRACE, WHOLE_SHARE, Demand, Grant
from pymesh_controlplane.policy.buckets import NANOSECONDS
from pymesh_controlplane.policy.rules import Rate, Slots
from pymesh_controlplane.policy.slots import Book, Holder

# Nanoseconds between two refreshes of a level: where tokens are short, each of them is a message to many.
QUANTUM: Final = 100_000_000
# Bursts that may be missing of a tank: all that was in it, and as much again that was let in while nobody counted. A
# report of more spends no more: it may be any number, and a store keeps what was spent in 64 bits.
MOST_MISSING: Final = 2


def leased(limit: Rate | Slots) -> bool:
    """Whether sidecars hold leases of it, rather than ask about each request.

    A rule may say so itself. Otherwise one count for all requests is leased, if its burst lasts for as long as a stock
    is meant to. What is counted apart never is.
    """
    if isinstance(limit, Slots):
        return True
    if limit.quota is not None:
        return limit.quota == "Leased" and not limit.by
    return not limit.by and limit.burst * limit.period >= limit.requests * RATE_LEASE / 2


@dataclass(slots=True)
class Tank:
    """The level of one rate, in whole tokens.

    Generic Cell Rate Algorithm, as in buckets.py: kept is the time at which it will be full again, in nanoseconds
    divided by the rate's `requests`. It may be overdrawn, by one burst at most.
    """

    rate: Rate
    full_at: int = 0

    def level(self, now: int) -> int:
        """Tokens at `now`; below zero where more was let in than there was."""
        missing = max(0, self.full_at - now * self.rate.requests)
        return self.rate.burst + -missing // self._cost

    def spend(self, count: int, now: int) -> None:
        """So many were let in."""
        full = max(self.full_at, now * self.rate.requests) + count * self._cost
        self.full_at = min(full, now * self.rate.requests + MOST_MISSING * self.rate.burst * self._cost)

    def wait(self, now: int) -> int:
        """Nanoseconds until there is one more token than now; 0 when it is full."""
        missing = self.full_at - now * self.rate.requests
        if missing <= 0:
            return 0
        more = missing - (self.rate.burst - max(0, self.level(now)) - 1) * self._cost
        return -(-more // self.rate.requests)

    def change(self, rate: Rate, now: int) -> None:
        """Go on with another rate: what was spent stays spent, as far as the new burst goes."""
        spent = min(self.rate.burst - self.level(now), rate.burst)
        self.rate, self.full_at = rate, 0
        self.spend(spent, now)

    @property
    def _cost(self) -> int:
        return self.rate.period * NANOSECONDS


@dataclass(slots=True)
class RateBook:
    """The stocks of one rule.

    Attributes:
        book: of what is in stock, its `limit` the level.
        shares: the part of the rate that each sidecar may go by while it hears nothing of us, in millionths.
        shared: the level is kept in a store (store.py), and `book.limit` is our part of it.
        elsewhere: of a shared one, what sidecars at other replicas need, and how many they are.
        spent: tokens in all.
    """

    tank: Tank
    book: Book
    shared: bool = False
    elsewhere: tuple[int, int] = (0, 0)
    spent: int = 0
    shares: dict[str, int] = field(default_factory=dict)
    _used: dict[str, int] = field(default_factory=dict)
    _returned: set[str] = field(default_factory=set)  # whose next report is the first of a stream
    _refreshed: int = 0

    @classmethod
    def of(cls, rate: Rate, now: int, *, shared: bool = False) -> "RateBook":
        """A full one, from `now` (nanoseconds) on; of a shared one nothing is ours yet."""
        return cls(Tank(rate), Book(0 if shared else rate.burst), shared, _refreshed=now)

    def change(self, rate: Rate, now: int) -> None:
        """Go by another rate from now on."""
        if rate != self.tank.rate:
            self.tank.change(rate, now)
            self.refresh(now)

    # --- What sidecars say ---

    def reconnected(self, name: str) -> bool:
        """See Book."""
        self._used.pop(name, None)
        known = self.book.reconnected(name)
        if known:
            self._returned.add(name)
        return known

    def report(self, name: str, demand: Demand, seen: int, now: int) -> bool:
        """Take a sidecar's report; whether it says anything new."""
        holder = self.book.holders.get(name)
        if name in self._returned:
            # Counting begins anew; what it had and has no more was spent.
            self._returned.discard(name)
            self._spend(max(0, holder.charge - demand.held) if holder is not None else 0, now)
        elif name in self._used:
            spent = max(0, demand.used - self._used[name])
            self._spend(spent, now)
            if holder is not None:
                _take_off(holder, spent)
        # Otherwise it is new here, and has spent nothing of ours, whatever it says of its stream.
        self._used[name] = demand.used
        return self.book.report(name, demand.held, 0, demand.wanted, seen)

    def forget(self, name: str) -> None:
        """A sidecar has ended its stream in order, and has said what it spent."""
        self._used.pop(name, None)
        self._returned.discard(name)
        self.shares.pop(name, None)

    def strike(self, name: str, now: int) -> None:
        """A sidecar names the rule no more: it takes its stock along, and may have spent what it has not said.

        It goes on counting; should it be back, that begins with what it says then.
        """
        self._spend(self.book.holders[name].charge, now)
        self.forget(name)
        self.book.leave(name, None)

    def expire(self, now: float, at: int) -> bool:
        """See Book. Who did not come back may have spent all that it had. `at`: now, in nanoseconds."""
        gone = [name for name, holder in self.book.holders.items() if holder.until is not None and holder.until <= now]
        for name in gone:
            self._spend(self.book.holders[name].charge, at)
            self.forget(name)
        return self.book.expire(now)

    # --- What is decided ---

    def due(self, now: int) -> bool:
        """Whether it is time to `refresh`."""
        return now - self._refreshed >= QUANTUM

    def refresh(self, now: int) -> bool:
        """Bring the level up to date with what time has brought; whether it has changed."""
        self._refreshed, before = now, self.book.limit
        if not self.shared:
            self.book.limit = max(0, self.tank.level(now))
        return self.book.limit != before

    def allot(self, now: float) -> set[str]:
        """Decide the stocks of all connected sidecars; those who should hear of it before they ask."""
        had = {name: holder.charge for name, holder in self.book.holders.items()}
        granted = {name: holder.grant for name, holder in self.book.holders.items()}
        changed = self.book.allot(now)
        self.shares = _shares(self.book.present, *self.elsewhere)
        holders = self.book.holders
        return {name for name in changed if holders[name].grant < granted[name] or had[name] < holders[name].need}

    def dry(self, name: str) -> bool:
        """Whether a connected sidecar lacks tokens, and there are none here that it could have."""
        book = self.book
        return book.holders[name].lacks and book.charged >= book.limit and not book.coming(name)

    def grant(self, rule: str, name: str, nonce: int, now: int) -> Grant:
        """What the response `nonce`, which goes out now, says to the sidecar."""
        wait = 0 if self.book.charged < self.book.limit else self.tank.wait(now)
        return Grant(
            rule,
            self.book.sent(name, nonce),
            self.tank.rate.requests,
            RETURN_GRACE,
            coming=self.book.coming(name),
            used=self._used.get(name, 0),
            share=self.shares.get(name, 0),
            retry_after=wait / NANOSECONDS,
        )

    def _spend(self, count: int, now: int) -> None:
        if not count:
            return
        count = min(count, MOST_MISSING * self.tank.rate.burst)
        self.spent += count
        self.tank.spend(count, now)
        # Level and stocks fall alike: what is free is brought by time alone, now and then, or by the store.
        left = self.book.limit - count
        self.book.limit = max(0, left if self.shared else min(left, self.tank.level(now)))


def _take_off(holder: Holder, spent: int) -> None:
    """What is still under way to a sidecar was granted on top of what it has spent since."""
    holder.grant = max(0, holder.grant - spent)
    holder.unseen = {nonce: max(0, slots - spent) for nonce, slots in holder.unseen.items()}


def _shares(holders: dict[str, Holder], need_elsewhere: int, sidecars_elsewhere: int) -> dict[str, int]:
    """Parts of the rate, in all and with those that other replicas give, the whole of it.

    One half by what sidecars want, so that whoever has traffic has most of it, one half evenly.
    """
    needs = {name: holder.need for name, holder in holders.items()}
    total, sidecars = sum(needs.values()) + need_elsewhere, max(1, len(needs) + sidecars_elsewhere)
    if not total:
        return dict.fromkeys(needs, WHOLE_SHARE // sidecars)
    return {name: (WHOLE_SHARE * need // total + WHOLE_SHARE // sidecars) // 2 for name, need in needs.items()}
