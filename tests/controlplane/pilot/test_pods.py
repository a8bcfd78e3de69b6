"""What a cluster's pods, nodes and slices say of each other, and what becomes of it while they disagree."""

import pytest

from pymesh_controlplane.pilot.endpoints import assignment
from pymesh_controlplane.pilot.model import Endpoint, Locality
from tests.controlplane.pilot.worlds import pod, service, slice_of, world_of

WEB = ("web.default.svc.cluster.local", 9080)
NODES = """
apiVersion: v1
kind: Node
metadata:
  name: n1
  labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1, topology.istio.io/subzone: rack-7}
---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-2}}
---
"""


def endpoint_of(name: str, address: str, more: str = "") -> str:
    """An endpoint of a slice as the endpoint slice controller writes it."""
    return f"{{addresses: ['{address}'], targetRef: {{kind: Pod, namespace: default, name: {name}}}{more}}}"


def cluster_slice(*endpoints: str, family: str = "IPv4") -> str:
    text = slice_of("web").replace("endpoints: []", f"endpoints: [{', '.join(endpoints)}]")
    return text.replace("addressType: IPv4", f"addressType: {family}").replace("web-1", f"web-{family.lower()}")


def on(node: str, text: str) -> str:
    return text.replace("spec:\n", f"spec:\n  nodeName: {node}\n")


def endpoints(*texts: str) -> tuple[Endpoint, ...]:
    return world_of("---".join([NODES, service("web"), *texts])).endpoints[WEB]


# --- Slices and pods are watched side by side ----------------------------------------------------------------------


def test_an_endpoint_waits_for_its_pod() -> None:
    """Without the pod nobody knows whether a sidecar is there: one under STRICT would get plaintext."""
    assert endpoints(cluster_slice(endpoint_of("web-a", "10.244.0.9"))) == ()
    (found,) = endpoints(pod("web-a", "10.244.0.9", "web"), cluster_slice(endpoint_of("web-a", "10.244.0.9")))
    assert found.mesh
    assert found.workload is not None
    assert found.workload.name == "web-a"


def test_an_address_that_is_another_pods_by_now_is_not_taken_for_the_old_one() -> None:
    other = pod("thief-a", "10.244.0.9", "thief")
    stale = cluster_slice(endpoint_of("web-a", "10.244.0.9"))
    world = world_of("---".join([service("web"), other, stale]))
    assert world.endpoints[WEB] == ()
    assert world.services[WEB[0]].accounts == ("spiffe://cluster.local/ns/default/sa/default",)


def test_an_address_that_its_pod_has_no_more_is_left_out() -> None:
    """A pod that was made again under its name, as those of a StatefulSet are, before the slice tells of it."""
    again = pod("web-a", "10.244.0.7", "web")
    assert endpoints(again, cluster_slice(endpoint_of("web-a", "10.244.0.9"))) == ()


def test_of_two_pods_that_say_the_same_address_the_newer_one_has_it() -> None:
    def made(name: str, second: int) -> str:
        created = f"metadata:\n  creationTimestamp: '2026-01-01T00:00:{second:02}Z'\n"
        return pod(name, "10.244.0.9", name).replace("metadata:\n", created)

    for texts in ([made("a", 2), made("b", 1)], [made("b", 1), made("a", 2)]):
        assert world_of("---".join(texts)).workloads["10.244.0.9"].name == "a"


def test_a_slice_without_pods_is_as_it_was_written() -> None:
    """Of a Service without a selector people write the slices, and then they are right."""
    (found,) = endpoints(slice_of("web", "192.0.2.9"))
    assert (found.workload, found.mesh, found.address) == (None, False, "192.0.2.9")


# --- Conditions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "ready", "published"),
    [
        ("", True, True),
        ("ready: true, serving: true, terminating: false", True, True),
        ("ready: false, serving: false, terminating: true", False, True),
        ("ready: false, terminating: true", False, True),
        ("ready: false", False, True),
        ("serving: true", True, True),
    ],
)
def test_who_takes_traffic(conditions: str, ready: bool, published: bool) -> None:
    text = cluster_slice(endpoint_of("web-a", "10.244.0.9", f", conditions: {{{conditions}}}"))
    there = pod("web-a", "10.244.0.9", "web")
    assert bool(endpoints(there, text)) is ready
    everybody = service("web").replace("spec:", "spec:\n  publishNotReadyAddresses: true")
    assert bool(world_of(f"{everybody}---{there}---{text}").endpoints[WEB]) is published


def test_what_is_about_to_end_and_serves_takes_traffic_where_nothing_else_does() -> None:
    """KEP-1669, as kube-proxy has it: until word of the new pods has come, the old ones are better than none."""
    ending = endpoint_of("web-a", "10.244.0.9", ", conditions: {ready: false, serving: true, terminating: true}")
    there = pod("web-a", "10.244.0.9", "web") + "---" + pod("web-b", "10.244.0.10", "web")
    assert [found.address for found in endpoints(there, cluster_slice(ending))] == ["10.244.0.9"]
    both = cluster_slice(ending, endpoint_of("web-b", "10.244.0.10", ", conditions: {ready: true}"))
    assert [found.address for found in endpoints(there, both)] == ["10.244.0.10"]


# --- The network of the node, two families -------------------------------------------------------------------------


def test_a_pod_on_its_nodes_network_has_no_sidecar_whatever_it_says() -> None:
    """It is known by its name, for telemetry; its address is the node's, and others'."""
    hosted = pod("web-a", "172.20.0.11", "web").replace("spec:", "spec:\n  hostNetwork: true")
    neighbour = pod("web-b", "172.20.0.11", "web").replace("spec:", "spec:\n  hostNetwork: true")
    text = cluster_slice(endpoint_of("web-a", "172.20.0.11"))
    (found,) = endpoints(hosted, neighbour, text)
    assert found.workload is not None
    assert (found.workload.name, found.mesh) == ("web-a", False)
    assert not world_of(hosted).workloads


def test_of_two_families_ipv4_is_served_and_the_pod_is_known_by_both() -> None:
    dual = pod("web-a", "fd00::9", "web").replace(
        "podIP: fd00::9", "podIP: 'fd00::9', podIPs: [{ip: 'fd00::9'}, {ip: 10.244.0.9}]"
    )
    world = world_of(
        "---".join(
            [
                service("web"),
                dual,
                cluster_slice(endpoint_of("web-a", "10.244.0.9")),
                cluster_slice(endpoint_of("web-a", "fd00::9"), family="IPv6"),
            ]
        )
    )
    assert [(found.address, found.mesh) for found in world.endpoints[WEB]] == [("10.244.0.9", True)]
    assert world.workloads["fd00::9"] is world.workloads["10.244.0.9"]


# --- Who made it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "owner", "expected"),
    [
        ("ReplicaSet", "web-5d4", "web"),
        ("StatefulSet", "web", "web"),
        ("DaemonSet", "web", "web"),
        ("Job", "web", "web"),
        ("Job", "web-29387421", "web"),  # of a CronJob
    ],
)
def test_a_pod_is_called_by_what_made_it(kind: str, owner: str, expected: str) -> None:
    text = pod("web-a", "10.244.0.9", "web").replace(
        "labels: {",
        f"ownerReferences: [{{kind: {kind}, name: {owner}, controller: true}}]\n  labels: {{pod-template-hash: 5d4, ",
    )
    assert world_of(text).workloads["10.244.0.9"].workload == expected


def test_ports_of_init_containers_that_go_on_running_are_the_pods_too() -> None:
    text = pod("web-a", "10.244.0.9", "web").replace(
        "containers:",
        "initContainers: [{name: once, ports: [{containerPort: 1}]}, "
        "{name: helper, restartPolicy: Always, ports: [{containerPort: 7070, name: side}]}]\n  containers:",
    )
    assert world_of(text).workloads["10.244.0.9"].container_ports == {"side": 7070, "web": 9080}


# --- Localities ----------------------------------------------------------------------------------------------------


def test_an_endpoint_stands_where_its_node_does() -> None:
    (found,) = endpoints(on("n1", pod("web-a", "10.244.0.9", "web")), cluster_slice(endpoint_of("web-a", "10.244.0.9")))
    assert found.locality == Locality("eu", "eu-1", "rack-7")


def test_without_a_pod_the_slice_tells_the_node_or_the_zone() -> None:
    text = cluster_slice("{addresses: [192.0.2.1], nodeName: n2}", "{addresses: [192.0.2.2], zone: eu-9}")
    assert [found.locality for found in endpoints(text)] == [Locality("eu", "eu-2"), Locality("", "eu-9")]


def test_endpoints_go_out_by_locality_in_one_priority() -> None:
    far, near = Locality("eu", "eu-2"), Locality("eu", "eu-1", "rack-7")
    message = assignment(
        "c",
        [
            Endpoint("10.0.0.1", 80, {}, locality=far),
            Endpoint("10.0.0.2", 80, {}, locality=near, weight=3),
            Endpoint("10.0.0.3", 80, {}, locality=far),
            Endpoint("10.0.0.4", 80, {}),
        ],
    )
    shown = [
        (
            (group.locality.region, group.locality.zone, group.locality.sub_zone),
            [item.endpoint.address.socket_address.address for item in group.lb_endpoints],
            group.load_balancing_weight.value,
            group.priority,
        )
        for group in message.endpoints
    ]
    assert shown == [
        (("", "", ""), ["10.0.0.4"], 0, 0),
        (("eu", "eu-1", "rack-7"), ["10.0.0.2"], 3, 0),
        (("eu", "eu-2", ""), ["10.0.0.1", "10.0.0.3"], 2, 0),
    ]
