"""What a bootstrap says of the proxy itself, and how the proxy introduces itself by it."""

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

from pymesh_proxy.control.plane import introduction_in, node_in
from tests.support.xds import message


def bootstrap(node: str) -> Bootstrap:
    return message(Bootstrap, f"{{node: {node}}}")


def test_the_node_goes_to_the_control_plane_as_it_is_written() -> None:
    written = bootstrap("{id: me, cluster: c, metadata: {a: [1, b], LABELS: {x: y}}, locality: {region: r, zone: z}}")
    introduction = introduction_in(written)
    assert introduction.user_agent_name == "pymesh-proxy"
    introduction.user_agent_name = ""
    assert introduction == written.node
    assert introduction_in(bootstrap("{user_agent_name: mine}")).user_agent_name == "mine"


def test_who_the_proxy_is_stands_in_the_metadata() -> None:
    metadata = "{NAME: p, NAMESPACE: n, SERVICE_ACCOUNT: s, WORKLOAD_NAME: w, CLUSTER_ID: k, LABELS: {app: a}}"
    node = node_in(bootstrap(f"{{id: anything, cluster: c.d, metadata: {metadata}}}"))
    assert (node.pod, node.namespace, node.service_account, node.workload) == ("p", "n", "s", "w")
    assert (node.cluster_id, node.labels, node.peer.app) == ("k", {"app": "a"}, "a")


def test_or_else_in_its_id_and_cluster() -> None:
    node = node_in(bootstrap("{id: router~10.0.0.7~gate-0.edge~edge.svc.cluster.local, cluster: gate.edge}"))
    assert (node.kind, node.ip, node.workload) == ("router", "10.0.0.7", "gate")
    assert (node.pod, node.namespace) == ("gate-0", "edge")
    assert node_in(bootstrap("{id: me}")).pod == "me"
