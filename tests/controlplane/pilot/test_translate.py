"""The whole of what a node is sent: complete, supported, the same bytes every time, and what it looked like before."""

import json
import os
import random
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh import names
from pymesh.resources.parse import parse
from pymesh.xds import types
from pymesh.xds.check import check
from pymesh_controlplane.pilot import translate, world
from pymesh_controlplane.pilot.hashing import Hashed
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.subscription import Resource
from pymesh_controlplane.pilot.translate import Translator, encoded
from tests.controlplane.pilot.worlds import BOOKINFO, EVERYTHING, Messages, resources_for, service, sidecar, world_of

SNAPSHOTS = Path(__file__).parent / "snapshots"
NODES = {"productpage": sidecar(), "reviews": sidecar("10.244.0.11", "reviews-v1")}


def as_bytes(resources: Messages) -> dict[tuple[str, str], bytes]:
    return {
        (kind, name): message.SerializeToString(deterministic=True)
        for kind, messages in resources.items()
        for name, message in messages.items()
    }


@pytest.mark.parametrize("text", [BOOKINFO, EVERYTHING, ""], ids=["bookinfo", "everything", "empty"])
@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
def test_the_proxy_supports_every_field_of_it(text: str, node: Node) -> None:
    for messages in resources_for(node, world_of(text)).values():
        for message in messages.values():
            check(message)


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
def test_whatever_is_named_is_there(node: Node) -> None:
    resources = resources_for(node, world_of(EVERYTHING))
    assert set(resources) == {types.LISTENER, types.ROUTE, types.CLUSTER, types.ENDPOINT}
    asked_routes: set[str] = set()
    used_clusters: set[str] = set()
    for listener in resources[types.LISTENER].values():
        for chain in [*listener.filter_chains, listener.default_filter_chain]:  # type: ignore[attr-defined]  # a Listener
            for item in chain.filters:
                if item.typed_config.type_url == types.HTTP_CONNECTION_MANAGER:
                    manager = HttpConnectionManager.FromString(item.typed_config.value)
                    if manager.HasField("rds"):
                        asked_routes.add(manager.rds.route_config_name)
    assert asked_routes == set(resources[types.ROUTE])
    for configuration in resources[types.ROUTE].values():
        for host in configuration.virtual_hosts:  # type: ignore[attr-defined]  # a RouteConfiguration
            for route in host.routes:
                weighted = [cluster.name for cluster in route.route.weighted_clusters.clusters]
                used_clusters.update(weighted or ([route.route.cluster] if route.HasField("route") else []))
    assert used_clusters <= set(resources[types.CLUSTER])
    assigned = {
        cluster.eds_cluster_config.service_name  # type: ignore[attr-defined]  # a Cluster
        for cluster in resources[types.CLUSTER].values()
        if cluster.HasField("eds_cluster_config")
    }
    assert assigned == set(resources[types.ENDPOINT])


def test_the_order_of_the_resources_does_not_matter() -> None:
    parsed = list(parse(EVERYTHING, "f").resources)
    expected = as_bytes(resources_for(sidecar(), world.build(parsed)))
    for seed in range(5):
        random.Random(seed).shuffle(parsed)
        found = resources_for(sidecar(), world.build(parsed))
        assert as_bytes(found) == expected
        assert list(as_bytes(found)) == list(expected)
        assert world.build(parsed).revision == world.build(reversed(parsed)).revision


STRICT = """
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
"""


def compare(name: str, shown: object) -> None:
    """Against the stored translation; after a deliberate change run once with UPDATE_SNAPSHOTS=1 and read the diff."""
    file = SNAPSHOTS / f"{name}.json"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(shown, indent=1, sort_keys=True) + "\n")
    assert json.loads(file.read_text()) == shown


def shown(message: Message) -> object:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def test_it_is_what_it_was() -> None:
    resources = resources_for(sidecar(), world_of(BOOKINFO))
    compare(
        "productpage",
        {
            kind.rpartition(".")[2]: {name: shown(message) for name, message in messages.items()}
            for kind, messages in resources.items()
        },
    )


def test_a_strict_inbound_listener_is_what_it_was() -> None:
    resources = resources_for(NODES["reviews"], world_of(BOOKINFO + STRICT))
    compare("strict-inbound", shown(resources[types.LISTENER]["virtualInbound"]))


def test_a_proxy_of_a_kind_that_nobody_knows_gets_nothing() -> None:
    found = resources_for(sidecar(kind="ztunnel"), world_of(BOOKINFO))
    assert set(found) == {types.LISTENER, types.ROUTE, types.CLUSTER, types.ENDPOINT}
    assert not any(found.values())


def test_the_pods_labels_are_those_that_kubernetes_knows() -> None:
    """A proxy that claims other labels does not get another workload's routes."""
    text = EVERYTHING.replace("sourceLabels: {app: reviews}", "sourceLabels: {app: admin}")
    route = resources_for(sidecar(labels={"app": "admin"}), world_of(text))[types.ROUTE]["9080"]
    assert "/v[0-9]+" not in str(route)
    unknown = resources_for(sidecar("10.244.9.9", "new", labels={"app": "admin"}), world_of(text))
    assert "/v[0-9]+" in str(unknown[types.ROUTE]["9080"])


def test_the_clusters_of_every_sidecar() -> None:
    found = resources_for(sidecar(), world_of(""))[types.CLUSTER]
    assert set(found) == {names.PASSTHROUGH_CLUSTER, names.INBOUND_PASSTHROUGH_CLUSTER, names.BLACK_HOLE_CLUSTER}


EDGE = """
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec: {servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a-gateways, namespace: default}
spec:
  hosts: [reviews, shop.example.com]
  gateways: [edge]
  http: [{match: [{sourceLabels: {app: productpage}}], route: [{destination: {host: ratings}}]}]
"""


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
def test_what_is_for_gateways_only_changes_nothing_for_sidecars(node: Node) -> None:
    """Neither the routes of its hosts, though its name comes first, nor what else they get."""
    assert resources_for(node, world_of(BOOKINFO + EDGE)) == resources_for(node, world_of(BOOKINFO))
    meshwide = EDGE.replace("gateways: [edge]", "gateways: [edge, mesh]")
    assert resources_for(node, world_of(BOOKINFO + meshwide)) != resources_for(node, world_of(BOOKINFO))


# --- From world to world ---

CHANGES = [
    ("", ""),
    ("'10.244.0.12'", "'10.244.0.99'"),  # an endpoint
    ("weight: 80", "weight: 30"),  # a route
    ("{version: v3}", "{version: v9}"),  # a subset
    ("name: tcp-sql", "name: sql"),  # what is spoken on a port
    ("clusterIP: 10.96.0.20", "clusterIP: 10.96.0.77"),  # where a service is dialled
    ("serviceAccountName: reviews", "serviceAccountName: critics"),  # who may answer
    ("sourceLabels: {app: reviews}", "sourceLabels: {app: productpage}"),  # who is routed
    ("uri: {exact: /moved}", "uri: {exact: /moved}, sourceNamespace: far"),  # from where
    ("mode: STRICT", "mode: DISABLE"),  # what the pods accept
    ("maxConnections: 100", "maxConnections: 101"),
    ("hosts: [api.example.com]", "hosts: [api.example.net]"),
    ("containerPort: 9080", "containerPort: 9081"),
]
WHOLE = parse(EVERYTHING, "f").resources
CALLERS = [*NODES.values(), sidecar("10.244.9.9", "far", namespace="far"), sidecar(kind="router")]


def changed(old: str, new: str) -> World:
    """The world with one change; what it does not touch is the same objects, as the sources hand them on."""
    resources = parse(EVERYTHING.replace(old, new), "f").resources
    return world.build(
        before if after.says_the_same_as(before) else after for before, after in zip(WHOLE, resources, strict=True)
    )


@given(st.lists(st.sampled_from(CHANGES), min_size=2, max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_a_translation_does_not_depend_on_those_before_it(changes: list[tuple[str, str]], dice: random.Random) -> None:
    """Whatever changed, and whoever asked in between."""
    translator = Translator()
    for old, new in changes:
        current = changed(old, new)
        for node in dice.sample(CALLERS, 3):
            assert translator.snapshot(node, current) == Translator().snapshot(node, current)


def test_every_one_of_these_changes_does_something() -> None:
    before = [Translator().snapshot(node, world_of(EVERYTHING)) for node in CALLERS]
    for old, new in CHANGES[1:]:
        assert old in EVERYTHING
        current = changed(old, new)
        assert [Translator().snapshot(node, current) for node in CALLERS] != before, new


def test_what_did_not_change_is_the_same_object_for_all_proxies_and_worlds() -> None:
    """So that it is serialized once, and a push to a thousand proxies does not hold it a thousand times."""
    translator, (one, other, *_) = Translator(), CALLERS
    before = translator.snapshot(one, changed("", ""))
    current = changed("weight: 80", "weight: 30")
    after, for_other = (translator.snapshot(node, current) for node in (one, other))
    differing = {
        (kind, name)
        for kind, resources in after.items()
        for name, resource in resources.items()
        if before[kind][name] is not resource
    }
    assert differing == {(types.ROUTE, "9080")}
    assert after[types.ENDPOINT] is for_other[types.ENDPOINT]
    own = {"inbound|9080||"}  # it names the service in front of the pod
    for name in (after[types.CLUSTER].keys() & for_other[types.CLUSTER].keys()) - own:
        assert after[types.CLUSTER][name] is for_other[types.CLUSTER][name]


def test_what_only_strangers_asked_for_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects from ever new namespaces does not fill the memory; what everybody needs is kept."""
    monkeypatch.setattr(translate, "MAX_SNAPSHOTS", 5)
    translator, current = Translator(), world_of(EVERYTHING)
    stranger = sidecar(namespace="stranger")
    first = translator.snapshot(stranger, current)
    for number in range(4):
        translator.snapshot(sidecar(namespace=f"stranger-{number}"), current)
    assert translator.snapshot(stranger, current)[types.ROUTE]["9080"] is first[types.ROUTE]["9080"]
    for number in range(11):
        translator.snapshot(sidecar(namespace=f"stranger-{number}"), current)
    again = translator.snapshot(stranger, current)
    assert again == first
    assert again[types.ROUTE]["9080"] is not first[types.ROUTE]["9080"]
    assert (
        again[types.ENDPOINT]["outbound|9080||ratings.default.svc.cluster.local"]
        is (first[types.ENDPOINT]["outbound|9080||ratings.default.svc.cluster.local"])
    )


def test_a_cluster_says_which_endpoint_assignment_it_waits_for() -> None:
    """Its own name, unless it names another; none for a cluster that pilot sends no endpoints for."""
    other = Cluster(name="b", type=Cluster.EDS)
    other.eds_cluster_config.service_name = "shared"
    found = [Cluster(name="a", type=Cluster.EDS), other, Cluster(name="c", type=Cluster.STATIC)]
    assert [encoded(cluster.name, cluster).needs for cluster in found] == ["a", "shared", ""]


def test_a_table_is_not_made_again_for_a_key_of_a_cluster_that_it_does_not_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    original = translate._configuration

    def counting(port: int, hosts: tuple[VirtualHost, ...], only: bool, hashed: Hashed) -> Resource:
        made.append(port)
        return original(port, hosts, only, hashed)

    monkeypatch.setattr(translate, "_configuration", counting)
    rule = """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: sticky, namespace: default}
spec: {host: sticky, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}}
"""
    text = service("sticky", "[{name: http, port: 7070}]", "10.96.0.9") + "---\n" + service("plain") + rule
    translator, other = Translator(), world_of(text.replace("x-user", "x-client"))
    first = translator.snapshot(sidecar(), world_of(text))
    assert sorted(made) == [7070, 9080]
    made.clear()
    second = translator.snapshot(sidecar(), other)
    assert made == [7070]
    assert second[types.ROUTE]["7070"] != first[types.ROUTE]["7070"]
    assert second == Translator().snapshot(sidecar(), other)
