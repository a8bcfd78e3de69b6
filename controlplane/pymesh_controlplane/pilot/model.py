"""The world as pilot sees it: immutable, whole, and made of plain values.

A `World` is made by `pilot.world.build` out of the resources in force, and read by the pure translation in
`listeners`, `routes`, `clusters` and `endpoints`. A change of the world is a new `World`.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pymesh.errors import ConfigError, Position
from pymesh.identity import Identity
from pymesh.peer_metadata import ServiceFacts
from pymesh.resources.istio.authorization_policy import AuthorizationPolicy
from pymesh.resources.istio.destination_rule import DestinationRule
from pymesh.resources.istio.gateway import Gateway
from pymesh.resources.istio.peer_authentication import PeerAuthentication
from pymesh.resources.istio.request_authentication import KeySource, RequestAuthentication
from pymesh.resources.istio.service_entry import ServiceEntry
from pymesh.resources.istio.virtual_service import VirtualService
from pymesh.resources.mesh_config import MeshConfig
from pymesh.resources.resource import Key, Resource


class Severity(enum.Enum):
    """How bad a problem is: an error keeps a resource (or its new version) out of force, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a person should know about what they wrote.

    Attributes:
        sentence: what is wrong and what to do.
        path: the field, as in `spec.http[0].route[0].destination.host`; may be empty.
        position: the place in the file.
        resource: `VirtualService default/reviews`; empty if the file could not be read that far.
        consequence: what is in force instead: "the version before it stays in force"; empty for warnings.
        dangling: whether it is about something else that is not there, or not as it is named: right by itself once
            that comes.
    """

    severity: Severity
    sentence: str
    path: str = ""
    position: Position | None = None
    resource: str = ""
    consequence: str = ""
    dangling: bool = False

    @classmethod
    def of(cls, error: ConfigError, severity: Severity = Severity.ERROR, consequence: str = "") -> "Problem":
        """The problem that `error` tells of."""
        return cls(severity, error.problem, error.path, error.position, error.resource, consequence)

    def as_json(self) -> dict[str, str | int]:
        """For programs: every attribute, the position also in its parts (0 where there is none), and all as `text`."""
        at = self.position or Position("")
        return {
            "text": str(self),
            "severity": self.severity.value,
            "sentence": self.sentence,
            "path": self.path,
            "position": str(at),
            "file": at.file,
            "line": at.line,
            "column": at.column,
            "resource": self.resource,
            "consequence": self.consequence,
        }

    def __str__(self) -> str:
        where = ": ".join(str(part) for part in (self.position, self.resource, self.path) if part)
        text = (
            f"{where}: {self.severity.value}: {self.sentence}" if where else f"{self.severity.value}: {self.sentence}"
        )
        return f"{text} ({self.consequence})" if self.consequence else text


class Protocol(enum.Enum):
    """What is spoken on a port, as its name or appProtocol says.

    HTTP/2 and gRPC are carried as TCP until the sidecar speaks HTTP/2.
    """

    HTTP = "http"
    TCP = "tcp"
    TLS = "tls"
    AUTO = "auto"  # not said: found out per connection

    @property
    def may_be_http(self) -> bool:
        """Whether requests on the port are routed one by one."""
        return self in {Protocol.HTTP, Protocol.AUTO}


class Resolution(enum.Enum):
    """Where the endpoints of a service come from."""

    ENDPOINTS = "endpoints"  # known to pilot: EndpointSlices, or the addresses of a service entry
    DNS = "dns"  # names that the proxy resolves, all addresses used
    DNS_ROUND_ROBIN = "dns_round_robin"  # names that the proxy resolves, one address at a time
    ORIGINAL = "original"  # the address that the application dialled: headless services, resolution NONE


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a service. `target` is the pod's port: a number, or the name of a container's port."""

    name: str
    port: int
    target: int | str
    protocol: Protocol


class Locality(NamedTuple):
    """Where a pod stands, from the widest to the narrowest; what is not known is empty."""

    region: str = ""
    zone: str = ""
    subzone: str = ""


NOWHERE: Final = Locality()


@dataclass(frozen=True, slots=True)
class Workload:
    """A pod. `mesh` says that a sidecar of ours is in front of it (label security.istio.io/tlsMode: istio)."""

    name: str
    namespace: str
    ip: str
    service_account: str
    workload: str  # what made it, as in the Deployment's name
    labels: Mapping[str, str]
    container_ports: Mapping[str, int]  # by name; nameless ones under their number
    mesh: bool
    locality: Locality = NOWHERE

    def identity(self, trust_domain: str) -> Identity:
        """Who it is in the mesh."""
        return Identity(trust_domain, self.namespace, self.service_account)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A ready address behind a port of a service.

    Attributes:
        address: an IP address, or a host name for services with DNS resolution.
        labels: of the pod, or as the service entry says.
        workload: the pod that has the address; None if none has.
        mesh: whether a sidecar of ours stands there and accepts mutual TLS on this port.
        weight: its share of the traffic, relative to the others.
    """

    address: str
    port: int
    labels: Mapping[str, str]
    workload: Workload | None = None
    mesh: bool = False
    weight: int = 1
    locality: Locality = NOWHERE


@dataclass(frozen=True, slots=True)
class Service:
    """A service: of Kubernetes, or of a ServiceEntry (one `Service` per host).

    Attributes:
        host: `reviews.default.svc.cluster.local`, `api.example.com` or `*.example.com`.
        addresses: cluster IPs, or the addresses of a service entry (which may be CIDR ranges).
        accounts: SPIFFE identities that its endpoints may have, sorted.
        external: outside the mesh (MESH_EXTERNAL).
        resource: where it was written.
    """

    host: str
    name: str
    namespace: str
    addresses: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    resolution: Resolution
    selector: Mapping[str, str]
    accounts: tuple[str, ...]
    external: bool
    resource: Resource[object]

    @property
    def facts(self) -> ServiceFacts:
        """What telemetry calls it."""
        return ServiceFacts(self.host, self.name, self.namespace)

    @property
    def headless(self) -> bool:
        """Whether it is a Kubernetes service without a cluster IP: callers dial its pods by address."""
        return self.kubernetes and self.resolution is Resolution.ORIGINAL

    @property
    def kubernetes(self) -> bool:
        """Whether short names (`reviews`, `reviews.default`) stand for it."""
        return self.resource.key.kind == "Service"

    def port(self, number: int) -> ServicePort | None:
        """The port with this number."""
        return next((port for port in self.ports if port.port == number), None)


class ClusterIPs(NamedTuple):
    """The addresses that Kubernetes has given to services (see `pilot.cluster_ips`).

    Attributes:
        owners: by address, the host of its service.
        requests: by port, the addresses, as numbers and in their order, of services that speak HTTP there, each with
            its host: requests are told apart by host, so that the port is theirs whatever address is dialled.
    """

    owners: Mapping[str, str]
    requests: Mapping[int, tuple[tuple[int, str], ...]]


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Everything that is known at one moment.

    Attributes:
        revision: digest of the resources in force; equal for equal content.
        resources: what is in force, by key.
        services: by host name, sorted.
        workloads: pods that have an address, by it.
        endpoints: ready endpoints by (host, service port), sorted by address.
        virtual_services ... request_authentications: in the order of their keys.
        rules: destination rules by namespace and resolved host; the first by name where there are several.
        routing: the virtual service for requests inside the mesh, by resolved host; of several as `precedence` says.
        cluster_ips: which service has which address from Kubernetes.
        aliases: services that are but other names of one in the mesh (ExternalName), by the host of that one.
        mesh: what holds for the whole mesh.
        key_sets: the keys of issuers, as far as they could be fetched (see `pilot.jwks`).
        problems: what was refused or looks wrong, for `pymesh status` and `pymesh apply` to show.
    """

    revision: str
    resources: Mapping[Key, Resource[object]]
    services: Mapping[str, Service]
    workloads: Mapping[str, Workload]
    endpoints: Mapping[tuple[str, int], tuple[Endpoint, ...]]
    virtual_services: tuple[Resource[VirtualService], ...] = ()
    destination_rules: tuple[Resource[DestinationRule], ...] = ()
    service_entries: tuple[Resource[ServiceEntry], ...] = ()
    gateways: tuple[Resource[Gateway], ...] = ()
    peer_authentications: tuple[Resource[PeerAuthentication], ...] = ()
    authorization_policies: tuple[Resource[AuthorizationPolicy], ...] = ()
    request_authentications: tuple[Resource[RequestAuthentication], ...] = ()
    rules: Mapping[str, Mapping[str, Resource[DestinationRule]]] = field(default_factory=dict)
    routing: Mapping[str, Resource[VirtualService]] = field(default_factory=dict)
    cluster_ips: ClusterIPs = field(default_factory=lambda: ClusterIPs({}, {}))
    aliases: Mapping[str, tuple[Service, ...]] = field(default_factory=dict)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    key_sets: Mapping[KeySource, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    trust_domain: str = "cluster.local"
    root_namespace: str = "pymesh-system"

    def workload_at(self, addresses: Iterable[str]) -> Workload | None:
        """The pod that has the first of `addresses` that is known."""
        return next((self.workloads[address] for address in addresses if address in self.workloads), None)

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """See `MeshConfig.trust_domains`."""
        return self.mesh.trust_domains(self.trust_domain)
