"""What is refused of pods and Deployments, and in which words."""

import copy
from typing import Any

import pytest

from pymesh_controlplane.local.podcheck import read
from pymesh_controlplane.local.podspec import Deployment, Pod

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [
                    {
                        "name": "web",
                        "image": "nginx",
                        "resources": {"limits": {"cpu": "1"}},
                        "command": ["serve"],
                        "ports": [{"name": "http", "containerPort": 8080}],
                        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    }
                ],
                "volumes": [{"name": "data", "emptyDir": {}}],
            },
        },
    },
}


def changed(path: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(DEPLOYMENT)
    *way, last = path.split("/")
    node: Any = document
    for step in way:
        node = node[int(step)] if isinstance(node, list) else node.setdefault(step, {})
    if isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value
    return document


def test_a_deployment_is_read_with_kubernetes_defaults() -> None:
    deployment = read(Deployment, DEPLOYMENT)
    assert isinstance(deployment, Deployment)
    assert deployment.spec.replicas == 1
    probe = deployment.spec.template.spec.containers[0].readiness_probe
    assert probe is not None
    assert (probe.period_seconds, probe.timeout_seconds, probe.failure_threshold) == (10, 1, 3)


CONTAINER = "spec/template/spec/containers/0"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (f"{CONTAINER}/command", [], "has no command: images are not used"),
        (f"{CONTAINER}/comand", ["x"], "unknown field 'comand'"),
        (f"{CONTAINER}/tty", True, "true is not possible here: there is no terminal"),
        (f"{CONTAINER}/securityContext", {"privileged": True}, "name the capabilities"),
        (f"{CONTAINER}/securityContext", {"runAsUser": 0, "runAsNonRoot": True}, "contradict each other"),
        (f"{CONTAINER}/volumeMounts/0/name", "nope", "no volume nope in spec.volumes"),
        (f"{CONTAINER}/volumeMounts/0/mountPath", "data", "is not an absolute path"),
        (f"{CONTAINER}/volumeMounts/0/mountPath", "/", "would hide the container's programs"),
        (f"{CONTAINER}/volumeMounts/0/mountPath", "//data/..", "would hide the container's programs"),
        (f"{CONTAINER}/volumeMounts/0/mountPath", "/proc", "/proc is the kernel's"),
        (f"{CONTAINER}/volumeMounts/0/mountPath", "/a/..//sys/fs", "/sys is the kernel's"),
        (f"{CONTAINER}/readinessProbe/httpGet/port", "grpc", "no port of the name grpc"),
        (f"{CONTAINER}/readinessProbe/tcpSocket", {"port": 1}, "there is httpGet and tcpSocket"),
        (f"{CONTAINER}/readinessProbe", {}, "there is none"),
        (f"{CONTAINER}/readinessProbe/periodSeconds", 0, "whole number from 1"),
        (f"{CONTAINER}/env", [{"name": "A", "valueFrom": {}}], "one of fieldRef, configMapKeyRef is needed"),
        (f"{CONTAINER}/env", [{"name": "A", "valueFrom": {"secretKeyRef": {}}}], "unknown field 'secretKeyRef'"),
        (f"{CONTAINER}/name", "Web_1", "lower case letters"),
        (f"{CONTAINER}/ports/0/hostPort", 80, "only pymesh-proxy does. Reach the app through the ingress gateway"),
        ("spec/template/spec/volumes/0", {"name": "data"}, "one of emptyDir, configMap"),
        ("spec/template/spec/volumes/0", {"name": "data", "secret": {}}, "unknown field 'secret'"),
        ("spec/template/spec/hostNetwork", True, "unknown field 'hostNetwork'"),
        ("spec/template/spec/restartPolicy", "Never", "always restarted"),
        ("spec/selector/matchLabels", {"app": "other"}, "selects other labels"),
        ("spec/replicas", "two", "is not"),
        ("spec/replicas", -1, "is not"),
        ("spec/strategy", {"rollingUpdate": {"maxSurge": "many"}}, "is not"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: object, words: str) -> None:
    errors = read(Deployment, changed(path, value))
    assert isinstance(errors, list)
    assert words in errors[0].problem
    expected = path.replace("/0", "[0]").replace("/", ".")
    assert errors[0].path.startswith(expected) or expected.startswith(errors[0].path), errors[0].path


def test_containers_and_init_containers_share_their_names() -> None:
    errors = read(Deployment, changed("spec/template/spec/initContainers", [{"name": "web", "command": ["x"]}]))
    assert isinstance(errors, list)
    assert "second container of the name web" in errors[0].problem


def test_all_mistakes_are_told_at_once() -> None:
    document = changed(f"{CONTAINER}/comand", ["x"])
    document["spec"]["replcas"] = 3
    errors = read(Deployment, document)
    assert isinstance(errors, list)
    assert [error.path for error in errors] == ["spec.template.spec.containers[0].comand", "spec.replcas"]


def test_a_pod_may_end() -> None:
    spec = {"containers": [{"name": "job", "command": ["true"]}], "restartPolicy": "Never"}
    assert isinstance(read(Pod, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}), Pod)
