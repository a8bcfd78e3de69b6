"""Pods of every shape: what the webhook makes of them is a pod, final, and what `pymesh inject` makes of them."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import kubernetes_validate
import pytest

from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.injector.inject import inject_document
from pymesh_controlplane.injector.shape import Manifest
from pymesh_controlplane.injector.webhook import answer
from pymesh_controlplane.webhooks.admission import Answer, GroupVersionKind, GroupVersionResource, Request
from tests.controlplane.injector.making import SHAPES, pod_of, shape, stored
from tests.support.kubernetes.patches import json_patch

CONFIG = InjectionConfig(proxy_image="registry.example/pymesh-proxy:1", cluster_id="east", log_level="warning")
# `pymesh inject` is asked for a sidecar; an API server asks the webhook where one is wanted.
BY_COMMAND = replace(CONFIG, inject_by_default=True)
LEFT_ALONE = {"host-network", "says-no", "windows"}
INJECTED = [path for path in SHAPES if path.stem not in LEFT_ALONE]
VERSION = "1.36"

every_shape = pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)
every_injected = pytest.mark.parametrize("path", INJECTED, ids=lambda path: path.stem)


def asked(pod: Manifest, config: InjectionConfig = CONFIG) -> Answer:
    """The webhook's answer to an API server that is about to store `pod`."""
    kind, resource = GroupVersionKind("v1", "Pod"), GroupVersionResource("v1", "pods")
    name = pod["metadata"].get("name", "")
    given = copy.deepcopy(pod)
    result = answer(
        Request(uid="u", kind=kind, resource=resource, operation="CREATE", namespace="books", name=name, object=given),
        config,
    )
    assert given == pod, "what was sent is not to be changed"
    return result


def admitted(pod: Manifest, config: InjectionConfig = CONFIG) -> Manifest:
    """`pod` after the webhook, as it is stored."""
    result = asked(pod, config)
    assert not result.refused
    return stored(json_patch(copy.deepcopy(pod), list(result.patch)))


def canonical(pod: Manifest) -> str:
    """Equal for equal pods. The order of volumes means nothing."""
    result = copy.deepcopy(pod)
    result["spec"].get("volumes", []).sort(key=lambda volume: volume["name"])
    return json.dumps(result, sort_keys=True)


@every_injected
def test_the_webhook_and_the_command_make_the_same_pod(path: Path) -> None:
    document = shape(path)
    by_webhook = admitted(stored(pod_of(document)))
    by_command = stored(pod_of(inject_document(document, config=BY_COMMAND)))
    assert canonical(by_webhook) == canonical(by_command)
    assert by_webhook["metadata"]["annotations"]["sidecar.istio.io/status"]


@every_injected
def test_what_was_injected_before_is_left_as_it_is(path: Path) -> None:
    pod = admitted(stored(pod_of(shape(path))))
    assert list(asked(pod).patch) == []
    by_command = inject_document(shape(path), config=BY_COMMAND)
    assert list(asked(stored(pod_of(by_command))).patch) == []


@every_shape
def test_what_comes_out_is_a_pod_by_kubernetes_schema(path: Path) -> None:
    pod = admitted(stored(pod_of(shape(path))))
    pod["metadata"].setdefault("name", "generated")
    kubernetes_validate.validate(pod, VERSION, strict=True)


@pytest.mark.parametrize("name", sorted(LEFT_ALONE))
def test_a_pod_that_cannot_have_a_sidecar_or_wants_none_is_stored_as_it_is(name: str) -> None:
    pod = stored(pod_of(next(shape(path) for path in SHAPES if path.stem == name)))
    result = asked(pod)
    assert (list(result.patch), list(result.refused)) == ([], [])
    # Who has asked for nothing is told nothing; who may wonder is told why.
    assert bool(result.warnings) == (name != "says-no")
