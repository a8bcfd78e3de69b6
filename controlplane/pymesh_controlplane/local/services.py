"""Services: which pods are behind them, and what DNS, the address translation and pilot have to know. Pure.

Source: Kubernetes, "Service" and "EndpointSlices" (conditions ready, serving, terminating).
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymesh import names
from pymesh.errors import ConfigError, MeshError
from pymesh.resources.kubernetes import EndpointSlice, Service, ServicePort
from pymesh_controlplane.local.network import DNS_ADDRESS, SERVICE_NETWORK, Frontend
from pymesh_controlplane.local.podspec import PodSpec

SLICE_LABEL: Final = "kubernetes.io/service-name"
HEADLESS: Final = "None"
DNS_SERVICE: Final = "kube-dns"
DNS_NAMESPACE: Final = "kube-system"
# Label `istio` of the pods through which traffic leaves the mesh.
EGRESS_GATEWAY: Final = "egressgateway"

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Member:
    """A pod as Services see it. It may be `ready`, as its probes have it, and terminating."""

    namespace: str
    name: str
    ip: str
    labels: Mapping[str, str]
    ready: bool
    terminating: bool
    spec: PodSpec


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod, or what an EndpointSlice of the operator's names, that answers a Service.

    What serves and is not terminating is `ready`.
    """

    ip: str
    ready: bool
    terminating: bool = False
    pod: str = ""
    serving: bool = False


@dataclass(frozen=True, slots=True)
class PortGroup:
    """Endpoints that answer on the same target ports: (service port, target port) pairs. What a slice is."""

    ports: tuple[tuple[ServicePort, int], ...]
    endpoints: tuple[Endpoint, ...]


def check(service: Service) -> None:
    """Refuse what a local mesh cannot give.

    Raises:
        ConfigError: the type is not served here, or the address is not of the Services' network.
    """
    spec = service.spec
    if spec.type == "ExternalName":
        raise ConfigError("a local mesh has no ExternalName; write a ServiceEntry", path="spec.type")
    if spec.cluster_ip not in {None, "", HEADLESS}:
        try:
            inside = ipaddress.IPv4Address(spec.cluster_ip or "") in SERVICE_NETWORK
        except ValueError:
            inside = False
        if not inside or spec.cluster_ip == DNS_ADDRESS:
            raise ConfigError(f"choose a free address of {SERVICE_NETWORK}, or none", path="spec.clusterIP")


class ClusterIps:
    """Hands out cluster IPs, and keeps one for a Service as long as that exists."""

    def __init__(self) -> None:
        self._by_service: dict[tuple[str, str], str] = {}

    def address(self, namespace: str, service: Service) -> str:
        """The address of `service` in `namespace`; the text `None` if it is headless.

        Raises:
            MeshError: the wished address is taken, or all are.
        """
        wish = service.spec.cluster_ip or ""
        if wish == HEADLESS:
            return HEADLESS
        key = (namespace, service.metadata.name)
        current = self._by_service.get(key)
        if current and wish in {"", current}:
            return current
        taken = {address: owner for owner, address in self._by_service.items() if owner != key}
        if wish in taken:
            raise MeshError(f"Service {key[0]}/{key[1]}: {wish} belongs to Service {'/'.join(taken[wish])}")
        self._by_service[key] = wish or self._free(taken)
        return self._by_service[key]

    @staticmethod
    def _free(taken: Mapping[str, object]) -> str:
        for number in range(int(ipaddress.IPv4Address(DNS_ADDRESS)) + 1, int(SERVICE_NETWORK.broadcast_address)):
            address = str(ipaddress.IPv4Address(number))
            if address not in taken:
                return address
        raise MeshError(f"all addresses of {SERVICE_NETWORK} are taken")

    def keep_only(self, services: Iterable[tuple[str, str]]) -> None:
        """Take back the addresses of all other Services, by (namespace, name)."""
        wanted = set(services)
        self._by_service = {key: address for key, address in self._by_service.items() if key in wanted}


def leaving(members: Iterable[Member]) -> list[str]:
    """Addresses of the pods that may open connections to what is outside the mesh: those of the egress gateways."""
    return [
        member.ip
        for member in members
        if member.namespace == names.SYSTEM_NAMESPACE and member.labels.get("istio") == EGRESS_GATEWAY
    ]


def groups(namespace: str, service: Service, members: Iterable[Member]) -> list[PortGroup]:
    """The pods behind `service`, grouped by the ports that they answer on; a pod without an address has none."""
    selector = service.spec.selector
    if not selector:
        return []
    found: dict[tuple[int, ...], tuple[list[tuple[ServicePort, int]], list[Endpoint]]] = {}
    for member in sorted(members, key=lambda member: member.name):
        if member.namespace != namespace or any(member.labels.get(k) != v for k, v in selector.items()):
            continue
        ports = [(port, target) for port in service.spec.ports if (target := _target(port, member.spec)) is not None]
        serving = member.ready or service.spec.publish_not_ready_addresses
        key = tuple(target for _, target in ports)
        ready = serving and not member.terminating
        endpoint = Endpoint(member.ip, ready, member.terminating, member.name, serving)
        found.setdefault(key, (ports, []))[1].append(endpoint)
    return [PortGroup(tuple(ports), tuple(endpoints)) for ports, endpoints in found.values()]


def _target(port: ServicePort, spec: PodSpec) -> int | None:
    """The port of a pod that `port` leads to; None where it leads to a name that the pod does not have."""
    if port.target_port is None:
        return port.port
    if isinstance(port.target_port, int):
        return port.target_port
    candidates = (known for container in spec.containers for known in container.ports)
    return next((known.container_port for known in candidates if known.name == port.target_port), None)


def groups_of_slices(namespace: str, service: Service, slices: Iterable[tuple[str, EndpointSlice]]) -> list[PortGroup]:
    """What the operator's own EndpointSlices, each with its namespace, say for a Service without a selector."""
    result = []
    for own_namespace, piece in slices:
        labels = piece.metadata.labels or {}
        same = own_namespace == namespace and labels.get(SLICE_LABEL) == service.metadata.name
        if not same or piece.address_type != "IPv4":
            continue
        by_name = {port.name or "": port.port for port in piece.ports or [] if port.port is not None}
        ports = tuple((port, by_name[port.name]) for port in service.spec.ports if port.name in by_name)
        endpoints = tuple(
            Endpoint(address, endpoint.conditions is None or endpoint.conditions.ready is not False)
            for endpoint in piece.endpoints or []
            for address in endpoint.addresses[:1]
        )
        result.append(PortGroup(ports, endpoints))
    return result


def frontends(service: Service, address: str, found: Sequence[PortGroup]) -> list[Frontend]:
    """What is to be translated for `service` with the cluster IP `address`."""
    if address == HEADLESS:
        return []
    result = []
    for port in service.spec.ports:
        all_of_port = [
            (endpoint, target)
            for group in found
            for own, target in group.ports
            if own == port
            for endpoint in group.endpoints
        ]
        # As kube-proxy: where nothing is ready, what is about to end and still serves (KEP-1669).
        backends = tuple((endpoint.ip, target) for endpoint, target in all_of_port if endpoint.ready) or tuple(
            (endpoint.ip, target) for endpoint, target in all_of_port if endpoint.terminating and endpoint.serving
        )
        if port.protocol != "SCTP":
            result.append(Frontend(address, port.port, port.protocol, backends))
    return result


def dns_names(namespace: str, service: Service, address: str, found: Sequence[PortGroup]) -> dict[str, tuple[str, ...]]:
    """The names of `service` and their addresses."""
    host = names.service_host(service.metadata.name, namespace)
    ready = [endpoint for group in found for endpoint in group.endpoints if endpoint.ready]
    result: dict[str, tuple[str, ...]] = {
        f"{endpoint.pod}.{host}": (endpoint.ip,) for endpoint in ready if endpoint.pod
    }
    result[host] = tuple(endpoint.ip for endpoint in ready) if address == HEADLESS else (address,)
    return result


def service_object(raw: Mapping[str, Any], address: str) -> Object:
    """The Service `raw` as the API server of a cluster would show it: with its address."""
    return {**raw, "spec": {**raw.get("spec", {}), "clusterIP": address}}


def slice_objects(namespace: str, service: Service, found: Sequence[PortGroup]) -> list[Object]:
    """The EndpointSlices of `service`; one without endpoints if there are none, so that it is known to have none."""
    name = service.metadata.name
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-{index}",
                "namespace": namespace,
                "labels": {SLICE_LABEL: name, "endpointslice.kubernetes.io/managed-by": "pymesh"},
            },
            "addressType": "IPv4",
            "ports": [
                {"name": port.name, "port": target, "protocol": port.protocol}
                | ({"appProtocol": port.app_protocol} if port.app_protocol else {})
                for port, target in group.ports
            ],
            "endpoints": [_endpoint_object(endpoint, namespace) for endpoint in group.endpoints],
        }
        for index, group in enumerate(found or [PortGroup((), ())])
    ]


def _endpoint_object(endpoint: Endpoint, namespace: str) -> Object:
    serving = endpoint.serving or endpoint.ready
    conditions = {"ready": endpoint.ready, "serving": serving, "terminating": endpoint.terminating}
    result: Object = {"addresses": [endpoint.ip], "conditions": conditions}
    if endpoint.pod:
        result["targetRef"] = {"kind": "Pod", "name": endpoint.pod, "namespace": namespace}
    return result


def dns_objects() -> list[Object]:
    """The mesh's DNS as the Service that every cluster has: sidecars let through to it, over TCP, what they know."""
    metadata = {"name": DNS_SERVICE, "namespace": DNS_NAMESPACE}
    ports = [{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
    return [
        {**service, "spec": {"clusterIP": DNS_ADDRESS, "ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": {SLICE_LABEL: DNS_SERVICE}},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [DNS_ADDRESS], "conditions": {"ready": True}}],
        },
    ]
