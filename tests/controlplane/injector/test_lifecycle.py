"""Where a sidecar stands in its pod, and what holds its app back and itself alive."""

import json
from typing import Any

import pytest

from pymesh_controlplane.injector.containers import InjectionConfig, Manifest
from pymesh_controlplane.injector.inject import inject
from pymesh_controlplane.injector.settings import ANNOTATION_STATUS
from pymesh_proxy import hold

NATIVE = InjectionConfig(inject_by_default=True)
OLD = InjectionConfig(inject_by_default=True, native_sidecars=False)


def pod(annotations: dict[str, str] | None = None, **spec: Any) -> Manifest:
    containers = [{"name": "app"}, {"name": "helper"}]
    init = [{"name": "migrate"}, {"name": "logs", "restartPolicy": "Always"}]
    return {
        "metadata": {"name": "p", "annotations": annotations or {}},
        "spec": {"containers": containers, "initContainers": init, **spec},
    }


def order(result: Manifest) -> tuple[list[str], list[str]]:
    spec = result["spec"]
    return [c["name"] for c in spec["initContainers"]], [c["name"] for c in spec["containers"]]


@pytest.mark.parametrize("policy", ["Always", "Never", "OnFailure"])
def test_a_native_sidecar_stands_before_everything_of_the_apps(policy: str) -> None:
    result = inject(pod(restartPolicy=policy), config=NATIVE)
    assert order(result) == (["pymesh-init", "pymesh-proxy", "migrate", "logs"], ["app", "helper"])
    proxy = result["spec"]["initContainers"][1]
    assert proxy["restartPolicy"] == "Always"
    assert proxy["startupProbe"]["httpGet"] == {"path": "/healthz/ready", "port": 15021}
    assert proxy["startupProbe"]["failureThreshold"] == 600
    # Kubernetes refuses another successThreshold, and a postStart is not needed: the startup probe holds the app.
    assert proxy["lifecycle"] == {"preStop": {"exec": {"command": ["pymesh-proxy", "drain"]}}}


def test_an_ordinary_sidecar_is_the_first_container_and_its_hooks_hold_the_app_and_itself() -> None:
    result = inject(pod(terminationGracePeriodSeconds=60), config=OLD)
    assert order(result) == (["migrate", "logs", "pymesh-init"], ["pymesh-proxy", "app", "helper"])
    assert json.loads(result["metadata"]["annotations"][ANNOTATION_STATUS])["containers"] == ["pymesh-proxy"]
    proxy = result["spec"]["containers"][0]
    hooks = {name: hook["exec"]["command"] for name, hook in proxy["lifecycle"].items()}
    assert hooks == {
        "postStart": ["pymesh-proxy", "wait"],
        "preStop": ["pymesh-proxy", "drain", "--until-app-ends", "52"],
    }
    assert "restartPolicy" not in proxy
    for command in hooks.values():
        assert hold.parse(command[1:])


@pytest.mark.parametrize(("grace", "patience"), [(None, "22"), (5, "0"), (0, "0")])
def test_the_hook_leaves_the_sidecar_time_to_end(grace: int | None, patience: str) -> None:
    result = inject(pod(terminationGracePeriodSeconds=grace), config=OLD)
    assert result["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1] == patience


def test_the_pod_has_the_last_word_on_the_clusters_sidecars() -> None:
    asked = {"sidecar.istio.io/nativeSidecar": "true"}
    assert order(inject(pod(asked), config=OLD)) == order(inject(pod(), config=NATIVE))
    refused = {"sidecar.istio.io/nativeSidecar": "false"}
    assert order(inject(pod(refused), config=NATIVE)) == order(inject(pod(), config=OLD))


def test_an_ordinary_envoy_starts_before_the_agent_that_waits_for_it() -> None:
    result = inject(pod({"sidecar.pymesh.io/proxy": "envoy"}), config=OLD)
    assert order(result)[1] == ["envoy", "pymesh-agent", "app", "helper"]
    envoy, agent, *_ = result["spec"]["containers"]
    assert "lifecycle" not in envoy
    assert agent["lifecycle"]["postStart"]["exec"]["command"] == ["pymesh-proxy", "wait"]


def test_the_probe_of_the_sidecar_follows_the_annotations() -> None:
    prefix = "readiness.status.sidecar.istio.io/"
    wishes = {f"{prefix}initialDelaySeconds": "3", f"{prefix}periodSeconds": "7", f"{prefix}failureThreshold": "9"}
    proxy = inject(pod(wishes), config=NATIVE)["spec"]["initContainers"][1]
    probe = proxy["readinessProbe"]
    assert (probe["initialDelaySeconds"], probe["periodSeconds"], probe["failureThreshold"]) == (3, 7, 9)
    assert "initialDelaySeconds" not in proxy["startupProbe"], "the app waits for this one"
