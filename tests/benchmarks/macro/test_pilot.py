"""The control plane of the push scenario, asked as a proxy asks."""

import threading

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from benchmarks.macro.pilot import Node, Place, Size, cluster, endpoints, introduced, listener, resources, routes
from pymesh.xds import types
from pymesh.xds.check import check

PLACE = Place(8080, 9090)
SIZE = Size(clusters=30, endpoints=10)
KINDS = (types.CLUSTER, types.ENDPOINT)


def node() -> Node:
    return Node("pymesh", SIZE, PLACE)


def told(one: Node) -> DiscoveryResponse:
    data = one.outgoing.get(timeout=10)
    assert data is not None
    return DiscoveryResponse.FromString(data)


def test_no_two_worlds_have_anything_in_common_but_the_upstream() -> None:
    for number in range(1, 1000):
        assert cluster(number, 0) != cluster(number, 1)
    groups = [endpoints(number, world, 10, 1).endpoints[0] for world in (0, 1) for number in range(1, 1000)]
    addresses = [{one.endpoint.address.socket_address.address for one in group.lb_endpoints} for group in groups]
    assert all(len(each) == 10 for each in addresses)
    assert len(set().union(*addresses)) == 2 * 999 * 10
    assert endpoints(0, 0, 10, 9090) == endpoints(0, 1, 10, 9090)


def test_all_of_it_is_supported() -> None:
    for message in (cluster(1, 0), endpoints(1, 0, 10, 1), endpoints(0, 0, 10, 1), routes(), listener(8080)):
        check(message)


def test_a_response_has_every_resource() -> None:
    found = DiscoveryResponse.FromString(resources(types.ENDPOINT, SIZE, 0, PLACE))
    messages = [ClusterLoadAssignment.FromString(each.value) for each in found.resources]
    assert [each.cluster_name for each in messages] == [f"service-{number}" for number in range(30)]
    assert messages[0].endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value == 9090


def test_what_is_asked_for_is_told_once() -> None:
    one = node()
    one.hear(DiscoveryRequest(type_url=types.CLUSTER))
    response = told(one)
    assert (response.type_url, response.version_info, len(response.resources)) == (types.CLUSTER, "0", 30)
    one.hear(DiscoveryRequest(type_url=types.CLUSTER, version_info="0", response_nonce=response.nonce))
    assert one.outgoing.empty()
    one.hear(DiscoveryRequest(type_url=types.ENDPOINT, resource_names=["service-0"]))
    one.hear(DiscoveryRequest(type_url=types.ENDPOINT, resource_names=["service-0", "service-1"]))
    assert [told(one).type_url, told(one).type_url] == [types.ENDPOINT] * 2


def pushed(one: Node, *answers: DiscoveryRequest) -> dict[str, object]:
    said: list[dict[str, object]] = []
    pushing = threading.Thread(target=lambda: said.append(one.push()))
    pushing.start()
    assert [told(one).type_url for _ in KINDS] == list(KINDS)
    for answer in answers:
        one.hear(answer)
    pushing.join(10)
    return said[0]


def test_a_push_ends_when_both_are_acknowledged() -> None:
    one = node()
    one.asked = dict.fromkeys(KINDS, frozenset())
    said = pushed(one, *(DiscoveryRequest(type_url=kind, version_info="1") for kind in KINDS))
    assert set(said) == {"pushed", "acknowledged"}
    response = DiscoveryResponse.FromString(resources(types.CLUSTER, SIZE, 1, PLACE))
    assert Cluster.FromString(response.resources[0].value).connect_timeout.seconds == 11


def test_a_push_that_is_refused_says_why() -> None:
    one = node()
    refusal = DiscoveryRequest(type_url=types.CLUSTER, version_info="0")
    refusal.error_detail.message = "no such thing"
    assert pushed(one, refusal) == {"error": "refused: no such thing"}


def test_a_node_says_where_it_is() -> None:
    said = introduced("sidecar~127.0.0.1~pymesh-8080-9090.default~default.svc.cluster.local")
    assert said == ("pymesh", PLACE)
    with pytest.raises(ValueError, match="does not say where"):
        introduced("sidecar~127.0.0.1~pymesh.default~default.svc.cluster.local")
