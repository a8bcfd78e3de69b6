"""Pods to inject, and what is read of those that were."""

import json

from pymesh_controlplane.injector.containers import InjectionConfig, Manifest
from pymesh_controlplane.injector.settings import SUPPORTED

CONFIG = InjectionConfig(inject_by_default=True)
OPT_IN = InjectionConfig()
INTERCEPTION_MODE = "sidecar.istio.io/interceptionMode"


def pod(**metadata: object) -> Manifest:
    """A pod with one container, and more said in its metadata."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "reviews", **metadata},
        "spec": {"containers": [{"name": "app", "image": "reviews:1", "ports": [{"containerPort": 9080}]}]},
    }


def annotated(**annotations: str) -> Manifest:
    """A pod with these annotations; their prefix goes without saying."""
    names_of = {name.rpartition("/")[2]: name for name in SUPPORTED} | {"interceptionMode": INTERCEPTION_MODE}
    return pod(annotations={names_of[name]: value for name, value in annotations.items()})


def canonical(value: object) -> str:
    """One text for what is equal."""
    return json.dumps(value, sort_keys=True)


def container(result: Manifest, name: str) -> Manifest:
    """The container of an injected pod that has this name, whatever its kind."""
    spec = result["spec"]
    [found] = [c for c in [*spec.get("initContainers", []), *spec["containers"]] if c["name"] == name]
    return dict(found)


def option(command: list[str], name: str) -> str | None:
    """The value of a command's option; None where it is not given."""
    return command[command.index(name) + 1] if name in command else None
