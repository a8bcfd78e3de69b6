"""What galley says of RateLimit and ConcurrencyLimit."""

import pytest

from pymesh.resources.parse import parse
from pymesh_controlplane.galley.check import check
from tests.controlplane.pilot.worlds import BOOKINFO, pod, service, world_of

POLICY = """
---
apiVersion: v1
kind: Service
metadata: {name: policy, namespace: pymesh-system}
spec: {clusterIP: 10.96.9.9, selector: {app: policy}, ports: [{name: grpc-policy, port: 9091}]}
"""


ATTRIBUTES = (
    "one of source.principal, source.namespace, source.serviceAccount, source.address, request.method, request.host, "
    "request.path, request.auth.principal, request.headers[NAME], request.path[TEMPLATE], request.auth.claims[NAME]"
)
NO_REVIEW = "there is no Service review in namespace default: it limits nothing there"
NO_LEASES = "only pymesh-proxy can hold leases: since reviews-envoy cannot, all ask about each request"
NO_SLOTS = "only pymesh-proxy can hold slots: the sidecars of reviews-envoy let in what comes"


def rate(spec: str, targets: str = "[{name: reviews}]") -> str:
    return f"""
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {{name: one, namespace: default}}
spec: {{targetRefs: {targets}, {spec}}}
"""


def slots(spec: str, targets: str = "[{name: reviews}]") -> str:
    return rate(spec, targets).replace("RateLimit", "ConcurrencyLimit")


def findings(*manifests: str, base: str = BOOKINFO + POLICY) -> list[str]:
    world = world_of(base + "".join(manifests))
    return [f"{item.severity.value} {item.path}: {item.sentence}" for item in check(world.resources.values(), world)]


def refused(manifest: str) -> list[str]:
    return [f"{error.path}: {error.problem}" for error in parse(manifest, "limits.yaml").errors]


def test_right_limits() -> None:
    assert (
        findings(rate("requests: 10, per: Minute, burst: 3, by: [source.principal, 'request.headers[x-user]']")) == []
    )
    assert findings(slots("max: 100, failureMode: Closed")) == []


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (rate("requests: 0, per: Minute"), "spec.requests: the number 0 is not a whole number from 1 to 1000000000"),
        (rate("requests: 1, per: Fortnight"), "spec.per: the text 'Fortnight' is not one of Day, Hour, Minute, Second"),
        (rate("requests: 1"), "spec.per: 'per' is missing in spec"),
        (
            rate("requests: 1, per: Day, burst: -1"),
            "spec.burst: the number -1 is not a whole number from 1 to 1000000000",
        ),
        (
            rate("requests: 1, per: Day, by: [source.ip]"),
            f"spec.by[0]: the text 'source.ip' is not {ATTRIBUTES}",
        ),
        (rate("requests: 1, per: Day", "[]"), "spec.targetRefs: a list with at least one target is needed"),
        (
            rate("requests: 1, per: Day", "[{kind: Deployment, name: reviews}]"),
            "spec.targetRefs[0].kind: the text 'Deployment' is not Service",
        ),
        (slots("max: 0"), "spec.max: the number 0 is not a whole number from 1 to 1000000"),
        (
            slots("max: 5, failureMode: Shut"),
            "spec.failureMode: the text 'Shut' is not one of Closed, LastDecision, Open",
        ),
        (
            slots("max: 5, otherwise: LastDecision"),
            "spec.otherwise: the text 'LastDecision' is not one of Closed, Open",
        ),
        (slots("max: 5, limit: 6"), "spec.limit: unknown field 'limit' in spec"),
    ],
)
def test_nonsense_is_refused_with_its_place(manifest: str, expected: str) -> None:
    assert refused(manifest) == [expected]


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (
            rate("requests: 2000000, per: Second"),
            "error spec.requests: more than 1000000 per second: nothing could keep count of that",
        ),
        (
            rate("requests: 5, per: Minute, by: [request.path, 'request.headers[A]', 'request.headers[a]']"),
            "error spec.by[2]: request.headers[a] is named above already",
        ),
        (
            rate("requests: 5, per: Minute, by: ['request.path[/{**}/{*}]']"),
            "error spec.by[0]: '/{**}/{*}' is no path template: nothing in braces may follow {**}",
        ),
        (
            rate("requests: 5, per: Minute, by: ['request.path[/{*}]', 'request.path[/{*}]']"),
            "error spec.by[1]: request.path[/{*}] is named above already",
        ),
        (
            rate("requests: 5, per: Minute, by: [source.principal], quota: Leased"),
            "error spec.quota: what is counted apart cannot be leased: leave it out, or say Asked",
        ),
        (
            rate("requests: 5, per: Minute, burst: 9"),
            "warning spec.burst: after a quiet time 9 come at once, more than the 5 per Minute",
        ),
        (
            rate("requests: 5, per: Minute", "[{name: reviews}, {name: reviews}]"),
            "error spec.targetRefs[1].name: Service reviews is named above already",
        ),
        (
            slots("max: 5", "[{name: review}]"),
            f"warning spec.targetRefs[0].name: {NO_REVIEW}; did you mean reviews?",
        ),
        (
            slots("max: 5, failureMode: Open, otherwise: Closed"),
            "warning spec.otherwise: has no effect with failureMode Open: LastDecision falls back to it",
        ),
        (
            service("db", "[{name: mysql, port: 3306}]", "10.96.0.50") + slots("max: 5", "[{name: db}]"),
            "warning spec.targetRefs[0]: no port of Service db carries HTTP: there are no requests to count",
        ),
        (
            pod("reviews-envoy", "10.244.0.99", "reviews").replace(
                "labels:", "annotations: {sidecar.pymesh.io/proxy: envoy}\n  labels:"
            )
            + slots("max: 5"),
            f"warning spec.targetRefs: {NO_SLOTS}",
        ),
        (
            pod("reviews-envoy", "10.244.0.99", "reviews").replace(
                "labels:", "annotations: {sidecar.pymesh.io/proxy: envoy}\n  labels:"
            )
            + rate("requests: 5, per: Minute, quota: Leased"),
            f"warning spec.quota: {NO_LEASES}",
        ),
    ],
)
def test_what_cannot_be_meant_is_told(manifest: str, expected: str) -> None:
    assert findings("---" + manifest) == [expected]


def test_without_a_policy_service_the_failure_modes_hold() -> None:
    (found,) = findings(slots("max: 5"), base=BOOKINFO)
    assert found == "warning spec: no policy service runs in this mesh: sidecars do what failureMode says"


NO_FUNCTION = "a function opening_hour with @check; did you mean opening_hours?: it is answered as failureMode says"
CODE = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pymesh, namespace: pymesh-system}
data:
  hours.py: |
    from pymesh.checks import allow, check
    @check
    def opening_hours(request):
        return allow()
    @check("by-name")
    def other(request):
        return allow()
    @property
    def no_check(request):
        return allow()
  broken.py: "def:"
"""


def asked(spec: str) -> str:
    return rate(spec).replace("RateLimit", "Check")


@pytest.mark.parametrize("function", ["opening_hours", "by-name"])
def test_right_checks(function: str) -> None:
    remember = "remember: {for: 30s, uses: 100, by: [source.principal]}"
    right = asked(f"function: {function}, timeout: 100ms, failureMode: LastDecision, {remember}")
    assert findings(right, CODE.replace('"def:"', '""')) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            "function: opening_hour",
            f"warning spec.function: no key NAME.py of ConfigMap pymesh-system/pymesh has {NO_FUNCTION}",
        ),
        (
            "function: by-name, timeout: 1s",
            "error spec.timeout: a function may take up to 100ms, not 1s",
        ),
        (
            "function: by-name, failureMode: LastDecision",
            "error spec.failureMode: LastDecision needs spec.remember.by: what last answers are told apart by",
        ),
        (
            "function: by-name, remember: {for: 25h, by: []}",
            "error spec.remember.for: nothing is remembered for more than 24h: 25h",
        ),
        (
            "function: by-name, remember: {for: 1s, by: [request.path, request.path]}",
            "error spec.remember.by[1]: request.path is named above already",
        ),
    ],
)
def test_checks_that_cannot_be_meant_are_told(spec: str, expected: str) -> None:
    broken = "error data.broken.py: this is no Python: line 1: invalid syntax"
    assert sorted(findings(asked(spec), CODE)) == sorted([expected, broken])


def test_a_check_that_names_nothing_is_refused() -> None:
    assert refused(asked("function: a b")) == [
        "spec.function: the text 'a b' is not the name of a function with @check"
    ]
    (missing,) = refused(asked("function: a, remember: {for: 1s}"))
    assert missing.startswith("spec.remember.by: 'by' is missing")
