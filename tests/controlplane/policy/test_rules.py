"""Which rules a world has, and who may ask about them."""

from pymesh_controlplane.policy.rules import Rate, Rule, Slots, rules_by_host, rules_of
from tests.controlplane.pilot.worlds import BOOKINFO, pod, world_of

LIMITS = """
---
apiVersion: policy.pymesh.io/v1alpha1
kind: ConcurrencyLimit
metadata: {name: all, namespace: default}
spec: {targetRefs: [{name: reviews}, {name: ratings}], max: 100}
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: reviews, namespace: default}
spec: {targetRefs: [{name: reviews}], requests: 10, per: Minute, by: [source.principal], failureMode: Open}
"""
REVIEWS, RATINGS = "reviews.default.svc.cluster.local", "ratings.default.svc.cluster.local"


def test_a_world_without_limits_has_no_rules() -> None:
    rules = rules_of(world_of(BOOKINFO))
    assert (rules.epoch, rules.by_name, rules_by_host(world_of(BOOKINFO))) == ("", {}, {})


def test_rules_are_named_as_people_name_them() -> None:
    rules = rules_of(world_of(BOOKINFO + LIMITS))
    assert rules.by_name == {
        "ConcurrencyLimit default/all": Rule(
            "ConcurrencyLimit default/all", (RATINGS, REVIEWS), Slots(100), "LastDecision", "Closed"
        ),
        "RateLimit default/reviews": Rule(
            "RateLimit default/reviews", (REVIEWS,), Rate(10, 60, 10, ("source.principal",)), "Open", "Closed"
        ),
    }
    assert {
        host: [rule.name for rule in found] for host, found in rules_by_host(world_of(BOOKINFO + LIMITS)).items()
    } == {
        REVIEWS: ["ConcurrencyLimit default/all", "RateLimit default/reviews"],
        RATINGS: ["ConcurrencyLimit default/all"],
    }


def test_only_workloads_behind_the_targets_may_ask() -> None:
    """By account, and, for slots, those that have a sidecar of ours."""
    rules = rules_of(world_of(BOOKINFO + LIMITS + "---" + pod("reviews-out", "10.244.0.98", "reviews", mesh=False)))
    assert rules.accounts["RateLimit default/reviews"] == {"spiffe://cluster.local/ns/default/sa/reviews"}
    pods = rules.pods["RateLimit default/reviews"]
    assert rules.owners["reviews-v1.default"] == "spiffe://cluster.local/ns/default/sa/reviews"
    assert "reviews-v1.default" in pods
    assert not {"reviews-out.default", "ratings-1.default", "productpage-1.default"} & pods


def test_the_epoch_names_the_rules_and_nothing_else() -> None:
    """Pods may come and go."""
    epoch = rules_of(world_of(BOOKINFO + LIMITS)).epoch
    assert rules_of(world_of(BOOKINFO + LIMITS + "---" + pod("reviews-9", "10.244.0.97", "reviews"))).epoch == epoch
    assert rules_of(world_of(BOOKINFO + LIMITS.replace("max: 100", "max: 101"))).epoch != epoch


def test_endpoints_of_a_service_without_selector_are_behind_it() -> None:
    """Kubernetes leaves them to whoever writes the EndpointSlice."""
    manual = """
---
apiVersion: v1
kind: Service
metadata: {name: manual, namespace: default}
spec: {clusterIP: 10.96.0.60, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: manual-1, namespace: default, labels: {kubernetes.io/service-name: manual}}
addressType: IPv4
ports: [{name: http, port: 9080}]
endpoints: [{addresses: ['10.244.0.10']}]
"""
    rules = rules_of(world_of(BOOKINFO + manual + LIMITS.replace("{name: ratings}", "{name: manual}")))
    assert "productpage-1.default" in rules.pods["ConcurrencyLimit default/all"]


def test_what_some_sidecars_cannot_lease_all_ask_about() -> None:
    """Otherwise there would be two counts of one rate, and twice as much let in."""
    world = BOOKINFO + LIMITS.replace(", by: [source.principal]", ", quota: Leased")
    envoy = "---" + pod("reviews-envoy", "10.244.0.96", "reviews").replace(
        "labels:", "annotations: {sidecar.pymesh.io/proxy: envoy}\n  labels:"
    )
    name = "RateLimit default/reviews"
    for text, quota in ((world, "Leased"), (world + envoy, "Asked")):
        [by_host] = [rule for rule in rules_by_host(world_of(text))[REVIEWS] if rule.name == name]
        assert by_host.limit == rules_of(world_of(text)).by_name[name].limit == Rate(10, 60, 10, (), quota)
    ratings = envoy.replace("reviews", "ratings")
    assert rules_of(world_of(world + ratings)).by_name[name].limit == Rate(10, 60, 10, (), "Leased")
