"""Resources to the world: protocols, names, workloads."""

import pytest
from envoy.config.core.v3.base_pb2 import Node as NodeMessage

from pymesh_controlplane.pilot.hosts import most_specific, resolve
from pymesh_controlplane.pilot.model import Protocol, Resolution
from pymesh_controlplane.pilot.node import node_of
from pymesh_controlplane.pilot.world import protocol_of
from tests.controlplane.pilot.worlds import BOOKINFO, EVERYTHING, pod, service, world_of


@pytest.mark.parametrize(
    ("name", "app_protocol", "port", "expected"),
    [
        ("http", None, 1, Protocol.HTTP),
        ("http-metrics", None, 1, Protocol.HTTP),
        ("HTTP-a", None, 1, Protocol.HTTP),
        ("grpc-web", None, 1, Protocol.HTTP),
        ("grpc", None, 1, Protocol.TCP),
        ("grpc-a", None, 1, Protocol.TCP),
        ("http2", None, 1, Protocol.TCP),
        ("https", None, 1, Protocol.TLS),
        ("tls-x", None, 1, Protocol.TLS),
        ("tcp-db", None, 1, Protocol.TCP),
        ("web", None, 1, Protocol.AUTO),
        ("", None, 1, Protocol.AUTO),
        ("", None, 3306, Protocol.TCP),
        ("httpx", None, 1, Protocol.AUTO),
        ("tcp", "http", 1, Protocol.HTTP),
        ("http", "kubernetes.io/h2c", 1, Protocol.TCP),
        ("http", "example.com/own", 1, Protocol.AUTO),
    ],
)
def test_protocols(name: str, app_protocol: str | None, port: int, expected: Protocol) -> None:
    assert protocol_of(name, app_protocol, port) is expected


@pytest.mark.parametrize(
    ("host", "full"),
    [
        ("reviews", "reviews.default.svc.cluster.local"),
        ("Reviews", "reviews.default.svc.cluster.local"),
        ("reviews.default", "reviews.default.svc.cluster.local"),
        ("reviews.default.svc", "reviews.default.svc.cluster.local"),
        ("reviews.default.svc.cluster.local", "reviews.default.svc.cluster.local"),
        ("unknown", "unknown.default.svc.cluster.local"),
        ("reviews.other", "reviews.other"),
        ("example.com", "example.com"),
        ("*.example.com", "*.example.com"),
    ],
)
def test_short_names(host: str, full: str) -> None:
    assert resolve(host, "default", world_of(BOOKINFO).services) == full


def test_the_most_specific_pattern() -> None:
    patterns = ["*", "*.com", "*.example.com", "a.example.com"]
    assert most_specific("a.example.com", patterns) == "a.example.com"
    assert most_specific("b.example.com", patterns) == "*.example.com"
    assert most_specific("x.b.example.com", patterns) == "*.example.com"
    assert most_specific("example.com", patterns) == "*.com"
    assert most_specific("*.example.com", ["*.com"]) == "*.com"
    assert most_specific("other.net", patterns) == "*"
    assert most_specific("other.net", patterns[1:]) is None


def test_a_pod_of_a_deployment_is_known_by_it() -> None:
    owned = pod("web-5d4-x", "10.244.0.9", "web").replace(
        "labels: {",
        "ownerReferences: [{kind: ReplicaSet, name: web-5d4, controller: true}]\n  labels: {pod-template-hash: 5d4, ",
    )
    assert world_of(owned).workloads["10.244.0.9"].workload == "web"


def test_pods_that_are_over_or_not_yet_or_on_the_host_are_not_workloads() -> None:
    running = pod("a", "10.244.0.9", "a")
    assert world_of(running).workloads
    assert not world_of(running.replace("Running", "Succeeded")).workloads
    assert not world_of(running.replace("podIP: 10.244.0.9, ", "")).workloads
    assert not world_of(running.replace("serviceAccountName", "hostNetwork: true\n  serviceAccountName")).workloads


def test_services() -> None:
    found = world_of(EVERYTHING).services
    assert list(found) == sorted(found)
    assert found["peers.default.svc.cluster.local"].headless
    assert found["api.example.com"].resolution is Resolution.DNS
    assert found["api.example.com"].external
    assert found["reviews.default.svc.cluster.local"].accounts == ("spiffe://cluster.local/ns/default/sa/reviews",)


def test_udp_is_not_the_meshs() -> None:
    text = service("dns", "[{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]")
    (port,) = world_of(text).services["dns.default.svc.cluster.local"].ports
    assert port.name == "dns-tcp"


def test_the_revision_is_of_the_content() -> None:
    assert world_of(BOOKINFO).revision == world_of("# the same\n---" + BOOKINFO).revision
    assert world_of(BOOKINFO).revision != world_of(EVERYTHING).revision


@pytest.mark.parametrize("addresses", ["10.244.0.7,10.9.9.9", ["10.244.0.7", "10.9.9.9"]])
def test_a_node_is_what_the_proxy_says_of_itself(addresses: str | list[str]) -> None:
    message = NodeMessage(id="sidecar~10.244.0.7~a-0.ns~ns.svc.cluster.local", user_agent_name="envoy")
    message.metadata.update(
        {"LABELS": {"app": "a"}, "INSTANCE_IPS": addresses, "SERVICE_ACCOUNT": "sa", "WORKLOAD_NAME": "a"}
    )
    node = node_of(message)
    assert (node.kind, node.pod, node.namespace, node.service_account) == ("sidecar", "a-0", "ns", "sa")
    assert node.addresses == ("10.244.0.7", "10.9.9.9")
    assert (node.labels, node.user_agent, node.workload) == ({"app": "a"}, "envoy", "a")


@pytest.mark.parametrize("wrong", ["", "a", "sidecar~1~pod~domain"])
def test_a_node_with_another_id_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="node id"):
        node_of(NodeMessage(id=wrong))


@pytest.mark.parametrize(("field", "value"), [("LABELS", "x"), ("INSTANCE_IPS", {"a": 1}), ("INSTANCE_IPS", [1])])
def test_metadata_of_another_type_is_refused(field: str, value: object) -> None:
    message = NodeMessage(id="sidecar~~a.b~c")
    message.metadata.update({field: value})
    with pytest.raises(ValueError, match=field):
        node_of(message)
