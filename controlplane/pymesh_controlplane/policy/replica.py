"""One of several replicas of the policy service: what it claims of the store, and what its desk may lease out. Pure.

See store.py for the rules. What a replica asks for is its fair part: what its sidecars need, in fair shares where that
is not there for all, and of what nobody needs as much as it has sidecars.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pymesh_controlplane.policy.desk import Desk
from pymesh_controlplane.policy.shared import Shared
from pymesh_controlplane.policy.slots import Book
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
    _targets: dict[str, int] = field(default_factory=dict)  # by rule: our fair part, as of the last exchange
    _shared: Shared = field(init=False)

    def __post_init__(self) -> None:
        self._shared = self.desk.shared = Shared(self.name)

    def claims(self) -> list[Claim]:
        """What to say to the store now; from here on no more is leased out than is asked for in it."""
        claims = [self._claim(rule, book) for rule, book in self.desk.all_books().items()]
        self._shared.transferred.clear()
        return claims

    def _claim(self, rule: str, book: Book) -> Claim:
        charged, need = book.charged, book.needed
        asked = max(charged, self._targets.get(rule, need))
        book.limit = min(book.limit, asked)
        transferred = self._shared.transferred.get(rule, {})
        if (found := self.desk.rates.get(rule)) is None:
            limit, requests, period, spent = self.desk.maximum(rule), 0, 0, 0
        else:
            rate = found.tank.rate
            limit, requests, period, spent = rate.burst, rate.requests, rate.period, found.spent
        return Claim(rule, limit, charged, asked, need, len(book.present), requests, period, spent, transferred)

    def take(self, claims: Sequence[Claim], shares: Sequence[Share], started: float) -> set[str]:
        """The store has answered claims that were made at `started`; the sidecars that wait to hear of it."""
        shared = self._shared
        self.valid_until = started + LEASE - MARGIN
        waiting: set[str] = set()
        for claim, share in zip(claims, shares, strict=True):
            if claim.rule in self.desk.known:
                waiting |= self._take_share(claim, share)
        for rule in self._targets.keys() - self.desk.known:
            del self._targets[rule]
            shared.expected.pop(rule, None)
            shared.exhausted.discard(rule)
        shared.problem = shared.adrift = ""
        if any(_withheld(claim, share) for claim, share in zip(claims, shares, strict=True)):
            shared.adrift = "the store of counts is new, and finds out what is spent"
        elif shared.dry:
            waiting |= self.desk.sidecars.keys()
            shared.dry.clear()
        return waiting

    def _take_share(self, claim: Claim, share: Share) -> set[str]:
        """Go by our part of one rule; those who lack slots of it, if it is news that none are to be expected."""
        shared, rule = self._shared, claim.rule
        book, rate = self.desk.book(rule), self.desk.rates.get(rule)
        target = fair_part(share.level, Peer(share.allotted, claim.need, claim.sidecars), share.others)
        self._targets[rule] = target
        spent = 0 if rate is None else rate.spent - claim.spent
        book.limit = max(0, min(share.allotted, target) - spent)
        if rule in shared.transferred:  # more has come since, and is ours whether it fits or not
            book.limit = max(book.limit, book.charged)
        if rate is not None:
            rate.elsewhere = sum(peer.need for peer in share.others), sum(peer.sidecars for peer in share.others)
        lacking, before = book.lacking, shared.expected.get(rule, 0)
        expected = shared.expected[rule] = _may_come(target, share)
        if lacking and not expected:
            shared.exhausted.add(rule)
        else:
            shared.exhausted.discard(rule)
        self.desk.news(rule)
        return lacking if before and not expected else set()

    def lapse(self, why: str, now: float) -> bool:
        """Time goes by without an answer of the store, `why`: whether that has just cost us our allotments."""
        shared = self._shared
        if shared.problem or now < self.valid_until - (LEASE - MARGIN) + ADRIFT:
            return False
        shared.adrift = f"the store of counts is away: {why}"
        if now < self.valid_until:
            return False
        shared.problem = shared.adrift
        for book in self.desk.all_books().values():
            book.limit = 0
        return True

    @property
    def wants_more(self) -> bool:
        """Whether sidecars lack what the store may give, and has not said just now that it cannot."""
        return any(book.lacking for rule, book in self.desk.all_books().items() if rule not in self._shared.exhausted)

    @property
    def exhausted(self) -> bool:
        """Whether sidecars lack what the store did not have when it was last asked."""
        return bool(self._shared.exhausted)


def _withheld(claim: Claim, share: Share) -> bool:
    """Whether the store gives less than it has: only a new one does (SETTLE)."""
    return share.allotted < claim.asked and share.allotted + sum(peer.allotted for peer in share.others) < share.level


def _may_come(target: int, share: Share) -> int:
    """What others have idle, or nobody has, of what we should have: it comes with one of the next claims."""
    idle = sum(max(0, peer.allotted - peer.need) for peer in share.others)
    free = share.level - share.allotted - sum(peer.allotted for peer in share.others)
    return max(0, min(target - share.allotted, max(0, free) + idle))


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
