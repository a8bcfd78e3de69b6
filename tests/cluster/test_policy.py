"""Limits that all sidecars keep together, with the policy service and without; and what galley does not let in."""

from collections import Counter

import pytest

from tests.cluster.cluster import (
    COMMAND,
    MANIFESTS,
    SYSTEM,
    apply,
    curl,
    get,
    kubectl,
    refused,
    rolled_out,
    sample,
)
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.usefixtures("workloads")

DETAILS = "http://details.bookinfo:9080/whoami"

UNKNOWN_FIELD = """
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: wrong, namespace: bookinfo}
spec: {targetRefs: [{kind: Service, name: details}], reqests: 3, per: Minute}
"""
NOT_YET = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wrong, namespace: bookinfo}
spec:
  hosts: [details]
  http:
    - fault: {abort: {httpStatus: 500}}
      route: [{destination: {host: details}}]
"""
MESH_CONFIG = """
apiVersion: v1
kind: ConfigMap
metadata: {name: pymesh, namespace: pymesh-system}
data: {mesh: "outboundTrafficPolicy: {mode: SOMETIMES}"}
"""


def asked(who: str, times: int) -> Counter[int]:
    """The answers to so many requests of one caller, by status."""
    return Counter(curl("pymesh-test", "client", DETAILS, "-H", f"x-who: {who}")[0] for _ in range(times))


def test_a_rate_limit_holds_and_its_failure_mode_decides_without_the_policy_service() -> None:
    apply(MANIFESTS / "limit.yaml")
    try:
        eventually_sync(lambda: asked("first", 5)[429], what="a refusal", timeout=COMMAND, interval=1)
        assert asked("second", 5) == {200: 3, 429: 2}
        kubectl("-n", SYSTEM, "scale", "deployment", "policy", "--replicas=0")
        kubectl("-n", SYSTEM, "wait", "--for=delete", "pod", "-l", "app=policy", "--timeout=60s", timeout=80)
        assert asked("third", 5) == {200: 5}
    finally:
        kubectl("-n", SYSTEM, "scale", "deployment", "policy", "--replicas=1")
        rolled_out(SYSTEM, "deployment/policy")
        eventually_sync(lambda: asked("fourth", 5)[429], what="a refusal again", timeout=COMMAND, interval=1)
        kubectl("delete", "-f", str(MANIFESTS / "limit.yaml"))
    eventually_sync(lambda: asked("second", 2) == {200: 2}, what="no limit any more", timeout=COMMAND, interval=1)


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        (UNKNOWN_FIELD, "ratelimit", "unknown field 'reqests' in spec; did you mean 'requests'?"),
        (NOT_YET, "virtualservice", "spec.http[0].fault: 'fault' is not supported yet"),
    ],
)
def test_galley_refuses_what_would_not_do_what_it_says(text: str, kind: str, sentence: str) -> None:
    why = refused("apply", "-f", "-", text=text)
    assert '"wrong" is invalid' in why
    assert sentence in why
    assert "wrong" not in {found["metadata"]["name"] for found in get(kind, "-n", "bookinfo")}


def test_galley_refuses_a_mesh_config_that_makes_no_sense() -> None:
    assert "SOMETIMES" in refused("apply", "-f", "-", text=MESH_CONFIG)


def test_galley_keeps_nobody_from_deleting() -> None:
    kubectl("delete", "destinationrule", "reviews", "-n", "bookinfo")
    apply(sample("bookinfo") / "routing.yaml")
