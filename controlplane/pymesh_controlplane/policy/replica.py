"""One of several replicas of the policy service: what it claims of the store, and what its desk may lease out. Pure.

See store.py for the rules. What a replica asks for is its fair part: what its sidecars need, in fair shares where that
is not there for all, and of what nobody needs as much as it has sidecars.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pymesh_controlplane.policy.desk import Desk
from pymesh_controlplane.policy.slots import Book, Holder
from pymesh_controlplane.policy.store import LEASE, MARGIN, Claim, Peer, Share

# Seconds without an answer of the store after which rates that have run out of tokens are not decided here any more:
# one claim at least, of two a second, has failed by then.
ADRIFT: Final = 1.0


@dataclass(slots=True)
class Replica:
    """The allotments of this replica, kept as the limits of its desk's books.

    Attributes:
        name: of this process and no other, ever.
        valid_until: when the allotments have lapsed, by our clock.
    """

    desk: Desk
    name: str
    valid_until: float = float("-inf")
    _goals: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.desk.shared, self.desk.replica = True, self.name
        self.desk.problem = "the store of counts has not been reached yet"

    def claims(self) -> list[Claim]:
        """What to say to the store now; from here on no more is leased out than is asked for in it."""
        claims: list[Claim] = []
        for rule, book in self.desk.all_books().items():
            charged, need, sidecars = _out(book)
            asked = max(charged, self._goals.get(rule, need))
            book.limit = min(book.limit, asked)
            rate = self.desk.rates.get(rule)
            if rate is None:
                claim = Claim(rule, self.desk.maximum(rule), charged, asked, need, sidecars)
            else:
                of = rate.tank.rate
                claim = Claim(rule, of.burst, charged, asked, need, sidecars, of.requests, of.period, rate.spent)
            claims.append(replace(claim, moved=self.desk.moved.pop(rule, {})))
        self.desk.moved.clear()
        return claims

    def take(self, claims: Sequence[Claim], shares: Sequence[Share], started: float) -> set[str]:
        """The store has answered claims that were made at `started`; the sidecars that wait to hear of it."""
        waiting: set[str] = set()
        self.valid_until = started + LEASE - MARGIN
        books = self.desk.all_books()
        for claim, share in zip(claims, shares, strict=True):
            book, rate = books.get(claim.rule), self.desk.rates.get(claim.rule)
            if book is None:
                continue
            spent = 0 if rate is None else rate.spent - claim.spent
            goal = fair_part(share.level, Peer(share.allotted, claim.need, claim.sidecars), share.others)
            self._goals[claim.rule] = goal
            book.limit = max(0, min(share.allotted, goal) - spent)
            if rate is not None:
                rate.elsewhere = sum(peer.need for peer in share.others), sum(peer.sidecars for peer in share.others)
            if claim.rule in self.desk.moved:  # more has come since, and is ours whether it fits or not
                book.limit = max(book.limit, _out(book)[0])
            lacking = {name for name, holder in book.holders.items() if _lacks(holder)}
            hoped, self.desk.hopes[claim.rule] = self.desk.hopes.get(claim.rule, 0), _hope(goal, share)
            if hoped and not self.desk.hopes[claim.rule]:
                waiting |= lacking
            (self.desk.barren.add if lacking and not self.desk.hopes[claim.rule] else self.desk.barren.discard)(
                claim.rule
            )
            self.desk.news(claim.rule)
        for rule in self._goals.keys() - books.keys():
            del self._goals[rule]
            self.desk.hopes.pop(rule, None)
            self.desk.barren.discard(rule)
        self.desk.problem = self.desk.adrift = ""
        if any(_withheld(claim, share) for claim, share in zip(claims, shares, strict=True)):
            self.desk.adrift = "the store of counts is new, and finds out what is spent"
        elif self.desk.dry:
            waiting |= self.desk.sidecars.keys()
            self.desk.dry.clear()
        return waiting

    def lapse(self, why: str, now: float) -> bool:
        """Time goes by without an answer of the store, `why`: whether that has just cost us our allotments."""
        if self.desk.problem or now < self.valid_until - (LEASE - MARGIN) + ADRIFT:
            return False
        self.desk.adrift = f"the store of counts is away: {why}"
        if now < self.valid_until:
            return False
        self.desk.problem = self.desk.adrift
        for book in self.desk.all_books().values():
            book.limit = 0
        return True

    @property
    def restless(self) -> bool:
        """Whether sidecars lack what the store may give, and has not said just now that it cannot."""
        return any(
            _lacks(holder)
            for rule, book in self.desk.all_books().items()
            if rule not in self.desk.barren
            for holder in book.holders.values()
        )


def _out(book: Book) -> tuple[int, int, int]:
    present = [holder for holder in book.holders.values() if holder.until is None]
    charged = sum(holder.charge for holder in book.holders.values())
    return charged, sum(holder.need for holder in present), len(present)


def _lacks(holder: Holder) -> bool:
    return holder.until is None and holder.charge < holder.need


def _withheld(claim: Claim, share: Share) -> bool:
    """Whether the store gives less than it has: only a new one does (SETTLE)."""
    return share.allotted < claim.asked and share.allotted + sum(peer.allotted for peer in share.others) < share.level


def _hope(goal: int, share: Share) -> int:
    """What others have idle, or nobody has, of what we should have: it comes with one of the next claims."""
    idle = sum(max(0, peer.allotted - peer.need) for peer in share.others)
    free = share.level - share.allotted - sum(peer.allotted for peer in share.others)
    return max(0, min(goal - share.allotted, max(0, free) + idle))


def fair_part(level: int, mine: Peer, others: Sequence[Peer]) -> int:
    """What of `level` this replica should have; at least what it has, as long as nobody lacks anything for it.

    Needs are met in fair shares for each sidecar, wherever it is connected.
    """
    peers = sorted([*others, mine], key=lambda peer: (peer.need / max(1, peer.sidecars), peer is mine))
    left, heads = max(0, level), sum(peer.sidecars for peer in peers)
    spare_heads, shares = heads, []
    for peer in peers:
        share = min(peer.need, left * peer.sidecars // heads) if heads else 0
        shares.append(share)
        left, heads = left - share, heads - peer.sidecars
    part = shares[next(index for index, peer in enumerate(peers) if peer is mine)]
    part += left * mine.sidecars // spare_heads if spare_heads else 0
    free = level - sum(peer.allotted for peer in peers)
    lacking = sum(max(0, share - peer.allotted) for share, peer in zip(shares, peers, strict=True))
    return part if lacking > free else max(part, mine.allotted)
