"""Kubernetes' own kinds, as far as the mesh reads them.

Source: Kubernetes API reference v1.31, core/v1, discovery.k8s.io/v1, apps/v1.
"""

import base64
from typing import Literal

import msgspec

from pymesh.resources.fields import Block, Loose, Name, ObjectMeta, Port


class ServicePort(Block, frozen=True):
    """ServicePort v1 core."""

    port: Port
    name: str = ""
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    target_port: Port | str | None = None
    app_protocol: str | None = None
    node_port: int | None = None


class ServiceSpec(Block, frozen=True):
    """ServiceSpec v1 core.

    The fields that steer traffic from outside the cluster, or that only kube-proxy reads, are known and without
    effect on the mesh, as in Istio.
    """

    ports: list[ServicePort] = []
    selector: dict[str, str] | None = None
    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    external_name: str | None = None
    publish_not_ready_addresses: bool = False
    allocate_load_balancer_node_ports: object | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    external_traffic_policy: object | None = None
    health_check_node_port: object | None = None
    internal_traffic_policy: object | None = None
    ip_families: object | None = None
    ip_family_policy: object | None = None
    load_balancer_class: object | None = None
    load_balancer_ip: object | None = msgspec.field(default=None, name="loadBalancerIP")
    load_balancer_source_ranges: object | None = None
    session_affinity: Literal["None", "ClientIP"] | None = None
    session_affinity_config: object | None = None
    traffic_distribution: object | None = None


class Service(Block, frozen=True):
    """Service v1 core."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: ServiceSpec = ServiceSpec()
    status: object | None = None


class ContainerPort(Loose, frozen=True):
    """ContainerPort v1 core."""

    container_port: Port
    name: str = ""
    protocol: str = "TCP"


class Container(Loose, frozen=True):
    """Container v1 core; what runs in it is the business of who runs it."""

    name: str
    ports: list[ContainerPort] | None = None
    restart_policy: str | None = None


class PodSpec(Loose, frozen=True):
    """PodSpec v1 core."""

    service_account_name: Name | None = None
    containers: list[Container] = []
    init_containers: list[Container] | None = None
    host_network: bool = False
    node_name: str | None = None


class PodIP(Loose, frozen=True):
    """PodIP v1 core."""

    ip: str = ""


class PodStatus(Loose, frozen=True):
    """PodStatus v1 core."""

    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: list[PodIP] | None = msgspec.field(default=None, name="podIPs")
    phase: str | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """All its addresses, the first one first; where Kubernetes has two families, one of each."""
        found = [self.pod_ip or "", *(item.ip for item in self.pod_ips or [])]
        return tuple(dict.fromkeys(address for address in found if address))


class Pod(Block, frozen=True):
    """Pod v1 core."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: PodSpec = PodSpec()
    status: PodStatus | None = None


class EndpointConditions(Loose, frozen=True):
    """EndpointConditions v1 discovery.k8s.io; unknown readiness counts as ready, as the API says."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class TargetRef(Loose, frozen=True):
    """ObjectReference v1 core."""

    kind: str = ""
    name: str = ""
    namespace: str = ""


class SliceEndpoint(Loose, frozen=True):
    """Endpoint v1 discovery.k8s.io."""

    addresses: list[str]
    conditions: EndpointConditions | None = None
    target_ref: TargetRef | None = None
    node_name: str | None = None
    zone: str | None = None


class SlicePort(Loose, frozen=True):
    """EndpointPort v1 discovery.k8s.io."""

    port: Port | None = None
    name: str | None = None
    protocol: str | None = None


class EndpointSlice(Block, frozen=True):
    """EndpointSlice v1 discovery.k8s.io; the label kubernetes.io/service-name ties it to its service."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    address_type: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


class Opaque(Loose, frozen=True):
    """A kind that the mesh accepts for others to use: Deployment, ServiceAccount, Namespace, ConfigMap.

    Its content is in `Resource.raw`. Deployments are read by what runs pods; `Namespace` and `ConfigMap` have no
    effect on routing.
    """

    metadata: ObjectMeta
    api_version: str
    kind: str


class Secret(Block, frozen=True):
    """Secret v1 core. `data` is base64, `stringData` plain text that wins over it."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    type: str = "Opaque"
    data: dict[str, str] = {}
    string_data: dict[str, str] = {}
    immutable: bool | None = None

    def __repr__(self) -> str:
        """Its keys alone: what is printed, logged or compared in a test must not show what it holds."""
        return f"Secret({self.metadata.name!r}, {sorted({*self.data, *self.string_data})})"

    def content(self) -> dict[str, bytes]:
        """What it holds, by key.

        Raises:
            ValueError: a value of `data` is not base64; the text names the key.
        """
        found: dict[str, bytes] = {}
        for key, value in self.data.items():
            try:
                found[key] = base64.b64decode("".join(value.split()), validate=True)
            except ValueError:
                raise ValueError(key) from None
        return found | {key: value.encode() for key, value in self.string_data.items()}


class ServiceAccount(Opaque, frozen=True):
    """ServiceAccount v1 core."""


class Deployment(Opaque, frozen=True):
    """Deployment v1 apps."""


class Node(Opaque, frozen=True):
    """Node v1 core. Its labels say where it stands, and so the pods on it."""


class Namespace(Opaque, frozen=True):
    """Namespace v1 core."""


class ConfigMap(Opaque, frozen=True):
    """ConfigMap v1 core."""
