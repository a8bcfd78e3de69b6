"""Reading pods and Deployments: what their types cannot say is checked here. Pure."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final, TypeVar

import msgspec

from pymesh import names
from pymesh.errors import ConfigError
from pymesh.resources.check import convert
from pymesh.resources.fields import Block
from pymesh_controlplane.local import environment
from pymesh_controlplane.local.podspec import (
    Container,
    Deployment,
    DeploymentSpec,
    HttpGet,
    Lifecycle,
    Pod,
    PodSpec,
    PodTemplate,
    TcpSocket,
)

# What lies there is the machine's kernel; a container that is shown something else sees a lie, or more than its own.
_KERNELS_OWN: Final = frozenset({"proc", "sys"})

# The program that listens on the sockets it is started with.
TAKES_SOCKETS: Final = "pymesh-proxy"

T = TypeVar("T", bound=Block)


def read(kind: type[T], document: Mapping[str, object]) -> T | list[ConfigError]:
    """`document` as `kind`, or everything that is wrong with it, each with its path."""
    value = convert(document, kind)
    if isinstance(value, list):
        return value
    try:
        if isinstance(value, Pod):
            check_pod(value.spec)
        elif isinstance(value, Deployment):
            _check_selector(value.spec)
            _check_template(value.spec.template)
    except ConfigError as error:
        return [error]
    return value


def _check_template(template: PodTemplate) -> None:
    try:
        check_pod(template.spec)
    except ConfigError as error:
        raise error.at("spec.template") from None


def _check_selector(spec: DeploymentSpec) -> None:
    labels = spec.template.metadata.labels
    if any(labels.get(name) != value for name, value in spec.selector.match_labels.items()):
        raise ConfigError("selects other labels than the template's pods have", path="spec.selector.matchLabels")
    if spec.template.spec.restart_policy != "Always":
        raise ConfigError("a Deployment's pods are always restarted", path="spec.template.spec.restartPolicy")


def check_pod(spec: PodSpec) -> None:
    """Hold `spec` against the rules that span several fields.

    Raises:
        ConfigError: the first thing that is wrong, with its path below the pod.
    """
    volumes: dict[str, str] = {}
    for index, volume in enumerate(spec.volumes):
        path = f"spec.volumes[{index}]"
        one_of(volume, ("emptyDir", "configMap", "downwardAPI", "projected", "hostPath"), path)
        if volume.name in volumes:
            raise ConfigError(f"a second volume of the name {volume.name}", path=f"{path}.name")
        volumes[volume.name] = path
    seen: set[str] = set()
    for field, containers in (("initContainers", spec.init_containers), ("containers", spec.containers)):
        for index, container in enumerate(containers):
            path = f"spec.{field}[{index}]"
            if container.name in seen:
                raise ConfigError(f"a second container of the name {container.name}", path=f"{path}.name")
            seen.add(container.name)
            _check_container(container, path, volumes, spec)


def _check_container(container: Container, path: str, volumes: Mapping[str, str], spec: PodSpec) -> None:
    if not container.command:
        raise ConfigError(
            f"container {container.name} has no command: images are not used on one machine, so their entrypoint is "
            'not known; write what to run, as in command: ["python3", "app.py"]',
            path=f"{path}.command",
        )
    for index, mount in enumerate(container.volume_mounts):
        if mount.name not in volumes:
            raise ConfigError(f"no volume {mount.name} in spec.volumes", path=f"{path}.volumeMounts[{index}].name")
        _check_mount_path(mount.mount_path, f"{path}.volumeMounts[{index}].mountPath")
    for index, variable in enumerate(container.env):
        if variable.value_from is not None:
            one_of(variable.value_from, ("fieldRef", "configMapKeyRef"), f"{path}.env[{index}].valueFrom")
    port_names = {port.name for port in container.ports if port.name}
    for field, probe in (
        ("readinessProbe", container.readiness_probe),
        ("livenessProbe", container.liveness_probe),
        ("startupProbe", container.startup_probe),
    ):
        if probe is None:
            continue
        one_of(probe, ("exec", "httpGet", "tcpSocket", "grpc"), f"{path}.{field}")
        _check_port(probe.http_get or probe.tcp_socket, port_names, f"{path}.{field}")
    hooks = container.lifecycle or Lifecycle()
    for field, hook in (("postStart", hooks.post_start), ("preStop", hooks.pre_stop)):
        if hook is not None:
            one_of(hook, ("exec", "httpGet", "sleep"), f"{path}.lifecycle.{field}")
            _check_port(hook.http_get, port_names, f"{path}.lifecycle.{field}")
    _check_host_ports(container, path)
    _refuse_true(container, path)
    security = container.security_context
    user = security.run_as_user if security.run_as_user is not None else spec.security_context.run_as_user
    if user == 0 and (security.run_as_non_root or spec.security_context.run_as_non_root):
        raise ConfigError("runAsNonRoot and uid 0 contradict each other", path=f"{path}.securityContext.runAsUser")


def _check_port(target: HttpGet | TcpSocket | None, port_names: set[str], path: str) -> None:
    if target is not None and isinstance(target.port, str) and target.port not in port_names:
        raise ConfigError(f"no port of the name {target.port}", path=path)


def _check_host_ports(container: Container, path: str) -> None:
    """A port of the machine leads into a pod only by a socket that is handed in, so to a program that takes one."""
    for index, port in enumerate(container.ports):
        if port.host_port is None:
            continue
        here = f"{path}.ports[{index}]"
        if PurePosixPath(container.command[0]).name != TAKES_SOCKETS:
            raise ConfigError(
                f"a pod has no way from the machine's network; a listening socket is handed in (LISTEN_FDS), and of "
                f"{container.command[0]} it is not known that it takes one: only {TAKES_SOCKETS} does. Reach the app "
                "through the ingress gateway",
                path=f"{here}.hostPort",
            )
        if port.protocol != "TCP":
            raise ConfigError("only TCP can be handed in", path=f"{here}.protocol")
        if not _is_ipv4(port.host_ip):
            raise ConfigError(f"{port.host_ip!r} is not an IPv4 address", path=f"{here}.hostIP")


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _check_mount_path(mount_path: str, path: str) -> None:
    parts = os.path.normpath(mount_path).lstrip("/").split("/")
    if parts == [""]:
        raise ConfigError("a volume on / would hide the container's programs: mount it on a directory below", path=path)
    if parts[0] in _KERNELS_OWN:
        raise ConfigError(f"/{parts[0]} is the kernel's: mount the volume elsewhere", path=path)


def refuse_sidecars_user(spec: PodSpec, namespace: str) -> None:
    """Check that no container of a pod that is not injected runs as the sidecars' user; the control plane may.

    The pods of one machine share its processes and files: with that user comes the memory of every sidecar, and
    citadel's key. In a pod that is injected the injector refuses it.

    Raises:
        ConfigError: one does, with its path below the pod.
    """
    if namespace == names.SYSTEM_NAMESPACE:
        return
    for field, containers in (("initContainers", spec.init_containers), ("containers", spec.containers)):
        for index, container in enumerate(containers):
            if environment.user(container, spec.security_context)[0] != names.PROXY_UID:
                continue
            own = container.security_context.run_as_user is not None
            raise ConfigError(
                f"uid {names.PROXY_UID} is the sidecars': whoever runs as it can read their keys; choose another",
                path=f"spec.{field}[{index}].securityContext.runAsUser" if own else "spec.securityContext.runAsUser",
            )


def _refuse_true(container: Container, path: str) -> None:
    security = container.security_context
    for value, field, why in (
        (container.stdin, "stdin", "nobody could write to it"),
        (container.tty, "tty", "there is no terminal"),
        (security.privileged, "securityContext.privileged", "name the capabilities that are needed instead"),
        (security.allow_privilege_escalation, "securityContext.allowPrivilegeEscalation", "privileges never grow"),
    ):
        if value:
            raise ConfigError(f"true is not possible here: {why}", path=f"{path}.{field}")


def one_of(block: Block, fields: tuple[str, ...], path: str) -> None:
    """Check that exactly one of `fields` is there.

    Raises:
        ConfigError: none or several are.
    """
    present = [name for name in fields if getattr(block, _attribute(type(block), name)) is not None]
    if len(present) != 1:
        found = " and ".join(present) or "none"
        raise ConfigError(f"one of {', '.join(fields)} is needed; there is {found}", path=path)


def _attribute(kind: type[Block], name: str) -> str:
    return next(field.name for field in msgspec.structs.fields(kind) if field.encode_name == name)
