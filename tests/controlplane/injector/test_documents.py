"""Documents of every kind that pods come from, and lists of them."""

import copy

import pytest

from pymesh.errors import ConfigError
from pymesh_controlplane.injector.containers import Manifest
from pymesh_controlplane.injector.inject import inject_document
from tests.controlplane.injector.pods import CONFIG, OPT_IN, container, pod

TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "app"}]}}


@pytest.mark.parametrize(
    "kind", ["Deployment", "ReplicaSet", "ReplicationController", "StatefulSet", "DaemonSet", "Job"]
)
def test_every_kind_with_a_template_is_injected_in_its_template(kind: str) -> None:
    document = {"kind": kind, "metadata": {"name": "d"}, "spec": {"replicas": 2, "template": TEMPLATE}}
    before = copy.deepcopy(document)
    result = inject_document(document, config=CONFIG)
    assert document == before
    assert result["spec"]["replicas"] == 2
    assert len(result["spec"]["template"]["spec"]["initContainers"]) == 2
    env = container(result["spec"]["template"], "pymesh-proxy")["env"]
    assert {"name": "WORKLOAD_NAME", "value": "d"} in env


def test_a_cron_job_is_injected_two_templates_down() -> None:
    template = {**TEMPLATE, "spec": {**TEMPLATE["spec"], "restartPolicy": "OnFailure"}}
    document = {"kind": "CronJob", "metadata": {"name": "c"}, "spec": {"jobTemplate": {"spec": {"template": template}}}}
    result = inject_document(document, config=CONFIG)
    injected = result["spec"]["jobTemplate"]["spec"]["template"]
    assert [c["name"] for c in injected["spec"]["initContainers"]] == ["pymesh-init", "pymesh-proxy"]


def test_a_list_is_looked_into_and_other_kinds_are_returned_as_they_are() -> None:
    service = {"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    document = {"apiVersion": "v1", "kind": "List", "items": [service, {"kind": "List", "items": [pod()]}]}
    told: list[str] = []
    result = inject_document(document, config=CONFIG, report=lambda resource, _: told.append(resource))
    assert result["items"][0] is service
    assert len(result["items"][1]["items"][0]["spec"]["initContainers"]) == 2
    assert told == ["Pod default/reviews"]
    with pytest.raises(ConfigError, match="a list of objects"):
        inject_document({"kind": "List", "items": ["x"]}, config=CONFIG)


def test_the_documents_own_namespace_decides() -> None:
    namespaces = {"mesh": {"istio-injection": "enabled"}, "plain": {}}
    inside, outside = pod(namespace="mesh"), pod(namespace="plain")
    assert inject_document(inside, config=OPT_IN, namespaces=namespaces) is not inside
    assert inject_document(outside, config=OPT_IN, namespaces=namespaces) is outside
    assert inject_document(pod(), config=OPT_IN, namespaces=namespaces, namespace="mesh") != pod()


def test_a_template_that_is_missing_is_refused_or_left_alone() -> None:
    empty: Manifest = {"kind": "Deployment", "metadata": {"name": "d"}}
    assert inject_document(empty, config=OPT_IN) is empty
    with pytest.raises(ConfigError, match="at least one container"):
        inject_document(empty, config=CONFIG)
