"""The lease book of one rule: which sidecar may have how many requests in its app at once. Pure: time is an argument.

What counts against the limit is the *charge* of each sidecar: the most of what it reported (as held or in use), of what
it was granted and has not acknowledged, and of what it is about to be granted. A charge grows only by what is free, so
that the sum never passes the limit, however messages and changes overlap; it falls only when the sidecar says so.

Slots are shared out by what sidecars want (max-min fairness: small wants are met, large ones share the rest evenly),
and what nobody wants is spread evenly, so that a request mostly finds a slot where it arrives. As long as everyone has
what it wants nothing is moved. When someone lacks slots, those who have more than their share are asked for them.

Where the sum of charges exceeds the limit all the same (the limit was lowered, sidecars came back with what they let in
while we were away), nobody is granted more until it has fallen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

# Responses that a sidecar may leave unacknowledged before the older ones are thrown together (the most counts).
MAX_UNSEEN: Final = 64


@dataclass(slots=True)
class Holder:
    """A sidecar's part of one rule.

    Attributes:
        grant: what it may have now; decided, and sent with the next response.
        until: when its slots are released, if its stream broke; None while it is connected.
        had_at: when it last was seen to have any.
        unseen: what it was granted, by nonce, since the response that it acknowledged last.
    """

    held: int = 0
    in_use: int = 0
    wanted: int = 0
    grant: int = 0
    until: float | None = None
    had_at: float = float("-inf")
    unseen: dict[int, int] = field(default_factory=dict)

    @property
    def charge(self) -> int:
        """What counts against the limit."""
        return max(self.held, self.in_use, self.grant, *self.unseen.values())

    @property
    def told(self) -> int:
        """What it may use by the last that it was told, or has said if it knows that."""
        return self.unseen[max(self.unseen)] if self.unseen else self.held

    @property
    def need(self) -> int:
        """What it would have if there were no limit."""
        return max(self.wanted, self.in_use)

    @property
    def lacks(self) -> bool:
        """Whether it is connected and has less than it needs."""
        return self.until is None and self.charge < self.need


@dataclass(slots=True)
class Book:
    """One rule's holders, by the name of their sidecar.

    Attributes:
        limit: the most slots that are out at once.
        settles_at: until then nobody is granted more than it came with, unless all who are `awaited` have reported.
    """

    limit: int
    holders: dict[str, Holder] = field(default_factory=dict)
    settles_at: float = 0.0
    awaited: frozenset[str] = frozenset()
    _back: set[str] = field(default_factory=set)  # who has reported since `settle`

    @property
    def charged(self) -> int:
        """What counts against the limit, in all."""
        return sum(holder.charge for holder in self.holders.values())

    @property
    def present(self) -> dict[str, Holder]:
        """Those that are connected."""
        return {name: holder for name, holder in self.holders.items() if holder.until is None}

    @property
    def needed(self) -> int:
        """What those that are connected would have if there were no limit."""
        return sum(holder.need for holder in self.present.values())

    @property
    def lacking(self) -> set[str]:
        """Those that are connected and have less than they need."""
        return {name for name, holder in self.holders.items() if holder.lacks}

    def settle(self, until: float, awaited: frozenset[str]) -> None:
        """Find out anew who holds what: after a start of the service others may hold what it has forgotten.

        Args:
            awaited: the sidecars that may hold slots.
        """
        self.settles_at, self.awaited = until, awaited
        self._back.clear()

    # --- What sidecars say ---

    def report(self, name: str, held: int, in_use: int, wanted: int, seen: int) -> bool:
        """Take a sidecar's report; whether it says anything new.

        Args:
            seen: nonce of the last response that it has applied.
        """
        holder = self.holders.get(name)
        if holder is None:
            holder = self.holders[name] = Holder()
            news = True
        else:
            news = (holder.held, holder.in_use, holder.wanted) != (held, in_use, wanted)
        if self.settles_at:
            self._back.add(name)
        before = holder.charge
        holder.held, holder.in_use, holder.wanted, holder.until = held, in_use, wanted, None
        for nonce in [nonce for nonce in holder.unseen if nonce <= seen]:
            del holder.unseen[nonce]
        return news or holder.charge != before

    def sent(self, name: str, nonce: int) -> int:
        """What the response `nonce`, which goes out now, grants to the sidecar."""
        holder = self.holders[name]
        if len(holder.unseen) >= MAX_UNSEEN:
            most = max(holder.unseen.values())
            holder.unseen = {max(holder.unseen): most}
        holder.unseen[nonce] = holder.grant
        return holder.grant

    def reconnected(self, name: str) -> bool:
        """A sidecar has opened a new stream: its next report says all that it has. Whether it was here before."""
        holder = self.holders.get(name)
        if holder is not None:
            # Nonces begin anew. What it was granted before counts until the report, which `report` then replaces.
            holder.held, holder.grant, holder.unseen = holder.charge, 0, {}
        return holder is not None

    def leave(self, name: str, until: float | None) -> None:
        """A sidecar's stream has ended; its slots are released at `until`, or now if that is None."""
        if until is None:
            self.holders.pop(name, None)
        elif (holder := self.holders.get(name)) is not None:
            holder.wanted, holder.until = 0, until

    def coming(self, name: str) -> int:
        """Slots that others than `name` have been asked for and do not use: they come back with the next message."""
        return sum(
            max(0, holder.charge - max(holder.grant, holder.in_use))
            for other, holder in self.holders.items()
            if other != name and holder.until is None
        )

    # --- What is decided ---

    def expire(self, now: float) -> bool:
        """Release what was kept for sidecars that did not come back; whether anything was."""
        gone = [name for name, holder in self.holders.items() if holder.until is not None and holder.until <= now]
        for name in gone:
            del self.holders[name]
        return bool(gone)

    def settled(self, now: float) -> bool:
        """Whether it is known who holds what."""
        return now >= self.settles_at or self.awaited <= self._back

    def allot(self, now: float) -> set[str]:
        """Decide the grants of all connected sidecars; the names of those whose grant has changed."""
        present, charged = self.present, self.charged
        kept = charged - sum(holder.charge for holder in present.values())
        shares = fair_shares(max(0, self.limit - kept), present)
        spare = (max(0, self.limit - kept) - sum(shares.values())) // max(1, len(present))
        settled = self.settled(now)
        free = self.limit - charged if settled else 0
        missing = sum(max(0, shares[name] - holder.charge) for name, holder in present.items())
        ask_back = charged > self.limit or (settled and missing > free)
        before = {name: holder.grant for name, holder in present.items()}
        for name, holder in present.items():
            ideal = shares[name] + spare
            holder.had_at = now if holder.charge else holder.had_at
            holder.grant = min(holder.charge, ideal) if ask_back else holder.charge
            if charged > self.limit:  # it may have given up already what still counts as its own
                holder.grant = min(holder.grant, holder.told)
        for goal in (shares, {name: share + spare for name, share in shares.items()}):
            free -= _raise(present, goal, free)
        return {name for name, holder in present.items() if holder.grant != before[name]}


def _raise(holders: Mapping[str, Holder], goals: Mapping[str, int], free: int) -> int:
    """Bring grants up to `goals` with what is free, who has least first; how much of it was taken."""
    taken = 0
    for name in sorted(holders, key=lambda name: (holders[name].charge, name)):
        holder = holders[name]
        more = min(goals[name] - holder.charge, free - taken)
        if more > 0:
            taken += more
            holder.grant = holder.charge + more
    return taken


def fair_shares(limit: int, holders: Mapping[str, Holder]) -> dict[str, int]:
    """`limit` divided by need: small needs are met, the others get even parts of what is left.

    What does not divide evenly goes first to those who have nothing (of them to who has waited longest), so that
    everyone gets a turn where there are fewer slots than sidecars, then to those who have most, so that it stays put.
    """
    shares: dict[str, int] = {}
    left, waiting = limit, len(holders)
    for name in sorted(holders, key=lambda name: holders[name].need):
        shares[name] = min(holders[name].need, left // waiting)
        if shares[name] < holders[name].need:
            break
        left -= shares[name]
        waiting -= 1
    even = left // max(1, waiting)
    short = [name for name in holders if shares.get(name, -1) < holders[name].need]
    shares |= dict.fromkeys(short, even)
    remainder = left - even * len(short)
    first = sorted(short, key=lambda name: _precedence(name, holders[name]))[:remainder]
    return shares | dict.fromkeys(first, even + 1)


def _precedence(name: str, holder: Holder) -> tuple[bool, float, float, str]:
    """Who comes first where there is not enough for all: smaller is sooner."""
    return holder.charge > 0, -holder.charge, holder.had_at, name
