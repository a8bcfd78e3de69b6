"""Pods and Deployments as the local runtime understands them.

Source: Kubernetes API reference v1.31, core/v1 and apps/v1. Every field is in one of three groups: honoured; marked
`Unused`, where leaving it out changes nothing that a pod could notice on one machine (an image, resource requests);
or unknown and refused, since a pod that runs differently from what was asked is worse than one that does not run.
"""
# ruff: noqa: RUF012  msgspec gives every instance its own empty list

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

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
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z",
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
    """200 to 399 is success; with HTTPS, whatever the certificate. The host is the pod's address, as by default."""

    port: Port | str
    path: str = "/"
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    http_headers: list[HttpHeader] = []


class TcpSocket(Block, frozen=True):
    """An accepted connection is success."""

    port: Port | str


class GrpcAction(Block, frozen=True):
    """SERVING, said by `grpc.health.v1.Health/Check` of `service`, is success."""

    port: Port
    service: str | None = None


class Exec(Block, frozen=True):
    """Exit code 0 is success."""

    command: Words


class Sleep(Block, frozen=True):
    """A pause before the container is told to stop."""

    seconds: Seconds


class Probe(Block, frozen=True):
    """How, how often and how patiently a container is asked; exactly one of exec, httpGet, tcpSocket, grpc."""

    exec: Exec | None = None
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    grpc: GrpcAction | None = None
    initial_delay_seconds: Seconds = 0
    period_seconds: Positive = 10
    timeout_seconds: Positive = 1
    success_threshold: Positive = 1
    failure_threshold: Positive = 3
    termination_grace_period_seconds: Seconds | None = None


class LifecycleHandler(Block, frozen=True):
    """What happens after the start of a container, or before it is told to stop; exactly one."""

    exec: Exec | None = None
    http_get: HttpGet | None = None
    sleep: Sleep | None = None


class Lifecycle(Block, frozen=True):
    """Hooks. The next container is started when postStart is done."""

    post_start: LifecycleHandler | None = None
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
    """A port, for its name; with `hostPort`, one that the machine itself reaches (see `host_ports`)."""

    container_port: Port
    name: str = ""
    protocol: Literal["TCP", "UDP"] = "TCP"
    host_port: Port | None = None
    host_ip: str = msgspec.field(default="127.0.0.1", name="hostIP")


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

    max_surge: Count | Annotated[str, Meta(pattern=r"^[0-9]{1,3}%\Z")] = "25%"
    max_unavailable: Count | Annotated[str, Meta(pattern=r"^[0-9]{1,3}%\Z")] = "25%"


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
