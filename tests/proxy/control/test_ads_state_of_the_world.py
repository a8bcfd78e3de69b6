"""The ADS state machine where each response is all there is of a type."""

from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from google.protobuf.message import Message

from pymesh.steps import whole
from pymesh.xds.types import CLUSTER, ENDPOINT, LISTENER, SECRET
from pymesh_proxy.control.ads import Ads, XdsStats
from pymesh_proxy.control.subscription import StateOfTheWorld
from tests.proxy.control.scripted import (
    Remembering,
    cluster,
    endpoints,
    listener,
    secret,
    sotw,
    tls_listener,
)

WEB, LOST = "kubernetes://web", "kubernetes://lost"


class ScriptedWorld:
    """An Ads of this dialect, with requests decoded."""

    def __init__(self) -> None:
        self.consumer = Remembering()
        self.ads = Ads(StateOfTheWorld(), NodeMessage(id="me"), self.consumer, XdsStats())

    def open(self) -> list[DiscoveryRequest]:
        return [DiscoveryRequest.FromString(data) for data in self.ads.open(0.0)]

    def receive(self, type_url: str, version: str, *resources: Message) -> list[DiscoveryRequest]:
        response = sotw(type_url, version, *resources).SerializeToString()
        return [DiscoveryRequest.FromString(data) for data in whole(self.ads.receive(response, 0.0))]


def test_state_of_the_world() -> None:
    world = ScriptedWorld()
    assert [(request.type_url, request.node.id) for request in world.open()] == [(CLUSTER, "me"), (LISTENER, "")]
    ack, follow = world.receive(CLUSTER, "1", cluster("a"), cluster("b"))
    assert (ack.version_info, ack.response_nonce) == ("1", "n1")
    assert (follow.type_url, list(follow.resource_names), follow.version_info) == (ENDPOINT, ["a", "b"], "")
    world.receive(ENDPOINT, "2", endpoints("a"), endpoints("b"), endpoints("unasked"))
    world.receive(LISTENER, "3", listener("l"))
    assert world.ads.ready
    assert world.consumer.names(ENDPOINT) == {"a", "b"}

    # What is missing from a list of all clusters is gone; what is missing from endpoints is merely unchanged.
    ack, follow = world.receive(CLUSTER, "4", cluster("b"))
    assert list(follow.resource_names) == ["b"]
    assert (follow.version_info, follow.response_nonce) == ("2", "n2")
    assert world.consumer.names(CLUSTER) == {"b"}
    world.receive(ENDPOINT, "5")
    assert world.consumer.names(ENDPOINT) == {"b"}

    # A refused response leaves the version, and resources that cannot be read take nothing away.
    world.consumer.refuse = {"c"}
    (nack,) = world.receive(CLUSTER, "6", cluster("b", note="changed"), cluster("c"))
    assert (nack.version_info, nack.response_nonce) == ("4", "n6")
    assert nack.error_detail.message == "c: some.field: is not supported"
    assert world.consumer.in_force[CLUSTER] == {"b": cluster("b", note="changed")}
    (nack,) = world.receive(CLUSTER, "7", endpoints("b"))
    assert nack.error_detail.message
    assert world.consumer.names(CLUSTER) == {"b"}

    resumed = world.open()
    assert [(request.version_info, list(request.resource_names)) for request in resumed] == [
        ("4", []),
        ("5", ["b"]),
        ("3", []),
    ]


def test_secrets_in_the_state_of_the_world() -> None:
    world = ScriptedWorld()
    world.open()
    world.receive(CLUSTER, "1")
    _, follow = world.receive(LISTENER, "1", tls_listener("t", WEB, LOST))
    assert follow.resource_names == [LOST, WEB]
    assert not world.ads.ready
    world.receive(SECRET, "1", secret(WEB))
    assert world.ads.ready
    assert world.consumer.names(SECRET) == {WEB}
