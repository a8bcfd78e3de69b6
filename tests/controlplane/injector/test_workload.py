"""What a pod's workload and its canonical service are called."""

import pytest

from pymesh_controlplane.injector.containers import Manifest
from pymesh_controlplane.injector.inject import inject
from pymesh_controlplane.injector.workload import workload_of
from tests.controlplane.injector.pods import CONFIG, pod


@pytest.mark.parametrize(
    ("labels", "name", "revision"),
    [
        ({}, "reviews", "latest"),
        ({"app": "a", "version": "v2"}, "a", "v2"),
        ({"app": "a", "app.kubernetes.io/name": "b", "app.kubernetes.io/version": "3"}, "b", "3"),
        ({"service.istio.io/canonical-name": "c", "service.istio.io/canonical-revision": "r"}, "c", "r"),
    ],
)
def test_canonical_service_comes_from_the_labels_and_else_from_the_workload(
    labels: dict[str, str], name: str, revision: str
) -> None:
    result = inject(pod(labels=labels), config=CONFIG)["metadata"]["labels"]
    assert result["service.istio.io/canonical-name"] == name
    assert result["service.istio.io/canonical-revision"] == revision


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"name": "solo"}, "solo"),
        ({"generateName": "batch-"}, "batch"),
        (
            {
                "name": "web-6f7-x",
                "labels": {"pod-template-hash": "6f7"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web-6f7", "controller": True}],
            },
            "web",
        ),
        ({"name": "db-0", "ownerReferences": [{"kind": "StatefulSet", "name": "db", "controller": True}]}, "db"),
        ({"name": "p", "ownerReferences": [{"kind": "Thing", "name": "t", "controller": False}, "rubbish"]}, "p"),
        ({}, "unknown"),
    ],
)
def test_the_workload_is_what_made_the_pod(metadata: Manifest, expected: str) -> None:
    assert workload_of(metadata) == expected
