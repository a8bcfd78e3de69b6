"""DestinationRules: outlier detection, consistent hashing, localities, idle times; as Istio translates them."""

from collections.abc import Mapping

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from pymesh.xds import types
from pymesh.xds.check import check
from pymesh_controlplane.pilot.localities import is_in
from pymesh_controlplane.pilot.model import Locality
from tests.controlplane.pilot.worlds import BOOKINFO, pod, resources_for, service, sidecar, slice_of, world_of

RATINGS = "outbound|9080||ratings.default.svc.cluster.local"
# A database: what is spoken on its port is no HTTP.
DATABASE = "---".join(
    [service("db", "[{name: tcp-sql, port: 5432}]", "10.96.0.20"), pod("db-1", "10.244.0.20", "db", port=5432),
     slice_of("db", "10.244.0.20", port=5432, port_name="tcp-sql")]
)  # fmt: skip


def rule(policy: str, host: str = "ratings", subsets: str = "[]", namespace: str = "default") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: more, namespace: {namespace}}}
spec: {{host: {host}, trafficPolicy: {policy}, subsets: {subsets}}}
"""


def sent(text: str, ip: str = "10.244.0.10") -> Mapping[str, Mapping[str, Message]]:
    """What a sidecar is sent; all of it has to be what pymesh-proxy takes."""
    found = resources_for(sidecar(ip), world_of(text))
    for resources in found.values():
        for message in resources.values():
            check(message)
    return found


def cluster(text: str, name: str = RATINGS) -> Cluster:
    found = sent(text)[types.CLUSTER][name]
    assert isinstance(found, Cluster)
    return found


# --- Outlier detection ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{}", {}),
        ("{consecutive5xxErrors: 3, interval: 5s, baseEjectionTime: 1m, maxEjectionPercent: 50}",
         {"consecutive5xx": 3, "enforcingConsecutive5xx": 100, "interval": "5s", "baseEjectionTime": "60s",
          "maxEjectionPercent": 50}),
        ("{consecutive5xxErrors: 0, consecutiveGatewayErrors: 2}",
         {"consecutive5xx": 0, "enforcingConsecutive5xx": 0, "consecutiveGatewayFailure": 2,
          "enforcingConsecutiveGatewayFailure": 100}),
        ("{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 4}",
         {"splitExternalLocalOriginErrors": True, "enforcingLocalOriginSuccessRate": 0,
          "consecutiveLocalOriginFailure": 4, "enforcingConsecutiveLocalOriginFailure": 100}),
    ],
)  # fmt: skip
def test_outlier_detection(written: str, expected: dict[str, object]) -> None:
    found = cluster(BOOKINFO + rule(f"{{outlierDetection: {written}}}"))
    assert MessageToDict(found.outlier_detection) == {"enforcingSuccessRate": 0, **expected}
    assert found.common_lb_config.healthy_panic_threshold.value == 0
    assert found.common_lb_config.HasField("healthy_panic_threshold"), "or it would be half of the endpoints"


def test_without_it_nobody_is_watched() -> None:
    found = cluster(BOOKINFO)
    assert not found.HasField("outlier_detection")
    assert not found.HasField("common_lb_config")


def test_a_minimum_of_healthy_endpoints_is_the_panic_threshold() -> None:
    found = cluster(BOOKINFO + rule("{outlierDetection: {minHealthPercent: 30}}"))
    assert found.common_lb_config.healthy_panic_threshold.value == 30


def test_ports_and_subsets_have_their_own() -> None:
    subsets = "[{name: v1, labels: {version: v1}, trafficPolicy: {outlierDetection: {maxEjectionPercent: 7}}}]"
    policy = """{outlierDetection: {maxEjectionPercent: 5},
      portLevelSettings: [{port: {number: 9080}, outlierDetection: {maxEjectionPercent: 6}}]}"""
    text = BOOKINFO + rule(policy, subsets=subsets)
    assert cluster(text).outlier_detection.max_ejection_percent.value == 6
    assert cluster(text, RATINGS.replace("||", "|v1|")).outlier_detection.max_ejection_percent.value == 7


def test_a_retry_budget() -> None:
    (default,) = cluster(BOOKINFO + rule("{retryBudget: {}}")).circuit_breakers.thresholds
    assert MessageToDict(default.retry_budget) == {"budgetPercent": {"value": 20.0}, "minRetryConcurrency": 3}
    (own,) = cluster(
        BOOKINFO + rule("{retryBudget: {percent: 0.5, minRetryConcurrency: 0}}")
    ).circuit_breakers.thresholds
    assert MessageToDict(own.retry_budget) == {"budgetPercent": {"value": 0.5}, "minRetryConcurrency": 0}


# --- Consistent hashing --------------------------------------------------------------------------------------------


def hash_policies(text: str, host: str = "ratings", ip: str = "10.244.0.10") -> list[dict[str, object]]:
    """Those of the first route to `host`."""
    table = sent(text, ip)[types.ROUTE]["9080"]
    assert isinstance(table, RouteConfiguration)
    (found,) = (one for one in table.virtual_hosts if one.name.startswith(f"{host}."))
    return [MessageToDict(policy) for policy in found.routes[0].route.hash_policy]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{httpHeaderName: x-user}", {"header": {"headerName": "x-user"}}),
        ("{useSourceIp: true}", {"connectionProperties": {"sourceIp": True}}),
        ("{httpQueryParameterName: user}", {"queryParameter": {"name": "user"}}),
        ("{httpCookie: {name: session}}", {"cookie": {"name": "session"}}),
        ("{httpCookie: {name: session, path: /a, ttl: 1m30s, attributes: [{name: SameSite, value: Lax}]}}",
         {"cookie": {"name": "session", "path": "/a", "ttl": "90s",
                     "attributes": [{"name": "SameSite", "value": "Lax"}]}}),
    ],
)  # fmt: skip
def test_routes_say_what_the_key_is(written: str, expected: dict[str, object]) -> None:
    text = BOOKINFO + rule(f"{{loadBalancer: {{consistentHash: {written}}}}}")
    assert hash_policies(text) == [expected]
    assert hash_policies(text, "reviews") == []
    found = cluster(text)
    assert (found.lb_policy, found.ring_hash_lb_config.minimum_ring_size.value) == (Cluster.RING_HASH, 1024)


@pytest.mark.parametrize(
    ("more", "size"),
    [("minimumRingSize: 100", 100), ("ringHash: {minimumRingSize: 200}", 200), ("ringHash: {}", 1024)],
)
def test_the_size_of_the_ring(more: str, size: int) -> None:
    text = BOOKINFO + rule(f"{{loadBalancer: {{consistentHash: {{useSourceIp: true, {more}}}}}}}")
    assert cluster(text).ring_hash_lb_config.minimum_ring_size.value == size


def test_every_destination_of_a_route_has_its_say_once() -> None:
    text = (
        BOOKINFO
        + rule("{loadBalancer: {consistentHash: {httpHeaderName: x-user}}}", "ratings",
               "[{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}, "
               "trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}]")
        + """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: default}
spec:
  hosts: [ratings]
  http: [{route: [{destination: {host: ratings, subset: v1}, weight: 1}, {destination: {host: ratings}, weight: 1},
                  {destination: {host: ratings, subset: v2}, weight: 1}]}]
"""
    )  # fmt: skip
    assert hash_policies(text) == [{"header": {"headerName": "x-user"}}, {"connectionProperties": {"sourceIp": True}}]


def tcp_proxy(text: str) -> TcpProxy:
    found = sent(text)[types.LISTENER]["virtualOutbound"]
    assert isinstance(found, Listener)
    (chain,) = (chain for chain in found.filter_chains if "|5432|" in str(chain) and "tcp_proxy" in str(chain))
    return TcpProxy.FromString(chain.filters[0].typed_config.value)


def test_opaque_connections_are_led_by_their_source_and_end_when_idle() -> None:
    base = f"{BOOKINFO}---{DATABASE}"
    assert not tcp_proxy(base).hash_policy
    assert not tcp_proxy(base).HasField("idle_timeout")
    by_source = tcp_proxy(base + rule("{loadBalancer: {consistentHash: {useSourceIp: true}}}", "db"))
    assert [policy.WhichOneof("policy_specifier") for policy in by_source.hash_policy] == ["source_ip"]
    assert not tcp_proxy(base + rule("{loadBalancer: {consistentHash: {httpHeaderName: a}}}", "db")).hash_policy
    idle = tcp_proxy(base + rule("{connectionPool: {tcp: {idleTimeout: 90s}}}", "db"))
    assert idle.idle_timeout.seconds == 90


def test_the_rule_of_the_callers_namespace_counts() -> None:
    text = BOOKINFO + rule("{loadBalancer: {consistentHash: {useSourceIp: true}}}", "ratings.default.svc.cluster.local",
                           namespace="elsewhere")  # fmt: skip
    assert hash_policies(text) == [], "it is for callers in another namespace"


# --- Localities ----------------------------------------------------------------------------------------------------

NODE = """
---
apiVersion: v1
kind: Node
metadata: {{name: {name}, labels: {{topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {zone}}}}}
"""
PLACES = {"n1": ("eu", "a"), "n2": ("eu", "b"), "n3": ("us", "a"), "n4": ("asia", "a")}


def spread_out() -> str:
    """Ratings on every node, one pod each; its caller on n1."""
    text = service("ratings", ip="10.96.0.12") + "---" + service("productpage", ip="10.96.0.10")
    names = [("productpage-1", "10.244.0.10", "productpage", "n1")]
    names += [(f"ratings-{node}", f"10.244.1.{node[1:]}", "ratings", node) for node in PLACES]
    for name, ip, app, node in names:
        text += "---" + pod(name, ip, app).replace("spec:", f"spec:\n  nodeName: {node}", 1)
    text += "---" + slice_of("ratings", *(f"10.244.1.{node[1:]}" for node in PLACES))
    return text + "".join(NODE.format(name=name, region=at[0], zone=at[1]) for name, at in PLACES.items())


def groups(policy: str, ip: str = "10.244.0.10") -> dict[tuple[str, str], tuple[int, int]]:
    """(region, zone) -> (priority, weight) of the ratings, as one pod sees them."""
    found = sent(spread_out() + rule(policy), ip)[types.ENDPOINT][RATINGS]
    assert isinstance(found, ClusterLoadAssignment)
    return {
        (group.locality.region, group.locality.zone): (group.priority, group.load_balancing_weight.value)
        for group in found.endpoints
    }


NEAREST = {("eu", "a"): (0, 1), ("eu", "b"): (1, 1), ("us", "a"): (2, 1), ("asia", "a"): (2, 1)}


def test_with_outlier_detection_the_nearest_come_first() -> None:
    assert groups("{outlierDetection: {}}") == NEAREST
    found = cluster(spread_out() + rule("{outlierDetection: {}}"))
    assert found.common_lb_config.HasField("locality_weighted_lb_config")


def test_each_caller_has_its_own_nearest() -> None:
    text = spread_out() + rule("{outlierDetection: {}}")
    assert groups("{outlierDetection: {}}", "10.244.1.3")["us", "a"] == (0, 1)
    current = world_of(text)
    here, there = (resources_for(sidecar(ip), current)[types.ENDPOINT][RATINGS] for ip in ("10.244.0.10", "10.244.1.3"))
    assert here != there


def test_without_it_all_are_alike() -> None:
    assert set(groups("{}").values()) == {(0, 1)}
    off = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}}"
    assert set(groups(off).values()) == {(0, 1)}


def test_failover_names_the_region_to_turn_to() -> None:
    policy = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: eu, to: us}]}}}"
    assert groups(policy) == {**NEAREST, ("asia", "a"): (3, 1)}


def test_distribute_gives_shares() -> None:
    policy = "{loadBalancer: {localityLbSetting: {distribute: [{from: eu/a, to: {'eu/*': 80, 'us/*': 20}}]}}}"
    assert groups(policy) == {("eu", "a"): (0, 40), ("eu", "b"): (0, 40), ("us", "a"): (0, 20)}
    assert set(groups(policy, "10.244.1.3").values()) == {(0, 1)}, "it is for callers elsewhere"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("r/z/s", True), ("r/z", True), ("r", True), ("*", True), ("r/*/s", True), ("r/*", True), ("r/y", False),
     ("x", False)],
)  # fmt: skip
def test_patterns_of_localities(pattern: str, expected: bool) -> None:
    assert is_in(Locality("r", "z", "s"), pattern) is expected
