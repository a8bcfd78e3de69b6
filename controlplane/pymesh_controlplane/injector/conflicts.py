"""What a pod may not have beside a sidecar: its names, its uid, its ports. Pure."""

from collections.abc import Mapping

from pymesh import names
from pymesh.app_probes import OWN_PORTS
from pymesh.errors import ConfigError
from pymesh_controlplane.injector.settings import SidecarSettings
from pymesh_controlplane.injector.shape import Manifest, mapping, named_items


def refuse_conflicts(spec: Manifest, added: Mapping[str, list[Manifest]], settings: SidecarSettings) -> None:
    """Check a pod's spec, as it was written, against what is about to be added to it, as `settings` say.

    Raises:
        ConfigError: the two cannot live in one pod; its path is below the pod.
    """
    if not named_items(spec, "containers"):
        raise ConfigError("a pod has at least one container", path="spec.containers")
    _refuse_proxy_uid(spec, "spec")
    containers = {item["name"] for field in ("initContainers", "containers") for item in added[field]}
    for field in ("initContainers", "containers"):
        _refuse_names(spec, field, containers)
        for index, container in enumerate(named_items(spec, field)):
            _refuse_proxy_uid(container, f"spec.{field}[{index}]")
            _refuse_proxy_ports(container, f"spec.{field}[{index}]", OWN_PORTS | {settings.status_port})
    _refuse_names(spec, "volumes", {volume["name"] for volume in added["volumes"]})


def _refuse_names(spec: Manifest, field: str, taken: set[str]) -> None:
    for index, item in enumerate(named_items(spec, field)):
        if item["name"] in taken:
            problem = f"the name {item['name']} belongs to the sidecar; choose another"
            raise ConfigError(problem, path=f"spec.{field}[{index}].name")


def _refuse_proxy_uid(owner: Manifest, path: str) -> None:
    if mapping(owner, "securityContext", path=f"{path}.").get("runAsUser") == names.PROXY_UID:
        raise ConfigError(
            f"uid {names.PROXY_UID} is the sidecar's: traffic of an app that runs as it would pass by the mesh",
            path=f"{path}.securityContext.runAsUser",
        )


def _refuse_proxy_ports(container: Manifest, path: str, taken: frozenset[int]) -> None:
    ports = container.get("ports")
    for index, port in enumerate(ports if isinstance(ports, list) else []):
        number = port.get("containerPort") if isinstance(port, dict) else None
        if isinstance(number, int) and number in taken:
            raise ConfigError(
                f"port {number} is the sidecar's; let the app listen elsewhere",
                path=f"{path}.ports[{index}].containerPort",
            )
