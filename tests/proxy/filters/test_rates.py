"""A leased rate in one sidecar: what is let in is in stock, who finds nothing waits or is told when there is more."""

import pytest

from pymesh.policy_api import WHOLE_SHARE, Grant
from pymesh_proxy.filters.rates import RateRule, RateSettings
from pymesh_proxy.filters.standing import Mode
from pymesh_proxy.filters.waiting import Refusal, lose
from pymesh_proxy.telemetry.policy_metrics import PolicyStats
from pymesh_proxy.telemetry.record import RequestRecord
from tests.proxy.filters.test_slots import request

NAME = "RateLimit default/web"


def new(mode: Mode = Mode.LAST_DECISION, otherwise: Mode = Mode.CLOSED, asked: list[bool] | None = None) -> RateRule:
    settings = RateSettings(NAME, 100, 1, 100, mode, otherwise)
    return RateRule(settings, PolicyStats(), (asked if asked is not None else []).append)


def grant(slots: int, **more: int) -> Grant:
    return Grant(NAME, slots, 100, used=more.get("used", 0), share=more.get("share", 0), coming=more.get("coming", 0))


def at(seconds: float) -> RequestRecord:
    """A request that arrives at this time."""
    made = request()
    made.t_start = seconds
    return made


def test_each_request_spends_a_token_and_gives_nothing_back() -> None:
    found = new()
    found.answer(grant(2), now=0.0, in_time=True)
    first = request()
    assert found.take(first)
    found.release(first)
    assert found.take(request())
    assert not found.take(request())
    demand = found.report(0.0)
    assert (demand.held, demand.in_use, demand.used) == (0, 0, 2)
    assert found.stats.allowed == 2


def test_what_was_spent_since_the_report_is_taken_off_the_grant() -> None:
    found = new()
    found.answer(grant(10), now=0.0, in_time=True)
    for _ in range(4):
        found.take(request())
    found.report(0.0)
    for _ in range(3):
        found.take(request())
    found.answer(grant(10, used=4), now=0.0, in_time=True)
    assert found.stock == 7
    found.answer(grant(1, used=4), now=0.0, in_time=True)
    assert found.stock == -2, "asked back more than is left: that many are owed"
    assert not found.take(request())
    assert found.report(0.1).held == 0


def test_a_stream_counts_anew() -> None:
    found = new()
    found.answer(grant(3), now=0.0, in_time=True)
    found.take(request())
    found.begin_stream()
    demand = found.report(0.0)
    assert (demand.held, demand.used) == (2, 0)
    found.answer(grant(2), now=0.0, in_time=True)
    assert found.stock == 2


def test_it_asks_for_half_a_second_of_what_came_lately_and_again_when_half_is_spent() -> None:
    asked: list[bool] = []
    found = new(asked=asked)
    found.answer(grant(100), now=0.0, in_time=True)
    for _ in range(40):
        found.take(request())
    assert found.report(1.0).wanted == 40 + 11
    found.answer(grant(51, used=40), now=0.0, in_time=True)
    asked.clear()
    for _ in range(26):
        found.take(request())
    assert not asked
    found.take(request())
    assert asked == [False], "at 25, the half of 51, once"
    assert found.report(2.0).wanted == 27 + 7, "27 in the last second: half of it, and what came since"
    assert found.report(3.0).wanted == 0 or found.report(3.6).wanted < 10


def test_who_finds_none_waits_until_the_service_has_said_that_there_is_none() -> None:
    found = new()
    told: list[Refusal | None] = []
    assert found.waiting.refusal() is None
    found.waiting.add(request(), told.append)
    found.waiting.add(request(), told.append)
    found.report(0.0)
    found.answer(grant(1, coming=3), now=0.0, in_time=True)
    assert told == [None], "others have been asked for theirs"
    found.answer(Grant(NAME, 0, 100, used=1, retry_after=0.25), now=0.0, in_time=True)
    assert told == [None, Refusal.LIMIT]
    assert found.waiting.refusal() is Refusal.LIMIT
    sentence, fields = found.refused(0.0)
    assert "try again in 1 s" in sentence
    assert dict(fields)["retry-after"] == "1"


def test_what_was_refused_is_wanted() -> None:
    """So that the service shares out by what callers want, not by what they got."""
    found = new()
    found.report(0.0)
    found.answer(Grant(NAME, 0, 100), now=0.0, in_time=True, whole=True)
    found.waiting.exhausted = True
    for _ in range(20):
        assert not found.take(request())
        found.waiting.refusal()
    assert found.report(0.1).wanted == 20 + 6


@pytest.mark.parametrize(("mode", "taken"), [(Mode.OPEN, 50), (Mode.CLOSED, 0)])
def test_without_the_service_open_lets_in_and_closed_does_not(mode: Mode, taken: int) -> None:
    found = new(mode)
    found.answer(grant(3, share=WHOLE_SHARE), now=0.0, in_time=True)
    lose(found, "no answer")
    assert sum(found.take(request()) for _ in range(50)) == taken
    assert taken or found.waiting.refusal() is Refusal.AWAY
    assert "no answer" in found.standing.reason


def test_last_decision_goes_on_with_its_share_of_the_rate() -> None:
    """A quarter of 100 a second: what is in stock, half a second's worth at once, then 25 a second."""
    found = new()
    found.answer(grant(3, share=WHOLE_SHARE // 4), now=0.0, in_time=True)
    lose(found, "no answer")
    assert sum(found.take(at(10.0)) for _ in range(50)) == 3 + 12
    assert found.waiting.refusal() is Refusal.LIMIT
    assert sum(found.take(at(10 + step / 100)) for step in range(1, 401)) == 4 * 25
    assert found.stats.unavailable == {"last_decision": 115}
    assert "25.0% of the rate" in found.note()
    sentence, fields = found.refused(14.0)
    assert (sentence[-18:], dict(fields)["ratelimit"]) == ("; try again in 1 s", '"default/web";r=0;t=1')


def test_alone_it_tells_how_long_it_is_until_its_share_has_a_token() -> None:
    """Whatever the service had said before."""
    found = RateRule(RateSettings(NAME, 6, 60, 6, Mode.LAST_DECISION, Mode.CLOSED), PolicyStats(), lambda _: None)
    found.answer(Grant(NAME, 0, 6, share=WHOLE_SHARE // 2, retry_after=50.0), now=10.0, in_time=True)
    assert dict(found.refused(22.5)[1])["retry-after"] == "38"
    lose(found, "no answer")
    assert [found.take(at(time)) for time in (30.0, 35.0, 50.0, 61.3)] == [True, False, True, False]
    assert dict(found.refused(61.3)[1])["retry-after"] == "9"


def test_last_decision_without_one_is_the_other_mode() -> None:
    found = new(otherwise=Mode.OPEN)
    lose(found, "no answer")
    assert found.take(request())
    kept = new(otherwise=Mode.CLOSED)
    told: list[Refusal | None] = []
    waiting = request()
    kept.waiting.add(waiting, told.append)
    lose(kept, "no answer")
    assert told == [Refusal.AWAY]


def test_a_service_that_is_back_counts_again() -> None:
    found = new(Mode.OPEN)
    lose(found, "no answer")
    found.take(request())
    found.answer(grant(1), now=0.0, in_time=False)
    assert found.standing.down, "too late"
    found.answer(grant(1), now=0.0, in_time=True)
    assert not found.standing.down
    assert [found.take(request()) for _ in range(2)] == [True, False]


def test_a_rule_that_is_not_in_force_any_more_keeps_nobody_out() -> None:
    found = new(Mode.CLOSED)
    told: list[Refusal | None] = []
    found.waiting.add(request(), told.append)
    found.retire()
    assert told == [None]
    assert found.take(request())
    assert "no longer in force" in found.note()


def test_a_rule_that_comes_back_has_no_tokens_until_the_service_grants_some() -> None:
    """It has given them to others. What was spent stays spent, and a grant that counts it says what is left."""
    asked: list[bool] = []
    found = new(otherwise=Mode.OPEN, asked=asked)
    settings = RateSettings(NAME, 100, 1, 100, Mode.LAST_DECISION, Mode.OPEN)
    found.answer(grant(10), now=0.0, in_time=True)
    for _ in range(4):
        found.take(request())
    found.retire()
    asked.clear()
    found.configure(settings)
    assert asked == [True]
    assert not found.take(request())
    assert found.waiting.refusal() is None
    demand = found.report(0.0)
    assert (demand.held, demand.used) == (0, 4)
    found.answer(grant(6, used=4), now=0.0, in_time=True)
    assert found.stock == 6
    found.retire()
    found.configure(settings)
    lose(found, "no answer")
    assert found.standing.mode is Mode.OPEN, "there is no last decision of a rule that has come back"
