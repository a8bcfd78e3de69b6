"""The page /policy of one replica of several."""

from typing import Any

from pymesh_controlplane.policy.checks import Limits
from pymesh_controlplane.policy.desk import Desk
from pymesh_controlplane.policy.metrics import Counts
from pymesh_controlplane.policy.pages import status
from pymesh_controlplane.policy.shared import Shared
from tests.controlplane.policy.test_desk import LIMIT, rules


def one_of_several() -> Desk:
    """A desk that may lease out 3 of the rule's 10 slots."""
    made = Desk(shared=Shared("r1", problem=""))
    made.put(rules(), 0.0)
    made.books[LIMIT].limit = 3
    return made


def test_the_most_is_the_rules_and_not_the_part_of_one_replica() -> None:
    desk, limits = one_of_several(), Limits()
    limits.put(desk.rules, 0)
    shown: Any = status(desk.rules, desk, limits, Counts())
    assert [rule["max"] for rule in shown["rules"] if rule["rule"] == LIMIT] == [10]
