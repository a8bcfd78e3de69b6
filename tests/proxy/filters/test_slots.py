"""The slots of one rule, without any network: who gets in, who waits, what is reported, whatever happens in between."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pymesh.policy_api import Grant
from pymesh_proxy.filters.slots import SlotRule, SlotSettings, spare
from pymesh_proxy.filters.standing import Mode
from pymesh_proxy.filters.waiting import MAX_WAITING, Refusal, give_up, lose
from pymesh_proxy.telemetry.policy_metrics import PolicyStats
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts

FACTS = Facts("inbound", "10.0.0.1:1", "10.0.0.2:2")


def request() -> RequestRecord:
    return RequestRecord(FACTS, 0.0, 0.0)


def unheard(_: object) -> None:
    """Nobody listens."""


def new(mode: Mode = Mode.LAST_DECISION, otherwise: Mode = Mode.CLOSED, limit: int = 10) -> SlotRule:
    return SlotRule(SlotSettings("r", limit, mode, otherwise), PolicyStats(), unheard)


def granted(slots: int, **more: str) -> Grant:
    return Grant("r", slots, 10, **more)  # type: ignore[arg-type]  # `problem` only


def test_before_the_first_answer_requests_wait() -> None:
    found = new()
    asking = request()
    assert not found.take(asking)
    assert found.waiting.refusal() is None
    told: list[Refusal | None] = []
    found.waiting.add(asking, told.append)
    assert found.report(0.0).wanted == 1
    found.answer(granted(1), now=0.0, in_time=True)
    assert told == [None]
    assert found.holders == {asking}


def test_an_answer_that_grants_less_than_was_wanted_refuses_those_who_wait_and_those_who_come() -> None:
    found = new()
    told: list[Refusal | None] = []
    for _ in range(3):
        found.waiting.add(request(), told.append)
    found.report(0.0)
    found.answer(granted(1), now=0.0, in_time=True)
    assert told == [None, Refusal.LIMIT, Refusal.LIMIT]
    assert found.waiting.refusal() is Refusal.LIMIT


def test_an_answer_that_knows_nothing_of_the_last_report_refuses_nobody() -> None:
    found = new()
    told: list[Refusal | None] = []
    for _ in range(3):
        found.waiting.add(request(), told.append)
    found.report(0.0)
    found.answer(granted(1), now=0.0, in_time=True, whole=False)
    assert told == [None]
    assert found.waiting.refusal() is None
    found.answer(granted(3), now=0.0, in_time=True)
    assert told == [None] * 3


def test_who_has_waited_in_vain_for_a_service_that_is_there_is_told_of_the_limit() -> None:
    found = new(Mode.CLOSED)
    asking = request()
    told: list[Refusal | None] = []
    found.waiting.add(asking, told.append)
    found.report(0.0)
    found.answer(granted(0), now=0.0, in_time=True, whole=False)
    give_up(found, asking)
    assert told == [Refusal.LIMIT]


def test_a_sidecar_that_has_all_there_is_refuses_without_asking() -> None:
    found = new(limit=2)
    found.answer(Grant("r", 2, 2), now=0.0, in_time=True)
    assert [found.take(request()) for _ in range(2)] == [True, True]
    assert found.waiting.refusal() is Refusal.LIMIT
    nothing = new(limit=0)
    nothing.answer(Grant("r", 0, 0), now=0.0, in_time=True)
    assert nothing.waiting.refusal() is Refusal.LIMIT


def test_requests_wait_for_slots_that_are_on_their_way() -> None:
    found = new(Mode.CLOSED)
    asking = request()
    told: list[Refusal | None] = []
    found.waiting.add(asking, told.append)
    found.report(0.0)
    found.answer(Grant("r", 0, 10, coming=6), now=0.0, in_time=True)
    assert not told
    assert found.waiting.refusal() is None, "the next one waits, too"
    found.answer(Grant("r", 5, 10), now=0.0, in_time=True)
    assert told == [None]


def test_a_rule_that_is_no_longer_in_force_keeps_nobody_out() -> None:
    found = new(Mode.CLOSED)
    told: list[Refusal | None] = []
    found.waiting.add(request(), told.append)
    found.retire()
    assert told == [None]
    assert found.take(request())
    assert found.note() == "r: let in, since it is no longer in force; 2 are in"
    found.configure(SlotSettings("r", 10, Mode.CLOSED, Mode.CLOSED))
    assert not found.take(request())


def test_a_rule_that_comes_back_has_no_slots_until_the_service_grants_some() -> None:
    """It has given them to others; what is in use is reported, and asked for at once."""
    asked: list[bool] = []
    found = SlotRule(SlotSettings("r", 10, Mode.CLOSED, Mode.CLOSED), PolicyStats(), asked.append)
    found.answer(granted(10), now=0.0, in_time=True)
    assert found.take(request())
    lose(found, "gone")
    found.retire()
    asked.clear()
    found.configure(SlotSettings("r", 10, Mode.CLOSED, Mode.CLOSED))
    assert asked == [True]
    assert not found.take(request())
    assert found.waiting.refusal() is None, "it waits for the service, of which nothing else is known"
    assert found.report(0.0).held == 1
    found.answer(granted(2), now=0.0, in_time=True)
    assert [found.take(request()) for _ in range(2)] == [True, False]


def test_those_who_wait_are_bounded() -> None:
    found = new()
    for _ in range(MAX_WAITING):
        found.waiting.add(request(), unheard)
    assert found.waiting.refusal() is Refusal.LIMIT


def test_a_late_answer_does_not_end_the_absence() -> None:
    found = new(Mode.CLOSED)
    lose(found, "no answer")
    found.answer(granted(5), now=0.0, in_time=False)
    assert found.standing.down
    assert found.waiting.refusal() is Refusal.AWAY
    found.answer(granted(5), now=0.0, in_time=True)
    assert found.take(request())


@pytest.mark.parametrize(
    ("mode", "otherwise", "before", "after"),
    [
        (Mode.OPEN, Mode.CLOSED, None, [True] * 5),
        (Mode.OPEN, Mode.CLOSED, 2, [True] * 5),
        (Mode.CLOSED, Mode.OPEN, None, [False] * 5),
        (Mode.CLOSED, Mode.OPEN, 2, [False] * 5),
        (Mode.LAST_DECISION, Mode.OPEN, None, [True] * 5),
        (Mode.LAST_DECISION, Mode.CLOSED, None, [False] * 5),
        (Mode.LAST_DECISION, Mode.OPEN, 2, [True, True, False, False, False]),
        (Mode.LAST_DECISION, Mode.CLOSED, 0, [False] * 5),
    ],
)
def test_failure_modes(mode: Mode, otherwise: Mode, before: int | None, after: list[bool]) -> None:
    found = new(mode, otherwise)
    if before is not None:
        found.answer(granted(before), now=0.0, in_time=True)
    lose(found, "gone")
    assert [found.take(request()) for _ in range(5)] == after
    if not after[-1]:
        decided = mode is Mode.LAST_DECISION and before is not None
        assert found.waiting.refusal() is (Refusal.LIMIT if decided else Refusal.AWAY)


def test_slots_asked_back_count_until_they_are_free() -> None:
    found = new()
    requests = [request() for _ in range(4)]
    found.answer(granted(5), now=0.0, in_time=True)
    assert all(found.take(each) for each in requests)
    assert found.report(0.0).held == 5
    found.answer(granted(2), now=0.0, in_time=True)
    assert bool(found.owes)  # one that was not in use
    assert found.report(0.0).held == 4
    assert not found.owes
    assert not found.take(request())
    for left, each in zip((3, 2, 2), requests, strict=False):
        found.release(each)
        assert found.report(0.0).held == left


def test_what_is_wanted_follows_the_traffic_and_forgets_it() -> None:
    found = new(limit=100)
    assert found.report(0.0).wanted == 0
    found.answer(Grant("r", 50, 100), now=0.0, in_time=True)
    requests = [request() for _ in range(20)]
    for each in requests:
        found.take(each)
    for each in requests:
        found.release(each)
    assert found.report(1.0).wanted == 26
    assert found.report(2.0).wanted == 26
    assert found.report(3.0).wanted == 0
    assert spare(0) == 0


def test_a_new_limit_is_asked_about_again() -> None:
    found = new()
    found.waiting.add(request(), unheard)
    found.report(0.0)
    found.answer(granted(0), now=0.0, in_time=True)
    assert bool(found.waiting.exhausted)
    found.configure(SlotSettings("r", 20, Mode.OPEN, Mode.CLOSED))
    assert not found.waiting.exhausted
    lose(found, "gone")
    assert found.take(request())


class Slots(RuleBasedStateMachine):
    """Requests come, wait, leave; grants come, too, and go; the service is lost and found."""

    def __init__(self) -> None:
        super().__init__()
        self.rule = new(Mode.LAST_DECISION, Mode.CLOSED)
        self.now = 0.0
        self.waiting: list[RequestRecord] = []
        self.inside: list[RequestRecord] = []
        self.told: dict[RequestRecord, list[Refusal | None]] = {}

    @rule()
    def come(self) -> None:
        asking = request()
        if self.rule.take(asking):
            assert len(self.inside) < self.rule.usable
            self.inside.append(asking)
        elif self.rule.waiting.refusal() is None:
            self.told[asking] = []
            self.waiting.append(asking)
            self.rule.waiting.add(asking, lambda refusal: self.tell(asking, refusal))

    def tell(self, asking: RequestRecord, refusal: Refusal | None) -> None:
        self.told[asking].append(refusal)
        self.waiting.remove(asking)
        if refusal is None:
            self.inside.append(asking)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ended = data.draw(st.sampled_from(self.inside))
        self.inside.remove(ended)
        self.rule.release(ended)
        self.rule.release(ended)  # a second time is no harm

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(gone)
        self.rule.release(gone)
        give_up(self.rule, gone)  # the timer comes late
        assert self.told[gone] == []

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        waited = data.draw(st.sampled_from(self.waiting))
        give_up(self.rule, waited)
        assert len(self.told[waited]) == 1

    @rule(slots=st.integers(0, 6), problem=st.sampled_from(["", "", "no such rule"]), in_time=st.booleans())
    def answer(self, slots: int, problem: str, in_time: bool) -> None:
        self.rule.report(self.now)
        self.rule.answer(Grant("r", 0 if problem else slots, 10, problem=problem), now=0.0, in_time=in_time)

    @rule(passed=st.floats(0, 2))
    def report(self, passed: float) -> None:
        self.now += passed
        demand = self.rule.report(self.now)
        assert demand.in_use == len(self.inside)
        assert demand.held >= demand.in_use
        assert demand.in_use <= demand.wanted <= max(10, demand.in_use)
        assert not self.rule.owes

    @rule()
    def lose(self) -> None:
        lose(self.rule, "gone")
        assert not self.waiting

    @rule(limit=st.integers(0, 10), mode=st.sampled_from(Mode))
    def configure(self, limit: int, mode: Mode) -> None:
        self.rule.configure(SlotSettings("r", limit, mode, Mode.OPEN))

    @rule()
    def retire(self) -> None:
        self.rule.retire()
        assert not self.waiting

    @invariant()
    def counts_agree(self) -> None:
        assert self.rule.holders == set(self.inside)
        assert list(self.rule.waiting.settles) == self.waiting
        assert all(len(told) <= 1 for told in self.told.values())

    @invariant()
    def nobody_waits_while_a_slot_is_free_or_none_will_come(self) -> None:
        if self.waiting:
            assert len(self.inside) >= self.rule.usable
            assert not self.rule.standing.down


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
