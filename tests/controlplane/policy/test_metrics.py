"""The metrics of a replica."""

from prometheus_client import CollectorRegistry

from pymesh_controlplane.policy.checks import Limits
from pymesh_controlplane.policy.metrics import Counts, PolicyMetrics
from pymesh_controlplane.policy.rules import Rules
from tests.controlplane.policy.test_desk import LIMIT
from tests.controlplane.policy.test_pages import one_of_several


def test_the_limit_is_the_rules_and_not_the_part_of_one_replica() -> None:
    """Of a deleted rule, which is leased on for a while, the slots that there were."""
    desk, registry = one_of_several(), CollectorRegistry()
    registry.register(PolicyMetrics(Counts(), desk, Limits()))
    assert registry.get_sample_value("pymesh_policy_slots_limit", {"rule": LIMIT}) == 10
    desk.put(Rules("two"), 1.0)
    assert registry.get_sample_value("pymesh_policy_slots_limit", {"rule": LIMIT}) == 3
