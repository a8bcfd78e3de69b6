"""What is said of the mesh's own services that are away."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from pymesh_controlplane.pilot import status
from pymesh_controlplane.pilot.away import Away, away, still_away
from tests.controlplane.pilot.worlds import BOOKINFO, world_of

RULES = """
---
apiVersion: policy.pymesh.io/v1alpha1
kind: ConcurrencyLimit
metadata: {name: reviews, namespace: default}
spec: {targetRefs: [{kind: Service, name: reviews}], max: 10}
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: reviews, namespace: default}
spec: {targetRefs: [{kind: Service, name: reviews}], requests: 3, per: Minute, failureMode: Open}
---
apiVersion: policy.pymesh.io/v1alpha1
kind: Check
metadata: {name: tickets, namespace: default}
spec: {targetRefs: [{kind: Service, name: reviews}], function: with_ticket}
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: tried, namespace: default}
spec: {targetRefs: [{kind: Service, name: reviews}], requests: 3, per: Minute, dryRun: true}
"""


def own(name: str, *, ready: bool) -> str:
    """One of the mesh's own services, with a pod that is ready or not."""
    return f"""
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: pymesh-system}}
spec: {{clusterIP: 10.96.9.9, selector: {{app: {name}}}, ports: [{{name: grpc-{name}, port: 9091}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: pymesh-system, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
endpoints: [{{addresses: [10.0.9.9], conditions: {{ready: {str(ready).lower()}}}}}]
ports: [{{name: grpc-{name}, port: 9091}}]
"""


def found(text: str) -> Iterator[Away]:
    return away(world_of(BOOKINFO + text))


def test_who_is_there_or_is_not_relied_on_is_not_away() -> None:
    assert list(found("")) == []
    assert list(found(own("policy", ready=False))) == [], "there is no rule"
    assert list(found(RULES + own("policy", ready=True) + own("telemetry", ready=True))) == []


def test_a_policy_service_without_a_ready_pod_is_away_and_failure_modes_say_what_that_means() -> None:
    (item,) = found(RULES + own("policy", ready=False))
    assert (item.service, item.why) == ("policy.pymesh-system", "none of its pods is ready")
    assert item.means.split("; ") == [
        "by Check default/tickets sidecars answer 503 (Closed)",
        "by ConcurrencyLimit default/reviews sidecars go by the last decision (LastDecision, else Closed)",
        "by RateLimit default/reviews sidecars let everything in (Open)",
        "by RateLimit default/tried sidecars refuse nobody (dryRun)",
    ]
    assert "pymesh logs policy -n pymesh-system" in item.remedy


def test_a_policy_service_that_was_left_out_is_away_only_where_there_are_rules() -> None:
    (item,) = found(RULES)
    assert (item.service, item.why) == ("policy.pymesh-system", "there is no such Service")
    assert "--without" in item.remedy


def test_a_collector_without_a_ready_pod_is_away() -> None:
    (item,) = found(own("telemetry", ready=False))
    assert item.service == "telemetry.pymesh-system"
    assert "pymesh requests" in item.means


@pytest.mark.parametrize("rules", [1, 7])
def test_only_some_rules_are_named(rules: int) -> None:
    (item,) = found("".join(RULES.replace("name: reviews,", f"name: reviews{number},") for number in range(rules)))
    assert (" and 2 more sidecars let" in item.means) == (rules == 7)


def test_who_is_away_is_so_since_the_first_time_in_a_row() -> None:
    there, lost = own("policy", ready=True), own("policy", ready=False)
    gone = still_away({}, world_of(BOOKINFO + RULES + lost), 1.0)
    assert list(gone.values()) == [1.0]
    gone = still_away(
        gone, world_of(BOOKINFO + RULES.replace("Open", "Closed") + lost + own("telemetry", ready=False)), 2.0
    )
    assert {item.service: since for item, since in gone.items()} == {
        "policy.pymesh-system": 1.0,
        "telemetry.pymesh-system": 2.0,
    }
    gone = still_away(gone, world_of(BOOKINFO + RULES + there), 3.0)
    assert gone == {}
    assert list(still_away(gone, world_of(BOOKINFO + RULES + lost), 4.0).values()) == [4.0]


def test_the_page_says_since_when() -> None:
    item = Away("policy.pymesh-system", "none of its pods is ready", "sidecars wait", "look")
    (told,) = status.awayz({item: 5.0}, lambda seconds: datetime.fromtimestamp(seconds, UTC))
    assert isinstance(told, dict)
    assert told["text"] == (
        "policy.pymesh-system is away since 1970-01-01T00:00:05.000+00:00: none of its pods is ready; meanwhile "
        "sidecars wait (look)"
    )
