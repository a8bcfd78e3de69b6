"""`pymesh rollout restart`: whom it takes, and what it changes."""

import copy
from datetime import UTC, datetime

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.cli.restart import RESTARTED_AT, deployments, restarted
from pymesh_controlplane.local.reconcile import template_hash


@pytest.mark.parametrize(
    "words",
    [["deployment/a", "deploy/b"], ["deployment", "a", "b"], ["Deployments.apps/a", "deployment.apps/b"]],
)
def test_deployments_are_named_as_with_kubectl(words: list[str]) -> None:
    assert deployments(words) == ["a", "b"]


@pytest.mark.parametrize("words", [["a"], ["pod/a"], ["deployment/"], ["deployment/a", "b"], ["pod", "a"]])
def test_what_else_is_named_is_refused(words: list[str]) -> None:
    with pytest.raises(MeshError, match="write deployment/"):
        deployments(words)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"annotations": None}, {"annotations": {"a": "b"}, "labels": {"c": "d"}}]
)
def test_a_restarted_deployment_is_the_same_but_for_its_pods(metadata: dict[str, object] | None) -> None:
    template = {"spec": {"containers": []}} | ({"metadata": metadata} if metadata is not None else {})
    document = {"kind": "Deployment", "spec": {"replicas": 2, "template": template}}
    before = copy.deepcopy(document)
    first, second = (restarted(document, datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)) for second in (1, 2))
    assert document == before
    assert template_hash(first["spec"]["template"]) != template_hash(second["spec"]["template"])
    assert first["spec"]["template"]["metadata"]["annotations"][RESTARTED_AT] == "2026-01-01T00:00:01.000000+00:00"
    assert first["spec"]["template"]["spec"] == template["spec"]
