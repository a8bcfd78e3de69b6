"""Which of a service's localities a caller prefers: priorities and weights of an endpoint assignment. Pure.

`distribute` gives the localities shares, for callers in a certain place. Without it, and with outlier detection, the
caller's own locality comes first, then its zone, then its region, then all others: without outlier detection a proxy
would never learn that it has to go elsewhere.

Source: istio.io/docs/tasks/traffic-management/locality-load-balancing, and Istio's
pilot/pkg/networking/core/loadbalancer.
"""

import math
from collections.abc import Sequence

from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from pymesh.resources.istio.destination_rule import (
    DestinationRule,
    LocalityDistribute,
    LocalityFailover,
    LocalityLoadBalancerSetting,
)
from pymesh_controlplane.pilot.model import NOWHERE, Locality
from pymesh_controlplane.pilot.policies import Policy, policies_of

_Group = endpoint_components_pb2.LocalityLbEndpoints
_NO_SETTING = LocalityLoadBalancerSetting()


def matter(rule: DestinationRule) -> bool:
    """Whether it makes a difference for `rule` where its callers stand."""
    return any(arranges(policy) for policy in policies_of(rule))


def arranges(policy: Policy) -> bool:
    """Whether localities differ in priority or weight."""
    setting = _setting(policy)
    if setting.enabled is False:
        return False
    return bool(setting.distribute) or policy.outlier_detection is not None


def arrange(assignment: endpoint_pb2.ClusterLoadAssignment, caller: Locality, policy: Policy) -> None:
    """Give the localities of `assignment` the priorities and weights that they have for `caller`."""
    if caller == NOWHERE or not arranges(policy):
        return
    setting = _setting(policy)
    if setting.distribute:
        _distribute(assignment, caller, setting.distribute)
    else:
        _fail_over(assignment.endpoints, caller, setting.failover)


def is_in(place: Locality, pattern: str) -> bool:
    """Whether `place` is in `region/zone/subzone`, where `*`, or what is left out at the end, is anywhere."""
    return all(part in {"*", have} for part, have in zip(pattern.split("/"), place, strict=False))


def overlap(one: str, other: str) -> bool:
    """Whether a place can be in both patterns."""
    return all(a == b or "*" in {a, b} for a, b in zip(one.split("/"), other.split("/"), strict=False))


def _setting(policy: Policy) -> LocalityLoadBalancerSetting:
    return (policy.load_balancer.locality_lb_setting if policy.load_balancer is not None else None) or _NO_SETTING


def _distribute(
    assignment: endpoint_pb2.ClusterLoadAssignment, caller: Locality, shares: Sequence[LocalityDistribute]
) -> None:
    """By the first of `shares` that is for `caller`; what it does not name gets nothing."""
    wanted = next((share.to for share in shares if is_in(caller, share.from_)), None)
    if wanted is None:
        return
    groups = list(assignment.endpoints)
    kept: list[_Group] = []
    for pattern, percent in sorted(wanted.items()):
        there = [group for group in groups if is_in(_locality(group), pattern)]
        groups = [group for group in groups if group not in there]
        total = sum(_weight(group) for group in there)
        for group in there:
            share = _weight(group) * percent / total
            if share:
                group.load_balancing_weight.value = math.ceil(share)
                kept.append(group)
    del assignment.endpoints[:]
    assignment.endpoints.extend(sorted(kept, key=_locality))


def _fail_over(groups: Sequence[_Group], caller: Locality, failover: Sequence[LocalityFailover]) -> None:
    distances = [_distance(caller, _locality(group), failover) for group in groups]
    # Priorities have no gaps: the nearest that there is comes first.
    priorities = {distance: priority for priority, distance in enumerate(sorted(set(distances)))}
    for group, distance in zip(groups, distances, strict=True):
        group.priority = priorities[distance]


def _distance(caller: Locality, place: Locality, failover: Sequence[LocalityFailover]) -> int:
    """0 in the same subzone, 1 in the zone, 2 in the region, 3 elsewhere, 4 where `failover` prefers another region."""
    if place.region != caller.region:
        preferred = next((item.to for item in failover if item.from_ == caller.region), None)
        return 3 if preferred in {None, place.region} else 4
    if place.zone != caller.zone:
        return 2
    return 0 if place.subzone == caller.subzone else 1


def _weight(group: _Group) -> int:
    return group.load_balancing_weight.value or 1


def _locality(group: _Group) -> Locality:
    return Locality(group.locality.region, group.locality.zone, group.locality.sub_zone)
