"""How the injector of a cluster is configured: by the control plane's Deployment, and the versions of Kubernetes."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from pymesh import names
from pymesh.errors import MeshError
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.injector.webhook import kubelets_of, native_sidecars
from pymesh_controlplane.kube.api import Api
from pymesh_controlplane.kube.paths import Paths


def of_cluster(api: Api, paths: Paths) -> InjectionConfig:
    """What the webhook of a cluster injects with.

    Raises:
        ApiError: it cannot be seen.
        MeshError: there is no mesh.
    """
    deployment = api.find(paths.of("Deployment", names.SYSTEM_NAMESPACE, names.CONTROL_PLANE))
    if deployment is None:
        raise MeshError(
            f"context {api.context}: namespace {names.SYSTEM_NAMESPACE} has no {names.CONTROL_PLANE}, whose settings "
            "pods would be injected with: pymesh install installs it"
        )
    native = native_sidecars(api.get("/version"), kubelets_of(api.items(paths.of("Node"))))
    return settings(deployment, InjectionConfig(native_sidecars=native))


def namespaces(api: Api, paths: Paths) -> dict[str, dict[str, str]]:
    """Labels of the cluster's namespaces, by name.

    Raises:
        ApiError: they cannot be seen.
    """
    found = api.items(paths.of("Namespace"))
    return {item["metadata"]["name"]: item["metadata"].get("labels") or {} for item in found}


def settings(deployment: Mapping[str, Any], default: InjectionConfig) -> InjectionConfig:
    """`default` with what the control plane's Deployment says otherwise, as `pymesh_controlplane.options` reads it."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    container = next((item for item in containers if item["name"] == names.CONTROL_PLANE), containers[0])
    said = {variable["name"]: str(variable.get("value") or "") for variable in container.get("env") or []}
    words = [str(word) for word in (*(container.get("command") or []), *(container.get("args") or []))]
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        said[option] = value if equals else following
    return replace(
        default,
        proxy_image=said.get("--proxy-image") or said.get("PROXY_IMAGE") or default.proxy_image,
        cluster_id=said.get("--cluster-id") or default.cluster_id,
        trust_domain=said.get("--trust-domain") or default.trust_domain,
    )
