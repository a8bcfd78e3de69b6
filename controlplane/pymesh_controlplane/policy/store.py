"""What replicas of the policy service share: how much of each rule every one of them may lease out. Pure but for Store.

A replica leases to its sidecars out of its *allotment*, and the allotments of all replicas never exceed the rule. It
claims one for all its rules at once, again and again, in absolute numbers:

- What is out at its sidecars (`charged`) it always has, whether that fits or not: sidecars that came over from another
  replica bring theirs along. Beyond that it is given what it asks for, as far as it is free.
- An allotment is never taken away. A replica that gives some back first stops leasing it out, then asks for less.
- A claim holds for LEASE seconds by the store's clock. A replica that is not heard of for as long loses its allotment,
  and must not lease any more by then by its own clock: it takes MARGIN seconds off.
- Of a rate, the level is shared out, and what was spent is told as a sum since the replica began, so that a claim that
  is repeated spends nothing twice. The allotment of a replica that vanished counts as spent.
- A store that is new, or has lost everything, gives nobody more than it has for SETTLE seconds: others have not told
  yet what they have.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from pymesh_controlplane.policy.buckets import Spend, Spent

# Seconds that a claim holds. A sidecar whose replica has stopped looks for another after 3.5 s (a heartbeat, and the
# patience of the proxy's control/leases.py), and is to be there by then.
LEASE: Final = 5.0
# Seconds by which clocks may run apart in that time, and a process may be late.
MARGIN: Final = 0.5
# Seconds; replicas claim at least twice in it.
SETTLE: Final = 1.0
# Seconds that a question waits for the store. The sidecar that asks it has a little more patience with us
# (pilot/policy_filters.py), and there are others before it in the row.
PATIENCE: Final = 0.04


class Transfer(NamedTuple):
    """What sidecars have brought along: how much, and how many they were."""

    slots: int
    sidecars: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a replica says of one rule.

    Attributes:
        limit: slots in all, or the burst of a rate.
        charged: what is out at its sidecars; asked: what it would like to have in all.
        need: what its sidecars would use if there were no limit; sidecars: how many they are.
        requests, period: of a rate; so many in so many seconds. 0 for slots.
        spent: of a rate: tokens spent since the replica began.
        transferred: what sidecars brought along, by the replica from which they had it. That one may be gone; if it is
            not, it says so with its own next claim.
    """

    rule: str
    limit: int
    charged: int
    asked: int
    need: int = 0
    sidecars: int = 0
    requests: int = 0
    period: int = 0
    spent: int = 0
    transferred: Mapping[str, Transfer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Peer:
    """What another replica has of a rule, and said last."""

    allotted: int
    need: int
    sidecars: int


@dataclass(frozen=True, slots=True)
class Share:
    """The answer to a claim: what the replica may lease out, the level of the rule, and what the others have."""

    allotted: int
    level: int
    others: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What one request asks of rates that are not leased: all of it is spent, or nothing if one refuses.

    With `look` nothing is spent, and it is only told what would be.
    """

    wanted: Sequence[Spend]
    look: bool = False


class StoreError(Exception):
    """The store did not answer, or not in time, or not with sense; the text says why, and holds no secret."""


class Store(Protocol):
    """What replicas share."""

    async def exchange(self, replica: str, claims: Sequence[Claim]) -> list[Share]:
        """Claim all rules at once, in bounded time. Raises StoreError: the claims may have been heard all the same."""

    async def spend(self, questions: Sequence[Question]) -> list[list[Spent]]:
        """Answer each question, for what it wants in that order, in bounded time; the rules are those of buckets.py.

        Raises StoreError: it may have been spent all the same.
        """

    async def close(self) -> None:
        """Let go of what is open; bounded."""


@dataclass(slots=True)
class _Entry:
    allotted: int
    need: int
    sidecars: int
    spent: int
    until: float


@dataclass(slots=True)
class _Account:
    """A rule: of a rate, what is missing of the burst at a time."""

    missing: float = 0.0
    at: float = 0.0
    entries: dict[str, _Entry] = field(default_factory=dict)


@dataclass(slots=True)
class Ledger:
    """The rules of the exchange as plain Python, time an argument: what the script in Redis is held against."""

    born: float = 0.0
    accounts: dict[str, _Account] = field(default_factory=dict)

    def exchange(self, replica: str, claims: Sequence[Claim], now: float) -> list[Share]:
        """See Store; `now` is the store's clock."""
        return [self._exchange_one(replica, claim, now) for claim in claims]

    def _exchange_one(self, replica: str, claim: Claim, now: float) -> Share:
        account = self.accounts.setdefault(claim.rule, _Account(at=now))
        mine = account.entries.pop(replica, None)
        lapsed = sum(entry.allotted for entry in account.entries.values() if entry.until <= now)
        if mine is not None and mine.until <= now:
            lapsed, mine = lapsed + mine.allotted, None
        account.entries = {name: entry for name, entry in account.entries.items() if entry.until > now}
        for origin, (slots, sidecars) in claim.transferred.items():
            if (entry := account.entries.get(origin)) is not None:
                entry.allotted = max(0, entry.allotted - slots)
                entry.sidecars = max(0, entry.sidecars - sidecars)
                entry.need = min(entry.need, entry.allotted)
        level = claim.limit
        if claim.requests:
            refilled = (now - account.at) * claim.requests / claim.period
            spent = lapsed + (max(0, claim.spent - mine.spent) if mine is not None else 0)
            account.missing = min(max(0.0, account.missing - refilled) + spent, 2.0 * claim.limit)
            account.at = now
            level = claim.limit - math.ceil(account.missing)
        free = level - sum(entry.allotted for entry in account.entries.values())
        asked = claim.asked if now - self.born >= SETTLE else claim.charged
        allotted = max(claim.charged, min(asked, free))
        others = tuple(Peer(entry.allotted, entry.need, entry.sidecars) for entry in account.entries.values())
        account.entries[replica] = _Entry(allotted, claim.need, claim.sidecars, claim.spent, now + LEASE)
        return Share(allotted, level, others)
