"""Replicas of the policy service with one store and sidecars, in steps: a test says what happens next."""

from collections import deque
from dataclasses import dataclass, field, replace

from pymesh.policy_api import Demand, Grant, LeaseRequest
from pymesh_controlplane.policy.desk import Desk
from pymesh_controlplane.policy.replica import Replica
from pymesh_controlplane.policy.rules import Rate, Rule, Rules, Slots
from pymesh_controlplane.policy.store import SETTLE, Ledger

WEB = "spiffe://cluster.local/ns/default/sa/web"
LIMIT = "ConcurrencyLimit default/web"
RATE = "RateLimit default/web"
NAMES = [f"{letter}.default" for letter in "abcde"]


def rules(most: int = 12) -> Rules:
    """A limit of so many slots and a rate of 100 a second, for the same service and every sidecar."""
    slots = Rule(LIMIT, ("web.default.svc.cluster.local",), Slots(most), "LastDecision", "Closed")
    rate = Rule(RATE, slots.hosts, Rate(100, 1, 100), "LastDecision", "Closed")
    both = (LIMIT, RATE)
    return Rules(
        "one", {LIMIT: slots, RATE: rate}, dict.fromkeys(both, frozenset({WEB})), dict.fromkeys(both, frozenset(NAMES))
    )


@dataclass
class Sidecar:
    """A sidecar as the protocol wants it, of one rule; `may` is what it was granted."""

    name: str
    may: int = 0
    in_use: int = 0
    wanted: int = 0
    seen: int = 0
    of: str = ""
    at: "Site | None" = None
    heard: float = 0.0
    responses: deque[tuple[int, int, str]] = field(default_factory=deque)

    @property
    def held(self) -> int:
        return max(self.may, self.in_use)

    def request(self) -> LeaseRequest:
        demand = Demand(LIMIT, self.held, self.in_use, self.wanted)
        return LeaseRequest("node", (demand,), self.seen, self.of)


@dataclass
class Site:
    """A replica's process."""

    replica: Replica
    stopped: bool = False

    @classmethod
    def new(cls, name: str, now: float) -> "Site":
        made = cls(Replica(Desk(), name))
        made.replica.desk.put(rules(), now, first=True)
        return made

    @property
    def desk(self) -> Desk:
        return self.replica.desk


class Mesh:
    """Three replicas, a store, and sidecars; what a step does is done at once, unless a test keeps it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.made = 0
        self.ledger = Ledger(born=-SETTLE)
        self.sites = [self.start() for _ in range(3)]
        self.sidecars = {name: Sidecar(name) for name in NAMES}

    def start(self) -> Site:
        self.made += 1
        return Site.new(f"r{self.made}", self.now)

    def decide(self, site: Site, *also: str) -> None:
        site.replica.lapse("late", self.now)
        for name in sorted({*site.desk.decide(self.now), *also}):
            if name in site.desk.sidecars and self.sidecars[name].at is site:
                response = site.desk.respond(name, self.now)
                [grant] = response.grants
                if not grant.problem:
                    self.sidecars[name].responses.append((response.nonce, grant.slots, response.replica))

    def tell(self, sidecar: Sidecar, *, new: bool = False) -> None:
        if sidecar.at is not None and not sidecar.at.stopped:
            sidecar.heard = self.now
            sidecar.at.desk.hear(sidecar.name, WEB, sidecar.request(), self.now, new=new)
            self.decide(sidecar.at, sidecar.name)

    def connect(self, sidecar: Sidecar, site: Site) -> None:
        sidecar.at, sidecar.seen = site, 0
        sidecar.responses.clear()
        self.tell(sidecar, new=True)

    def claim(self, site: Site, *, lost: bool = False) -> None:
        claims = site.replica.claims()
        shares = self.ledger.exchange(site.replica.name, claims, self.now)
        if not lost:
            waiting = site.replica.take(claims, shares, self.now)
            self.decide(site, *waiting)

    def apply(self, sidecar: Sidecar) -> None:
        if sidecar.responses:
            sidecar.seen, sidecar.may, sidecar.of = sidecar.responses.popleft()

    def settle(self, rounds: int = 12) -> None:
        for _ in range(rounds):
            self.now += 0.1
            for site in self.sites:
                self.claim(site)
            for sidecar in self.sidecars.values():
                while sidecar.responses:
                    self.apply(sidecar)
                self.tell(sidecar)


class Rates:
    """Replicas that lease out the rate, one sidecar each; time stands still unless a test moves it."""

    def __init__(self, *wanted: int) -> None:
        self.ledger = Ledger(born=-SETTLE)
        self.sites = [Site.new(f"r{number}", 0.0) for number in range(len(wanted))]
        self.said = {name: Demand(RATE, 0, 0, want) for name, want in zip(NAMES[: len(wanted)], wanted, strict=True)}
        self.seen = dict.fromkeys(self.said, 0)
        for name, site in zip(self.said, self.sites, strict=True):
            self.tell(name, site, 0.0, new=True)
        for _ in range(6):
            self.claim(0.0)
            for name, site in zip(self.said, self.sites, strict=True):
                self.tell(name, site, 0.0)

    def claim(self, now: float) -> set[str]:
        told: set[str] = set()
        for site in self.sites:
            claims = site.replica.claims()
            told |= site.replica.take(claims, self.ledger.exchange(site.replica.name, claims, now), now)
            site.desk.decide(now)
        return told

    def tell(self, name: str, site: Site, now: float, *, new: bool = False) -> Grant:
        """What it said last, once more; it takes what it is granted."""
        said = self.said[name]
        site.desk.hear(name, WEB, LeaseRequest("node", (said,), self.seen[name]), now, new=new)
        site.desk.decide(now)
        response = site.desk.respond(name, now)
        [grant] = response.grants
        self.seen[name] = response.nonce
        if not grant.problem:
            self.said[name] = replace(said, held=grant.slots)
        return grant

    def spend(self, name: str, count: int) -> None:
        said = self.said[name]
        self.said[name] = replace(said, held=said.held - count, used=said.used + count)
