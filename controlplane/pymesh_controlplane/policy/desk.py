"""The desk at which sidecars hold leases: all rules' books, and what each sidecar last said. Pure: time is an argument.

Slots (slots.py) and leased rates (quota.py) are asked for, granted and given back in the same words.

Sidecars are known by their pod, `pod.namespace`: a pod has one, also after its sidecar was started anew.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

from pymesh import policy_api
from pymesh.policy_api import Demand, Grant, LeaseRequest, LeaseResponse
from pymesh_controlplane.policy.buckets import nanoseconds
from pymesh_controlplane.policy.quota import RateBook, leased
from pymesh_controlplane.policy.rules import Code, Rules, Slots
from pymesh_controlplane.policy.shared import Shared
from pymesh_controlplane.policy.slots import Book

# Seconds after a start (or a standstill) of the service in which nobody is granted more than it comes with, unless all
# sidecars are there: a sidecar looks for the service every second.
SETTLE: Final = 2.0


@dataclass(slots=True)
class Sidecar:
    """What a connected sidecar said last, who it has proved to be (a SPIFFE URI), and how often it was heard."""

    account: str
    request: LeaseRequest
    nonce: int = 0
    heard: int = 0
    rules: frozenset[str] = frozenset()  # those in whose books it is


@dataclass(slots=True)
class Desk:
    """All books. `decide` brings the grants up to date after anything else was called.

    Attributes:
        sidecars: the connected ones.
        books: of the concurrency limits in force, and of those that were until a moment ago, by rule.
        rates: of the leased rates, likewise.
        shared: where this is one of several desks: what it may lease out is not the rule's, but its part of it
            (replica.py), and the limits of its books are set from there.
    """

    rules: Rules = field(default_factory=Rules)
    sidecars: dict[str, Sidecar] = field(default_factory=dict)
    books: dict[str, Book] = field(default_factory=dict)
    rates: dict[str, RateBook] = field(default_factory=dict)
    shared: Shared | None = None
    _behind: dict[str, tuple[frozenset[str], frozenset[str]]] = field(default_factory=dict)  # by rule: accounts, pods
    _lingering: dict[str, float] = field(default_factory=dict)  # by rule that was deleted: how long it is leased on
    _changed: set[str] = field(default_factory=set)  # rules whose grants are to be decided anew

    def put(self, rules: Rules, now: float, *, first: bool = False) -> None:
        """Go by other rules; books of rules that stay are kept. With the `first` ones others may hold slots."""
        self.rules = rules
        limits = {name: rule.limit for name, rule in rules.by_name.items()}
        leases = {name: limit for name, limit in limits.items() if not isinstance(limit, Code) and leased(limit)}
        for name in (self.books.keys() | self.rates.keys()) - leases.keys():
            self._lingering.setdefault(name, now + policy_api.LINGER)
        for name, limit in leases.items():
            if isinstance(limit, Slots):
                book = self.books.setdefault(name, Book(0))
                if self.shared is None:
                    book.limit = limit.max
            else:
                at = nanoseconds(now)
                self.rates.setdefault(name, RateBook.of(limit, at, shared=self.shared is not None)).change(limit, at)
            self._behind[name] = rules.accounts[name], rules.pods.get(name, frozenset())
            self._lingering.pop(name, None)
        if first and self.shared is None:
            self._settle_anew(now)
        for name, sidecar in self.sidecars.items():
            self._take(name, sidecar, now)
        self._changed |= self.books.keys() | self.rates.keys()

    def hear(self, name: str, account: str, request: LeaseRequest, now: float, *, new: bool) -> None:
        """Take the report of a sidecar; `new` if it is the first of a stream."""
        sidecar = self.sidecars.get(name)
        if sidecar is None or new:
            # Its grants are to be decided anew even if it reports what it reported before.
            self._changed |= {rule for rule, book in self.books.items() if book.reconnected(name)}
            self._changed |= {rule for rule, rate in self.rates.items() if rate.reconnected(name)}
            sidecar = Sidecar(account, request, rules=sidecar.rules if sidecar is not None else frozenset())
            self.sidecars[name] = sidecar
        sidecar.account, sidecar.request = account, request
        sidecar.heard += 1
        self._take(name, sidecar, now)
        if self.shared is not None:
            for demand in request.demands:
                if demand.rule in sidecar.rules:
                    book = self.book(demand.rule)
                    self.shared.expect(demand, book)
                    if sidecar.heard == 1:
                        self.shared.account_for(demand, request.replica, book)

    def gone(self, name: str, now: float, *, properly: bool) -> None:
        """A sidecar's stream has ended: its slots are free, or, if it broke, kept for its return."""
        if self.sidecars.pop(name, None) is not None:
            self._leave(name, self.known, None if properly else now + policy_api.RETURN_GRACE)
            for rate in self.rates.values() if properly else ():
                rate.forget(name)

    def stood_still(self, now: float) -> None:
        """The process was stopped for a while (SIGSTOP, a suspended machine): what is in the books may be long past."""
        if self.shared is None:
            self._settle_anew(now)
        for book in self.all_books().values():
            for holder in book.holders.values():
                if holder.until is not None:
                    holder.until = now + policy_api.RETURN_GRACE

    def decide(self, now: float) -> set[str]:
        """The sidecars whose grants have changed. To be called now and then, also if nothing was heard."""
        for name in [name for name, until in self._lingering.items() if until <= now]:
            del self._lingering[name], self._behind[name]
            self.books.pop(name, None)
            self.rates.pop(name, None)
        at = nanoseconds(now)
        for name, book in self.books.items():
            if book.expire(now):
                self._changed.add(name)
        for name, rate in self.rates.items():
            if rate.expire(now, at) | (rate.due(at) and rate.refresh(at)):
                self._changed.add(name)
        for name, book in self.all_books().items():
            if book.settles_at and book.settled(now):
                book.settles_at = 0.0
                self._changed.add(name)
        changed: set[str] = set()
        for name in self._changed:
            if name in self.books:
                changed |= self.books[name].allot(now)
            elif name in self.rates:
                changed |= self.rates[name].allot(now)
        self._changed.clear()
        return changed

    def respond(self, name: str, now: float) -> LeaseResponse:
        """The next response for a connected sidecar: for every rule that it named."""
        sidecar = self.sidecars[name]
        sidecar.nonce += 1
        grants = tuple(self._grant(name, sidecar, demand.rule, now) for demand in sidecar.request.demands)
        replica = self.shared.replica if self.shared is not None else ""
        return LeaseResponse(self.rules.epoch, grants, sidecar.nonce, sidecar.heard, replica)

    def _grant(self, name: str, sidecar: Sidecar, rule: str, now: float) -> Grant:
        if rule not in self.known:
            return Grant(rule, 0, 0, problem=f"the policy service knows of no {rule}")
        if rule not in sidecar.rules:
            problem = f"{name} ({sidecar.account}) is no pod behind the targets of {rule}"
            return Grant(rule, 0, self.book(rule).limit, problem=problem)
        if self.problem:
            return Grant(rule, 0, self.maximum(rule) if rule in self.books else 0, problem=self.problem)
        rate, shared = self.rates.get(rule), self.shared
        if rate is not None:
            if shared is not None and shared.undecided(name, rule, rate):
                return Grant(rule, 0, 0, problem=shared.adrift)
            grant = rate.grant(rule, name, sidecar.nonce, nanoseconds(now))
        else:
            book = self.books[rule]
            slots = book.sent(name, sidecar.nonce)
            grant = Grant(rule, slots, self.maximum(rule), policy_api.RETURN_GRACE, coming=book.coming(name))
        expected = shared.expected.get(rule, 0) if shared is not None else 0
        return replace(grant, coming=grant.coming + expected) if expected else grant

    def _take(self, name: str, sidecar: Sidecar, now: float) -> None:
        """Enter what a sidecar said last into the books that it may be in, and strike it from the others."""
        seen = min(sidecar.request.seen, sidecar.nonce)
        reported: set[str] = set()
        for demand in sidecar.request.demands:
            if demand.rule not in self.known or not self._is_behind(name, sidecar.account, demand.rule):
                continue
            reported.add(demand.rule)
            if self._report(name, demand, seen, now):
                self._changed.add(demand.rule)
        self._strike(name, self.known - reported, now)
        sidecar.rules = frozenset(reported)

    def _report(self, name: str, demand: Demand, seen: int, now: float) -> bool:
        """Whether it says anything new."""
        if (rate := self.rates.get(demand.rule)) is not None:
            return rate.report(name, demand, seen, nanoseconds(now))
        return self.books[demand.rule].report(name, demand.held, demand.in_use, demand.wanted, seen)

    def _is_behind(self, name: str, account: str, rule: str) -> bool:
        """Whether the pod may hold slots of the rule: not all that run under an account are behind one service."""
        accounts, pods = self._behind[rule]
        return account in accounts and name in pods

    def _leave(self, name: str, rules: Iterable[str], until: float | None) -> None:
        for rule in rules:
            if name in (book := self.book(rule)).holders:
                book.leave(name, until)
                self._changed.add(rule)

    def _strike(self, name: str, rules: Iterable[str], now: float) -> None:
        """A sidecar names these rules no more."""
        for rule in rules:
            if name not in (book := self.book(rule)).holders:
                continue
            if rule in self.rates:
                self.rates[rule].strike(name, nanoseconds(now))
            else:
                book.leave(name, None)
            self._changed.add(rule)

    # --- The rules that are leased ---

    @property
    def known(self) -> AbstractSet[str]:
        """Their names."""
        return self.books.keys() | self.rates.keys()

    def book(self, rule: str) -> Book:
        """The book of the slots, or of the stocks, of a rule that is known."""
        return self.books[rule] if rule in self.books else self.rates[rule].book

    def all_books(self) -> Mapping[str, Book]:
        """The books of slots and of stocks, by rule."""
        return self.books | {name: rate.book for name, rate in self.rates.items()}

    def maximum(self, rule: str) -> int:
        """Slots in all; as they were, of a rule that is not in force any more."""
        found = self.rules.by_name.get(rule)
        limit = found.limit if found is not None else None
        return limit.max if isinstance(limit, Slots) else self.books[rule].limit

    @property
    def problem(self) -> str:
        """Why nothing can be decided; empty when all is well."""
        return self.shared.problem if self.shared is not None else ""

    def news(self, rule: str) -> None:
        """A book's limit was set anew."""
        self._changed.add(rule)

    def _settle_anew(self, now: float) -> None:
        for name, book in self.all_books().items():
            book.settle(now + SETTLE, self.rules.pods.get(name, frozenset()))
            self._changed.add(name)


def totals(book: Book) -> Mapping[str, int]:
    """What is out: `granted` (may be used), `held` (counts against the limit), `in_use` (requests in the app)."""
    holders = book.holders.values()
    return {
        "granted": sum(holder.grant for holder in holders),
        "held": book.charged,
        "in_use": sum(holder.in_use for holder in holders),
    }
