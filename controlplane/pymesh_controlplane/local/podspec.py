"""Pods and Deployments as the local runtime understands them.

Source: Kubernetes API reference v1.31, core/v1 and apps/v1. Every field is in one of three groups: honoured; marked
`Unused`, where leaving it out changes nothing that a pod could notice on one machine (an image, resource requests);
or unknown and refused, since a pod that runs differently from what was asked is worse than one that does not run.
"""
# ruff: noqa: RUF012  msgspec gives every instance its own empty list

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from pymesh.errors import ConfigError
from pymesh.resources.check import convert
from pymesh.resources.fields import Block, Count, Name, ObjectMeta, Port

Unused: TypeAlias = object | None
Seconds: TypeAlias = Annotated[int, Meta(ge=0, le=86_400, description="a number of seconds, at most a day")]
Positive: TypeAlias = Annotated[int, Meta(ge=1, le=86_400, description="a whole number from 1 to 86400")]
UserId: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1, description="the number of a user or group")]
Path: TypeAlias = Annotated[str, Meta(pattern="^/", max_length=4096, description="an absolute path")]
# A volume's file, below its directory: no way out of it.
Inside: TypeAlias = Annotated[
    str,
    Meta(pattern=r"^(?!/)(?!(.*/)?\.\.(/|$)).+$", max_length=1024, description="a relative path without .."),
]
Label: TypeAlias = Annotated[
    str,
    Meta(
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="a name of at most 63 lower case letters, digits and dashes",
    ),
]
Words: TypeAlias = Annotated[list[str], Meta(min_length=1, description="a command")]


class ObjectFieldSelector(Block, frozen=True):
    """A field of the pod: `metadata.name`, `metadata.labels['app']`, `status.podIP`, …"""

    field_path: str
    api_version: str = "v1"


class KeySelector(Block, frozen=True):
    """A key of a ConfigMap."""

    name: Name
    key: str
    optional: bool = False


class EnvVarSource(Block, frozen=True):
    """Where a variable's value comes from; exactly one."""

    field_ref: ObjectFieldSelector | None = None
    config_map_key_ref: KeySelector | None = None


class EnvVar(Block, frozen=True):
    """One variable."""

    name: Annotated[str, Meta(min_length=1, pattern="^[^=\0]+$")]
    value: str = ""
    value_from: EnvVarSource | None = None


class VolumeMount(Block, frozen=True):
    """A volume, at a path of one container."""

    name: str
    mount_path: Path
    read_only: bool = False
    sub_path: Inside | None = None


class HttpHeader(Block, frozen=True):
    """A header of a probe."""

    name: str
    value: str


class HttpGet(Block, frozen=True):
    """200 to 399 is success."""

    port: Port | str
    path: str = "/"
    scheme: Literal["HTTP"] = "HTTP"
    http_headers: list[HttpHeader] = []


class TcpSocket(Block, frozen=True):
    """An accepted connection is success."""

    port: Port | str


class Exec(Block, frozen=True):
    """Exit code 0 is success."""

    command: Words


class Sleep(Block, frozen=True):
    """A pause before the container is told to stop."""

    seconds: Seconds


class Probe(Block, frozen=True):
    """How, how often and how patiently a container is asked; exactly one of exec, httpGet, tcpSocket."""

    exec: Exec | None = None
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    initial_delay_seconds: Seconds = 0
    period_seconds: Positive = 10
    timeout_seconds: Positive = 1
    success_threshold: Positive = 1
    failure_threshold: Positive = 3
    termination_grace_period_seconds: Seconds | None = None


class LifecycleHandler(Block, frozen=True):
    """What happens before a container is told to stop; exactly one."""

    exec: Exec | None = None
    sleep: Sleep | None = None


class Lifecycle(Block, frozen=True):
    """Hooks."""

    pre_stop: LifecycleHandler | None = None


class Capabilities(Block, frozen=True):
    """Added to and dropped from what root has by default; `ALL` is allowed in both."""

    add: list[str] = []
    drop: list[str] = []


class SecurityContext(Block, frozen=True):
    """Who a container runs as. The root file system is read-only whatever is asked; privileges never grow."""

    run_as_user: UserId | None = None
    run_as_group: UserId | None = None
    run_as_non_root: bool | None = None
    capabilities: Capabilities | None = None
    privileged: bool = False
    allow_privilege_escalation: bool = False
    read_only_root_filesystem: Unused = None
    seccomp_profile: Unused = None


class PodSecurityContext(Block, frozen=True):
    """The defaults for a pod's containers."""

    run_as_user: UserId | None = None
    run_as_group: UserId | None = None
    run_as_non_root: bool | None = None
    fs_group: Unused = None
    seccomp_profile: Unused = None


class ContainerPort(Block, frozen=True):
    """A port, for its name."""

    container_port: Port
    name: str = ""
    protocol: Literal["TCP", "UDP"] = "TCP"


class Container(Block, frozen=True):
    """One container. Its image is not used: `command` is run from the machine's own files."""

    name: Label
    command: list[str] = []
    args: list[str] = []
    working_dir: Path | None = None
    env: list[EnvVar] = []
    ports: list[ContainerPort] = []
    volume_mounts: list[VolumeMount] = []
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    security_context: SecurityContext = SecurityContext()
    restart_policy: Literal["Always"] | None = None
    image: Unused = None
    image_pull_policy: Unused = None
    resources: Unused = None
    termination_message_path: Unused = None
    termination_message_policy: Unused = None
    stdin: bool = False
    tty: bool = False


class KeyToPath(Block, frozen=True):
    """One key of a ConfigMap, as a file."""

    key: str
    path: Inside
    mode: Unused = None


class ConfigMapVolume(Block, frozen=True):
    """A ConfigMap's keys, as files."""

    name: Name
    items: list[KeyToPath] = []
    optional: bool = False
    default_mode: Unused = None


class DownwardItem(Block, frozen=True):
    """A field of the pod, as a file."""

    path: Inside
    field_ref: ObjectFieldSelector
    mode: Unused = None


class DownwardVolume(Block, frozen=True):
    """Fields of the pod, as files."""

    items: list[DownwardItem] = []
    default_mode: Unused = None


class TokenProjection(Block, frozen=True):
    """A token of the pod's service account, kept fresh."""

    path: Inside
    audience: str = ""
    expiration_seconds: Annotated[int, Meta(ge=600)] = 3600


class ProjectedSource(Block, frozen=True):
    """One source; exactly one field."""

    service_account_token: TokenProjection | None = None
    config_map: ConfigMapVolume | None = None
    downward_api: DownwardVolume | None = msgspec.field(default=None, name="downwardAPI")


class ProjectedVolume(Block, frozen=True):
    """Several sources in one directory."""

    sources: list[ProjectedSource] = []
    default_mode: Unused = None


class EmptyDir(Block, frozen=True):
    """A directory that lives as long as the pod."""

    medium: Literal["", "Memory"] = ""
    size_limit: Unused = None


class HostPath(Block, frozen=True):
    """A file or directory of the machine."""

    path: Path
    type: Literal["", "Directory", "File"] = ""


class Volume(Block, frozen=True):
    """A volume; exactly one source."""

    name: Label
    empty_dir: EmptyDir | None = None
    config_map: ConfigMapVolume | None = None
    downward_api: DownwardVolume | None = msgspec.field(default=None, name="downwardAPI")
    projected: ProjectedVolume | None = None
    host_path: HostPath | None = None


class PodSpec(Block, frozen=True):
    """PodSpec v1 core."""

    containers: Annotated[list[Container], Meta(min_length=1)]
    init_containers: list[Container] = []
    volumes: list[Volume] = []
    service_account_name: Name = "default"
    service_account: Unused = None
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    termination_grace_period_seconds: Seconds = 30
    security_context: PodSecurityContext = PodSecurityContext()
    hostname: Label | None = None
    automount_service_account_token: Unused = None
    enable_service_links: Unused = None
    dns_policy: Literal["ClusterFirst", "Default"] = "ClusterFirst"
    image_pull_secrets: Unused = None
    scheduler_name: Unused = None
    priority_class_name: Unused = None
    topology_spread_constraints: Unused = None
    affinity: Unused = None
    tolerations: Unused = None


class TemplateMeta(Block, frozen=True):
    """metadata of a pod template."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    name: Unused = None
    namespace: Unused = None
    creation_timestamp: Unused = None


class PodTemplate(Block, frozen=True):
    """What the pods of a Deployment are made of."""

    spec: PodSpec
    metadata: TemplateMeta = TemplateMeta()


class LabelSelector(Block, frozen=True):
    """matchLabels alone."""

    match_labels: Annotated[dict[str, str], Meta(min_length=1)]


class RollingUpdate(Block, frozen=True):
    """How many pods more and fewer than wanted there may be while templates change; counts or percentages."""

    max_surge: Count | Annotated[str, Meta(pattern="^[0-9]{1,3}%$")] = "25%"
    max_unavailable: Count | Annotated[str, Meta(pattern="^[0-9]{1,3}%$")] = "25%"


class Strategy(Block, frozen=True):
    """How pods of an old template are replaced."""

    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    rolling_update: RollingUpdate = RollingUpdate()


class DeploymentSpec(Block, frozen=True):
    """DeploymentSpec v1 apps."""

    selector: LabelSelector
    template: PodTemplate
    replicas: Annotated[int, Meta(ge=0, le=200)] = 1
    strategy: Strategy = Strategy()
    revision_history_limit: Unused = None
    progress_deadline_seconds: Unused = None


class Deployment(Block, frozen=True):
    """Deployment v1 apps."""

    api_version: Literal["apps/v1"]
    kind: Literal["Deployment"]
    metadata: ObjectMeta
    spec: DeploymentSpec
    status: Unused = None


class Pod(Block, frozen=True):
    """Pod v1 core."""

    api_version: Literal["v1"]
    kind: Literal["Pod"]
    metadata: ObjectMeta
    spec: PodSpec
    status: Unused = None


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
        one_of(probe, ("exec", "httpGet", "tcpSocket"), f"{path}.{field}")
        target = probe.http_get or probe.tcp_socket
        if target is not None and isinstance(target.port, str) and target.port not in port_names:
            raise ConfigError(f"no port of the name {target.port}", path=f"{path}.{field}")
    if container.lifecycle and container.lifecycle.pre_stop:
        one_of(container.lifecycle.pre_stop, ("exec", "sleep"), f"{path}.lifecycle.preStop")
    _refuse_true(container, path)
    security = container.security_context
    user = security.run_as_user if security.run_as_user is not None else spec.security_context.run_as_user
    if user == 0 and (security.run_as_non_root or spec.security_context.run_as_non_root):
        raise ConfigError("runAsNonRoot and uid 0 contradict each other", path=f"{path}.securityContext.runAsUser")


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
