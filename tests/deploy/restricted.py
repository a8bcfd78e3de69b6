"""The Restricted profile of the Pod Security Standards, for pods that are only written down yet.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from collections.abc import Iterator, Mapping
from typing import Any

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "image",
}  # fmt: skip
SECCOMP = {"RuntimeDefault", "Localhost"}


def violations(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What in a pod's spec the profile forbids: where (a container; empty: the pod), and what."""
    return [*_of_pod(spec), *(found for container in _containers(spec) for found in _of_container(container, spec))]


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(field, ())


def _of_pod(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield "", f"has {field}"
    for volume in spec.get("volumes", ()):
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield "", f"has a volume of {kind}"
    if spec.get("securityContext", {}).get("sysctls"):
        yield "", "sets sysctls"


def _of_container(container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    name, own = container["name"], container.get("securityContext", {})
    both = {**spec.get("securityContext", {}), **own}
    if own.get("privileged"):
        yield name, "is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield name, "may get more privileges"
    if both.get("runAsNonRoot") is not True:
        yield name, "may run as root"
    if both.get("runAsUser") == 0:
        yield name, "runs as root"
    if both.get("seccompProfile", {}).get("type") not in SECCOMP:
        yield name, "has no seccomp profile"
    if both.get("procMount", "Default") != "Default":
        yield name, "unmasks /proc"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()):
        yield name, "keeps capabilities"
    for added in capabilities.get("add", ()):
        if added != "NET_BIND_SERVICE":
            yield name, f"adds {added}"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield name, "takes a port of the host"
