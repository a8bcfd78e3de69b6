"""The desk: who may be in which book, and what becomes of rules that come and go."""

from pymesh.policy_api import Demand, LeaseRequest
from pymesh_controlplane.policy.desk import SETTLE, Desk, totals
from pymesh_controlplane.policy.rules import Rate, Rule, Rules, Slots

WEB = "spiffe://cluster.local/ns/default/sa/web"
OTHER = "spiffe://cluster.local/ns/default/sa/other"
LIMIT = "ConcurrencyLimit default/web"
PODS = frozenset({"a.default", "b.default"})


def rules(most: int = 10, *, pods: frozenset[str] = PODS, epoch: str = "one") -> Rules:
    rule = Rule(LIMIT, ("web.default.svc.cluster.local",), Slots(most), "LastDecision", "Closed")
    rate = Rule("RateLimit default/web", rule.hosts, Rate(1, 1, 1, ("source.principal",)), "Open", "Closed")
    return Rules(
        epoch, {LIMIT: rule, rate.name: rate}, dict.fromkeys((LIMIT, rate.name), frozenset({WEB})), {LIMIT: pods}
    )


def desk(**more: frozenset[str]) -> Desk:
    made = Desk()
    made.put(rules(**more), 0.0)
    return made


def ask(
    at: Desk, name: str, *, now: float = 0.0, wanted: int = 0, held: int = 0, in_use: int = 0,
    account: str = WEB, rule: str = LIMIT, seen: int = 0, new: bool = False,
) -> tuple[int, str]:  # fmt: skip
    """A report, and the grant that answers it: slots and problem."""
    demand = Demand(rule, held, in_use, wanted)
    at.hear(name, account, LeaseRequest("node", (demand,), seen), now, new=new)
    at.decide(now)
    (grant,) = at.respond(name, 0.0).grants
    return grant.slots, grant.problem


def test_responses_are_numbered_and_name_the_epoch() -> None:
    """And hold the grants for the rules that were named, in that order, with the limit of all."""
    at = desk()
    at.hear("a.default", WEB, LeaseRequest("node", (Demand(LIMIT, 0, 0, 1),)), 0.0, new=True)
    at.decide(0.0)
    first, second = at.respond("a.default", 0.0), at.respond("a.default", 0.0)
    assert (first.epoch, first.nonce, second.nonce) == ("one", 1, 2)
    assert (first.heard, second.heard) == (1, 1)
    assert [(grant.rule, grant.slots, grant.limit) for grant in first.grants] == [(LIMIT, 10, 10)]


def test_a_rule_that_nobody_knows_is_no_decision_until_it_is_known() -> None:
    """The sidecar has heard of it before us."""
    at = Desk()
    assert ask(at, "a.default", new=True, wanted=3) == (0, f"the policy service knows of no {LIMIT}")
    at.put(rules(), 0.0)
    assert at.decide(0.0) == {"a.default"}
    assert at.respond("a.default", 0.0).grants[0].slots == 10


def test_a_rate_limit_that_is_asked_about_is_not_leased() -> None:
    """It counts for each caller, or its burst is over in no time."""
    assert "knows of no RateLimit" in ask(desk(), "a.default", rule="RateLimit default/web", new=True)[1]


def test_who_is_not_behind_a_service_holds_none_of_its_slots() -> None:
    """Whatever it says that it holds."""
    at = desk()
    slots, problem = ask(at, "x.default", account=OTHER, held=10, in_use=10, new=True)
    assert (slots, problem) == (0, f"x.default ({OTHER}) is no pod behind the targets of {LIMIT}")
    slots, problem = ask(at, "x.default", account=WEB, held=10, in_use=10, new=True)
    assert (slots, problem) == (0, f"x.default ({WEB}) is no pod behind the targets of {LIMIT}")
    assert ask(at, "a.default", wanted=10, new=True) == (10, "")


def test_a_pod_that_was_not_known_yet_holds_slots_once_it_is() -> None:
    """Its sidecar was faster than the news of it."""
    at = desk(pods=frozenset({"a.default"}))
    assert ask(at, "b.default", wanted=3, new=True)[1]
    at.put(rules(pods=PODS), 1.0)
    assert at.decide(1.0) == {"b.default"}
    assert at.respond("b.default", 0.0).grants[0].slots == 10


def test_who_no_longer_asks_about_a_rule_has_nothing_of_it() -> None:
    """Its filter is gone."""
    at = desk()
    ask(at, "a.default", wanted=10, new=True)
    at.hear("a.default", WEB, LeaseRequest("node"), 0.0, new=False)
    assert ask(at, "b.default", wanted=10, new=True)[0] == 10


def test_a_sidecar_that_comes_back_brings_what_it_holds() -> None:
    """A broken stream, another sidecar that wants all, and the same pod's new stream."""
    at = desk()
    ask(at, "a.default", wanted=6, in_use=0, new=True)
    ask(at, "a.default", held=10, in_use=6, wanted=6, seen=1)
    at.gone("a.default", 1.0, properly=False)
    assert ask(at, "b.default", now=1.1, wanted=10, new=True)[0] == 0, "all ten may be in use there"
    assert ask(at, "a.default", now=1.2, held=6, in_use=6, wanted=6, new=True)[0] <= 6
    at.decide(1.2)
    assert at.respond("b.default", 0.0).grants[0].slots == 4


def test_a_sidecar_that_comes_back_with_what_it_had_goes_on_with_it() -> None:
    """The same numbers on a new stream."""
    at = desk()
    ask(at, "a.default", wanted=3, new=True)
    ask(at, "a.default", held=10, wanted=3, seen=1)
    assert ask(at, "a.default", held=10, wanted=3, new=True) == (10, "")


def test_slots_of_a_sidecar_that_does_not_come_back_are_free_after_a_while() -> None:
    """Those of one that said goodbye at once."""
    at = desk()
    ask(at, "a.default", wanted=10, new=True)
    ask(at, "b.default", wanted=10, new=True)
    at.gone("a.default", 1.0, properly=False)
    assert at.decide(2.9) == set()
    assert at.decide(3.0) == {"b.default"}
    at.gone("b.default", 4.0, properly=True)
    assert at.books[LIMIT].holders == {}


def test_a_new_stream_is_numbered_anew() -> None:
    """What it acknowledges of the old one means nothing."""
    at = desk()
    for _ in range(5):
        ask(at, "a.default", wanted=1, new=True, seen=99)
    assert at.sidecars["a.default"].nonce == 1
    assert at.books[LIMIT].holders["a.default"].unseen == {1: 10}


def test_a_deleted_rule_is_leased_on_until_its_sidecars_have_heard_of_it() -> None:
    """Then it is not known any more; written again meanwhile, it is the same book."""
    at = desk()
    ask(at, "a.default", wanted=3, new=True)
    at.put(Rules("two"), 1.0)
    assert ask(at, "a.default", now=1.5, held=10, wanted=3, seen=1) == (10, "")
    at.put(rules(epoch="three"), 2.0)
    assert ask(at, "a.default", now=30.0, held=10, wanted=3, seen=2) == (10, "")
    at.put(Rules("four"), 31.0)
    assert "knows of no" in ask(at, "a.default", now=36.0, held=10, wanted=3, seen=3)[1]
    assert at.books == {}


def test_a_lower_limit_asks_slots_back() -> None:
    """The book is kept."""
    at = desk()
    ask(at, "a.default", wanted=9, new=True)
    at.put(rules(4), 1.0)
    assert at.decide(1.0) == {"a.default"}
    assert at.respond("a.default", 0.0).grants[0].slots == 4
    assert totals(at.books[LIMIT]) == {"granted": 4, "held": 10, "in_use": 0}


def test_after_a_start_those_who_may_hold_slots_are_waited_for() -> None:
    """Unless they are all there."""
    at, both = Desk(), frozenset({"a.default", "b.default"})
    at.put(rules(pods=both), 0.0, first=True)
    assert ask(at, "a.default", wanted=9, held=3, now=0.1, new=True)[0] == 3
    assert at.decide(SETTLE - 0.1) == set()
    assert at.decide(SETTLE) == {"a.default"}
    assert at.respond("a.default", 0.0).grants[0].slots == 10
    early = Desk()
    early.put(rules(pods=both), 0.0, first=True)
    ask(early, "a.default", wanted=9, held=3, now=0.1, new=True)
    assert ask(early, "b.default", now=0.2, new=True)[0] == 0
    early.decide(0.2)
    assert early.respond("a.default", 0.0).grants[0].slots == 9


def test_after_a_standstill_nobody_knows_who_holds_what_either() -> None:
    """Sidecars have gone on by themselves; those that come back are believed, and nobody else gets more before."""
    at, both = Desk(), frozenset({"a.default", "b.default"})
    at.put(rules(pods=both), 0.0)
    ask(at, "a.default", wanted=5, new=True)
    at.gone("a.default", 1.0, properly=False)
    at.stood_still(60.0)
    assert ask(at, "b.default", wanted=10, now=60.1, new=True)[0] == 0
    assert ask(at, "a.default", held=10, in_use=8, wanted=8, now=60.5, new=True)[0] >= 5
    at.decide(60.5)
    assert sum(holder.charge for holder in at.books[LIMIT].holders.values()) <= 10
