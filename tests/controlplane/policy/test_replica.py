"""Several replicas of the policy service: together they lease out a rule once, whatever is lost, late or killed."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pymesh.policy_api import WHOLE_SHARE, Demand, LeaseRequest
from pymesh_controlplane.policy.replica import ADRIFT, fair_part
from pymesh_controlplane.policy.store import LEASE, MARGIN, SETTLE, Claim, Ledger, Peer, Transfer
from tests.controlplane.policy.replicas import LIMIT, NAMES, WEB, Mesh, Rates, Site

# Seconds after which a sidecar that hears nothing goes to another replica: a heartbeat, and its patience.
PATIENCE = 3.5


def test_everyone_has_a_fair_part() -> None:
    """What is needed, in fair shares; the rest by how many sidecars one has; nothing moves while nobody lacks any."""
    assert fair_part(12, Peer(0, 0, 1), [Peer(0, 0, 1), Peer(0, 0, 2)]) == 3
    assert fair_part(12, Peer(12, 0, 1), [Peer(0, 0, 1)]) == 12, "nobody lacks anything"
    assert fair_part(12, Peer(12, 2, 1), [Peer(0, 4, 1)]) == 2 + 3
    assert fair_part(12, Peer(12, 20, 1), [Peer(0, 20, 1), Peer(0, 1, 1)]) in {5, 6}
    assert fair_part(10, Peer(0, 99, 1), [Peer(0, 99, 4)]) == 2, "each sidecar has the same"
    assert fair_part(0, Peer(3, 3, 1), []) == 0
    assert fair_part(-2, Peer(3, 3, 0), []) == 0


def test_what_one_lacks_comes_from_the_other_replica() -> None:
    """All of the limit ends up where it is wanted."""
    mesh = Mesh()
    for index, sidecar in enumerate(mesh.sidecars.values()):
        mesh.connect(sidecar, mesh.sites[index % 3])
    mesh.settle()
    assert sum(sidecar.may for sidecar in mesh.sidecars.values()) >= 10
    hot = mesh.sidecars["a.default"]
    hot.wanted = 12
    mesh.tell(hot)
    mesh.settle()
    assert hot.may == 12
    for sidecar in mesh.sidecars.values():
        sidecar.wanted = 12
        mesh.tell(sidecar)
    mesh.settle()
    shares = sorted(sidecar.may for sidecar in mesh.sidecars.values())
    assert sum(shares) == 12
    assert shares[-1] - shares[0] <= 2, "fair but for what does not divide, here and among replicas"


def test_a_killed_replica_costs_nothing() -> None:
    """Its sidecars keep what they have at another one, at once, and its part is not missing meanwhile."""
    mesh = Mesh()
    for index, sidecar in enumerate(mesh.sidecars.values()):
        sidecar.wanted = 12
        mesh.connect(sidecar, mesh.sites[index % 3])
    mesh.settle()
    before = {name: sidecar.may for name, sidecar in mesh.sidecars.items()}
    assert sum(before.values()) == 12
    dead = mesh.sites.pop()
    for sidecar in mesh.sidecars.values():
        if sidecar.at is dead:
            mesh.connect(sidecar, mesh.sites[0])
            while sidecar.responses:
                mesh.apply(sidecar)
            assert sidecar.may == before[sidecar.name]
    mesh.settle()
    assert sum(sidecar.may for sidecar in mesh.sidecars.values()) == 12


def test_a_lapsed_lease_is_no_decision_until_the_store_is_back() -> None:
    """Before that, the allotment goes on."""
    mesh = Mesh()
    [sidecar, *_] = mesh.sidecars.values()
    mesh.connect(sidecar, mesh.sites[0])
    mesh.settle()
    [site, *_] = mesh.sites
    held = sidecar.may
    assert not site.replica.lapse("refused", mesh.now + LEASE - MARGIN - 0.001)
    mesh.now += LEASE - MARGIN
    assert site.replica.lapse("refused", mesh.now)
    assert "refused" in site.desk.respond(sidecar.name, mesh.now).grants[0].problem
    mesh.claim(site)
    assert site.desk.respond(sidecar.name, mesh.now).grants[0].problem == ""
    mesh.settle()
    assert sidecar.may >= held


def alone(*, held: int = 0, of: str = "") -> Site:
    """A replica with one sidecar that wants five slots."""
    site = Site.new("r1", 0.0)
    comes(site, held, of)
    return site


def comes(site: Site, held: int, of: str) -> None:
    demand = Demand(LIMIT, held, 0, 5)
    site.desk.hear("a.default", WEB, LeaseRequest("node", (demand,), replica=of), 0.0, new=True)


def test_what_a_sidecar_brings_along_is_told_once() -> None:
    """Told twice, it would be taken from that replica twice."""
    site = alone(held=3, of="r0")
    told = [claim.transferred for _ in range(2) for claim in site.replica.claims() if claim.rule == LIMIT]
    assert told == [{"r0": Transfer(3, 1)}, {}]


def test_who_comes_during_an_exchange_keeps_what_it_brings_along() -> None:
    """The store has not heard of it yet."""
    site = Site.new("r1", 0.0)
    claims = site.replica.claims()
    comes(site, 3, "r0")
    site.replica.take(claims, Ledger(born=-SETTLE).exchange("r1", claims, 0.0), 0.0)
    site.desk.decide(0.0)
    assert site.desk.respond("a.default", 0.0).grants[0].slots == 3


def test_who_waits_hears_at_once_that_the_store_has_nothing() -> None:
    """Until then it was told that something may come."""
    site, ledger = alone(), Ledger(born=-SETTLE)
    ledger.exchange("r0", [Claim(LIMIT, 12, 12, 12, 12, 1)], 0.0)
    claims = site.replica.claims()
    assert site.replica.wants_more
    assert site.replica.take(claims, ledger.exchange("r1", claims, 0.0), 0.0) == {"a.default"}
    assert not site.replica.wants_more
    assert site.replica.exhausted
    [grant] = site.desk.respond("a.default", 0.0).grants
    assert (grant.slots, grant.coming, grant.problem) == (0, 0, "")


def test_the_parts_of_a_rate_for_the_time_without_us_are_the_whole_over_all_replicas() -> None:
    """By need and evenly, as if all were at one."""
    mesh = Rates(60, 20, 0)
    shares = [mesh.tell(name, site, 0.0).share for name, site in zip(mesh.said, mesh.sites, strict=True)]
    third = WHOLE_SHARE / 3
    for share, need in zip(shares, (60, 20, 0), strict=True):
        assert share == pytest.approx((WHOLE_SHARE * need / 80 + third) / 2, abs=2)


def test_a_rate_that_runs_dry_while_the_store_is_silent_is_no_decision() -> None:
    """Tokens that are left are let out; those that are spent may be back by now, and nobody can say so."""
    mesh = Rates(30, 30)
    site, other = mesh.sites
    for each in mesh.sites:
        assert not each.replica.lapse("refused", ADRIFT)
    mesh.spend("a.default", 5)
    assert mesh.tell("a.default", site, ADRIFT).problem == ""
    for _ in range(20):
        if mesh.said["a.default"].held:
            mesh.spend("a.default", mesh.said["a.default"].held)
            mesh.tell("a.default", site, ADRIFT)
    assert "refused" in mesh.tell("a.default", site, ADRIFT).problem
    mesh.said["a.default"] = replace(mesh.said["a.default"], wanted=0)
    assert "refused" in mesh.tell("a.default", site, ADRIFT).problem, "though it counts no more, and wants nothing"
    assert mesh.tell("b.default", other, ADRIFT).problem == "", "it has tokens yet"

    mesh.said["a.default"] = replace(mesh.said["a.default"], wanted=30)
    assert "a.default" in mesh.claim(1.5), "it hears of it at once"
    assert mesh.tell("a.default", site, 1.5).problem == ""


def test_a_rate_that_runs_dry_while_a_new_store_settles_is_no_decision() -> None:
    """It was lost, and hears first what is out."""
    mesh = Rates(30, 30)
    [site, _] = mesh.sites
    mesh.ledger = Ledger(born=10.0)
    mesh.claim(10.0)
    assert mesh.tell("a.default", site, 10.0).problem == ""
    while mesh.said["a.default"].held:
        mesh.spend("a.default", mesh.said["a.default"].held)
        mesh.tell("a.default", site, 10.0)
    assert mesh.tell("a.default", site, 10.0).problem == "", "all of the burst is out or spent"
    for now in (10.0, 10.5, 10.5):
        mesh.claim(now)
    assert "is new" in mesh.tell("a.default", site, 10.5).problem
    assert "a.default" in mesh.claim(10.0 + SETTLE)
    assert mesh.tell("a.default", site, 10.0 + SETTLE).problem == ""


def test_a_rate_that_is_dry_is_a_decision_while_the_store_answers() -> None:
    """It is used up."""
    mesh = Rates(30)
    [site] = mesh.sites
    for _ in range(20):
        mesh.spend("a.default", mesh.said["a.default"].held)
        mesh.tell("a.default", site, 0.1)
        assert not site.replica.lapse("late", ADRIFT - 0.01)
    grant = mesh.tell("a.default", site, 0.1)
    assert (grant.slots, grant.problem) == (0, "")


# --- Any order of anything ------------------------------------------------------------------------------------------

_NAME = st.sampled_from(NAMES)
_SITE = st.integers(0, 2)


class Replicas(RuleBasedStateMachine):
    """Replicas that are killed, stopped, cut off from the store; sidecars that move; messages that wait.

    The store is reachable and time passes in small steps. Sidecars go on with what they have (LastDecision), and are
    with another replica within their patience.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mesh = Mesh()

    @rule(name=_NAME, wanted=st.integers(0, 15))
    def want(self, name: str, wanted: int) -> None:
        self.mesh.sidecars[name].wanted = wanted
        self.mesh.tell(self.mesh.sidecars[name])

    @rule(name=_NAME, more=st.integers(1, 12))
    def requests_arrive(self, name: str, more: int) -> None:
        sidecar = self.mesh.sidecars[name]
        sidecar.in_use = max(sidecar.in_use, min(sidecar.may, sidecar.in_use + more))

    @rule(name=_NAME, fewer=st.integers(1, 12))
    def requests_end(self, name: str, fewer: int) -> None:
        sidecar = self.mesh.sidecars[name]
        sidecar.in_use = max(0, sidecar.in_use - fewer)
        self.mesh.tell(sidecar)

    @rule(name=_NAME)
    def response_is_applied(self, name: str) -> None:
        self.mesh.apply(self.mesh.sidecars[name])
        self.mesh.tell(self.mesh.sidecars[name])

    @rule(name=_NAME, site=_SITE)
    def moves(self, name: str, site: int) -> None:
        """To another replica, or the same once more."""
        sidecar, to = self.mesh.sidecars[name], self.mesh.sites[site]
        if to.stopped:
            return
        before = sidecar.at
        if before is not None and not before.stopped and before is not to:
            before.desk.gone(name, self.mesh.now, properly=False)
        self.mesh.connect(sidecar, to)

    @rule(site=_SITE, lost=st.booleans())
    def claim(self, site: int, lost: bool) -> None:
        """Maybe the answer is lost."""
        if not self.mesh.sites[site].stopped:
            self.mesh.claim(self.mesh.sites[site], lost=lost)

    @rule(site=_SITE)
    def killed(self, site: int) -> None:
        """And another one takes its place; its sidecars know at once, and find someone later."""
        dead, self.mesh.sites[site] = self.mesh.sites[site], self.mesh.start()
        for sidecar in self.mesh.sidecars.values():
            if sidecar.at is dead:
                sidecar.at = None
                sidecar.responses.clear()

    @rule(site=_SITE)
    def stops(self, site: int) -> None:
        self.mesh.sites[site].stopped = True

    @rule(site=_SITE)
    def goes_on(self, site: int) -> None:
        """After any time; it finds that sidecars have left."""
        found = self.mesh.sites[site]
        if found.stopped:
            found.stopped = False
            found.desk.stood_still(self.mesh.now)
            for name in [name for name in found.desk.sidecars if self.mesh.sidecars[name].at is not found]:
                found.desk.gone(name, self.mesh.now, properly=False)
            self.mesh.decide(found)

    @rule(steps=st.integers(1, 12))
    def time_passes(self, steps: int) -> None:
        for _ in range(steps):
            self.mesh.now += 0.4
            for sidecar in self.mesh.sidecars.values():
                alive = [site for site in self.mesh.sites if not site.stopped]
                cut_off = sidecar.at is None or sidecar.at.stopped
                if cut_off and alive and self.mesh.now - sidecar.heard >= PATIENCE - 0.4:
                    self.mesh.connect(sidecar, alive[0])
                elif cut_off and not alive:
                    sidecar.may = sidecar.in_use = 0  # nobody to go to: that is the failure mode's business
                else:
                    self.mesh.tell(sidecar)
            for site in self.mesh.sites:
                if not site.stopped:
                    self.mesh.claim(site)

    @invariant()
    def never_more_than_the_limit(self) -> None:
        assert sum(sidecar.held for sidecar in self.mesh.sidecars.values()) <= 12


Replicas.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestReplicas = Replicas.TestCase
