"""The settings of a cluster's injector, as the Deployment of the manifests and one of somebody else's have them."""

import yaml

from pymesh_controlplane.cli.injection import settings
from pymesh_controlplane.injector.containers import InjectionConfig
from tests.support.repository import ROOT

DEFAULT = InjectionConfig(proxy_image="other:1", native_sidecars=False)


def test_those_of_the_manifests() -> None:
    [deployment, *_] = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/controlplane.yaml").read_text())
    found = settings(deployment, DEFAULT)
    assert found == InjectionConfig(native_sidecars=False)


def test_options_win_in_either_form() -> None:
    container = {
        "name": "pymesh-controlplane",
        "env": [{"name": "PROXY_IMAGE", "value": "env:1"}, {"name": "POD_NAME", "valueFrom": {}}],
        "command": ["pymesh-controlplane", "--kubernetes", "--proxy-image=mine:2"],
        "args": ["--trust-domain", "example.com", "--cluster-id", "west"],
    }
    deployment = {"spec": {"template": {"spec": {"containers": [{"name": "sidecar"}, container]}}}}
    found = settings(deployment, DEFAULT)
    assert (found.proxy_image, found.trust_domain, found.cluster_id) == ("mine:2", "example.com", "west")
    assert settings({"spec": {"template": {"spec": {"containers": [{"name": "x"}]}}}}, DEFAULT) == DEFAULT
