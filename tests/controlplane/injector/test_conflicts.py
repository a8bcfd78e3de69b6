"""What cannot live beside a sidecar is refused where it stands."""

import pytest

from pymesh.errors import ConfigError
from pymesh_controlplane.injector.containers import Manifest
from pymesh_controlplane.injector.inject import inject, inject_document
from pymesh_controlplane.injector.settings import ANNOTATION_STATUS
from tests.controlplane.injector.pods import CONFIG, pod


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"containers": []}, "spec.containers"),
        ({"containers": {"name": "app"}}, "spec.containers"),
        ({"containers": [{"image": "x"}]}, "spec.containers[0]"),
        ({"containers": ["app"]}, "spec.containers[0]"),
        ({"containers": [{"name": "pymesh-proxy"}]}, "spec.containers[0].name"),
        ({"containers": [{"name": "a"}], "initContainers": [{"name": "pymesh-init"}]}, "spec.initContainers[0].name"),
        ({"containers": [{"name": "a"}], "volumes": [{"name": "istio-token"}]}, "spec.volumes[0].name"),
        (
            {"containers": [{"name": "a", "securityContext": {"runAsUser": 1337}}]},
            "spec.containers[0].securityContext.runAsUser",
        ),
        ({"containers": [{"name": "a"}], "securityContext": {"runAsUser": 1337}}, "spec.securityContext.runAsUser"),
        (
            {"containers": [{"name": "a", "ports": [{"containerPort": 15001}]}]},
            "spec.containers[0].ports[0].containerPort",
        ),
    ],
)
def test_pods_that_cannot_have_a_sidecar_are_refused_where_they_stand(spec: Manifest, path: str) -> None:
    deployment = {"kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": {"spec": spec}}}
    with pytest.raises(ConfigError) as caught:
        inject_document(deployment, config=CONFIG)
    assert caught.value.path == f"spec.template.{path}"
    assert caught.value.resource == "Deployment default/d"


@pytest.mark.parametrize("status", ["rubbish", "[]", '{"containers": 3}', "[" * 100_000])
def test_a_status_that_is_not_the_injectors_is_refused(status: str) -> None:
    with pytest.raises(ConfigError, match="written by the injector"):
        inject(pod(annotations={ANNOTATION_STATUS: status}), config=CONFIG)
