"""What is kept of objects: what the mesh reads, and not what makes a cluster's objects large and restless."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pymesh.resources.parse import observed
from pymesh.resources.resource import Positions, Resource
from pymesh_controlplane.injector.settings import ANNOTATION_PROXY
from pymesh_controlplane.kube import trim
from pymesh_controlplane.kube.replica import Object

METADATA = {
    "name": "web-a",
    "namespace": "shop",
    "uid": "194c0f78-8e4f-46cd-b4ed-40c5b8eaf5fc",
    "resourceVersion": "71",
    "generation": 3,
    "generateName": "web-",
    "creationTimestamp": "2026-11-23T03:04:07Z",
    "labels": {"app": "web"},
    "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": "x" * 5000,
        "note": "kept",
        ANNOTATION_PROXY: "envoy",
    },
    "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1", "controller": True, "x": 1}
    ],
    "finalizers": ["example.com/wait"],
    "selfLink": "/api/v1/…",
    "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
    "fieldOf2031": {},
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": METADATA,
    "spec": {
        "serviceAccountName": "web",
        "nodeName": "n1",
        "containers": [{"name": "web", "image": "web", "env": [{"name": "A"}], "ports": [{"containerPort": 80}]}],
        "initContainers": [{"name": "proxy", "restartPolicy": "Always", "ports": [{"containerPort": 15090}]}],
        "volumes": [{"name": "token", "projected": {}}],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.244.0.9",
        "podIPs": [{"ip": "10.244.0.9"}],
        "conditions": [{"type": "Ready", "lastProbeTime": "2026-11-23T03:04:07Z"}],
        "containerStatuses": [{"name": "web", "restartCount": 7}],
    },
}  # fmt: skip
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": METADATA,
    "spec": {
        "clusterIP": "10.96.0.9",
        "ports": [{"port": 80, "nodePort": 30080, "of2031": 1}],
        "trafficOf2031": "Near",
    },
    "status": {"loadBalancer": {}},
}
SLICE = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": METADATA,
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    "endpoints": [
        {
            "addresses": ["10.244.0.9"],
            "conditions": {"ready": True},
            "nodeName": "n1",
            "zone": "z1",
            "hints": {"forZones": [{"name": "z1"}]},
            "targetRef": {"kind": "Pod", "name": "web-a", "namespace": "shop", "uid": "1"},
        }
    ],
}
NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {**METADATA, "labels": {"topology.kubernetes.io/zone": "z1", "beta.kubernetes.io/os": "linux"}},
    "status": {"images": [{"sizeBytes": 1}] * 50},
}
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": METADATA, "type": "Opaque", "data": {"a": "YQ=="}}
NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": METADATA, "spec": {}, "status": {"phase": "Active"}}
ROUTE = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "VirtualService",
    "metadata": METADATA,
    "spec": {"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web"}}]}]},
    "status": {"conditions": []},
}
ALL = [
    (trim.pod, POD),
    (trim.service, SERVICE),
    (trim.endpoint_slice, SLICE),
    (trim.node, NODE),
    (trim.secret, SECRET),
    (trim.named, NAMESPACE),
    (trim.written, ROUTE),
]


def fresh(value: dict[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(value))
    return copied


@pytest.mark.parametrize(("keep", "value"), ALL)
def test_what_is_kept_is_read_without_a_complaint(
    keep: Callable[[dict[str, Any]], Object], value: dict[str, Any]
) -> None:
    """Also what a newer Kubernetes says of its own kinds."""
    found = observed(keep(fresh(value)), Positions("kubernetes", {}))
    assert isinstance(found, Resource)


@pytest.mark.parametrize(("keep", "value"), ALL)
def test_what_nobody_reads_does_not_make_it_another_object(
    keep: Callable[[dict[str, Any]], Object], value: dict[str, Any]
) -> None:
    """Versions, who wrote what, what kubectl notes down."""
    later = fresh(value)
    later["metadata"] |= {"resourceVersion": "99", "managedFields": []}
    later["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = "y" * 6000
    if value["kind"] != "VirtualService":
        later["status"] = {**later.get("status", {}), "conditions": [{"type": "Later"}]}
    assert keep(fresh(value)) == keep(later)


def test_of_a_pod_the_mesh_reads_this() -> None:
    assert trim.pod(fresh(POD)) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-a",
            "namespace": "shop",
            "uid": "194c0f78-8e4f-46cd-b4ed-40c5b8eaf5fc",
            "generation": 3,
            "creationTimestamp": "2026-11-23T03:04:07Z",
            "labels": {"app": "web"},
            "annotations": {ANNOTATION_PROXY: "envoy"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": True}],
        },
        "spec": {
            "serviceAccountName": "web",
            "nodeName": "n1",
            "containers": [{"name": "web", "ports": [{"containerPort": 80}]}],
            "initContainers": [{"name": "proxy", "restartPolicy": "Always", "ports": [{"containerPort": 15090}]}],
        },
        "status": {"phase": "Running", "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}]},
    }


def test_of_a_node_only_where_it_stands() -> None:
    assert trim.node(fresh(NODE))["metadata"] == {"name": "web-a", "labels": {"topology.kubernetes.io/zone": "z1"}}


def test_an_annotation_that_is_a_document_is_not_kept() -> None:
    kept = trim.written(fresh(ROUTE))
    assert kept["metadata"]["annotations"] == {"note": "kept", ANNOTATION_PROXY: "envoy"}
    assert "status" not in kept


def test_of_a_status_only_the_addresses_are_kept() -> None:
    addresses = [{"host": "ratings.example.com", "value": "240.240.0.1"}]
    kept = trim.with_addresses({**fresh(ROUTE), "status": {"conditions": [], "addresses": addresses, "mine": {}}})
    assert kept["status"] == {"addresses": addresses}
    assert "status" not in trim.with_addresses({**fresh(ROUTE), "status": None})


def test_everything_is_all_but_who_wrote_it() -> None:
    assert trim.everything(fresh(POD)) == {
        **POD,
        "metadata": {k: v for k, v in METADATA.items() if k != "managedFields"},
    }


def test_of_who_wrote_the_name_and_the_time_are_kept_and_no_field() -> None:
    author = {"manager": "pilot-discovery", "time": "2026-11-23T00:00:00Z"}
    entry = author | {"operation": "Update", "fieldsV1": {"f:a": {}}}
    found = {"metadata": {"name": "a", "managedFields": [entry]}, "data": {"a": "b"}}
    assert trim.authored(trim.everything)(found) == {
        "metadata": {"name": "a", "managedFields": [author]},
        "data": {"a": "b"},
    }
