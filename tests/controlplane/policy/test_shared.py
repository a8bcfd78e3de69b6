"""What a desk keeps for the store: what may still come, what sidecars brought along, what nobody can say."""

from pymesh.policy_api import Demand
from pymesh_controlplane.policy.quota import RateBook
from pymesh_controlplane.policy.rules import Rate
from pymesh_controlplane.policy.shared import Shared
from pymesh_controlplane.policy.slots import Book
from pymesh_controlplane.policy.store import Transfer

RULE = "ConcurrencyLimit default/web"


def test_who_wants_more_than_is_ours_may_expect_it_until_the_store_has_said_that_there_is_none() -> None:
    found = Shared("r1")
    for wanted in (2, 3):
        found.expect(Demand(RULE, 3, 0, wanted), Book(3))
        assert found.expected == {}, "it is all here"
    found.expect(Demand(RULE, 3, 0, 4), Book(3))
    assert found.expected == {RULE: 1}
    found.expected[RULE] = 5
    found.expect(Demand(RULE, 3, 0, 4), Book(3))
    assert found.expected == {RULE: 5}, "the store knows better"
    told = Shared("r1", exhausted={RULE})
    told.expect(Demand(RULE, 3, 0, 4), Book(3))
    assert told.expected == {}


def test_what_sidecars_bring_along_is_ours_and_by_whom_they_had_it_is_told() -> None:
    """Nothing is told of who comes from nowhere, or from us before."""
    found, book = Shared("r1"), Book(1)
    for name, origin, held, in_use in (("a", "r2", 4, 0), ("b", "r2", 1, 2), ("c", "r1", 3, 0), ("d", "", 2, 0)):
        book.report(name, held, in_use, 0, 0)
        found.account_for(Demand(RULE, held, in_use, 0), origin, book)
    assert book.limit == 4 + 2 + 3 + 2
    assert found.transferred == {RULE: {"r2": Transfer(6, 2)}}


def test_a_rate_is_undecided_for_all_once_it_has_run_out_while_the_store_is_silent() -> None:
    """Tokens that are left are given out; while the store answers it is decided, dry or not."""
    rate = RateBook.of(Rate(10, 1, 10), 0, shared=True)
    for name, held, wanted in (("a", 0, 5), ("b", 0, 0)):
        rate.report(name, Demand(RULE, held, 0, wanted), 0, 0)
    answers = Shared("r1")
    assert not answers.undecided("a", RULE, rate)
    silent = Shared("r1", adrift="no answer")
    assert not silent.undecided("b", RULE, rate), "it wants none"
    assert silent.undecided("a", RULE, rate)
    assert silent.undecided("b", RULE, rate)
    assert silent.dry == {RULE}
