"""Rates and checks in Python together, by the rules of when they were asked about."""

from pymesh_controlplane.policy.metrics import Counts
from pymesh_controlplane.policy.questions import Questions
from pymesh_controlplane.policy.rules import Rate
from tests.controlplane.policy.test_checks import A, B, request, rules


async def test_a_rule_that_has_come_into_force_since_a_caller_was_let_ask_is_not_spent() -> None:
    questions = Questions(Counts(), lambda: 0.0)
    rate = Rate(1, 60, 1)
    questions.limits.put(rules(a=rate, b=rate), 0)
    decision = await questions.decide([A, B], request(), rules(a=rate))
    assert decision.rules == (A,)
    assert questions.limits.buckets[B].left((), 0) == 1
