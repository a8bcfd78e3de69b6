"""Resources in force → the world. Pure."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import msgspec

from pymesh import names
from pymesh.identity import Identity
from pymesh.resources import kubernetes, mesh_config
from pymesh.resources.istio.authorization_policy import AuthorizationPolicy
from pymesh.resources.istio.destination_rule import DestinationRule
from pymesh.resources.istio.gateway import Gateway
from pymesh.resources.istio.peer_authentication import PeerAuthentication
from pymesh.resources.istio.request_authentication import RequestAuthentication
from pymesh.resources.istio.service_entry import ServiceEntry, ServiceEntrySpec
from pymesh.resources.istio.virtual_service import VirtualService
from pymesh.resources.redaction import redacted
from pymesh.resources.resource import Key, Resource, holds
from pymesh_controlplane.pilot import cluster_ips, hosts, precedence
from pymesh_controlplane.pilot.model import (
    ClusterIPs,
    Endpoint,
    Problem,
    Protocol,
    Resolution,
    Service,
    ServicePort,
    Workload,
    World,
)
from pymesh_controlplane.pilot.pods import Pods, pods_of

T = TypeVar("T")

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"

_PROTOCOLS: Final[Mapping[str, Protocol]] = {
    "http": Protocol.HTTP,
    "grpc-web": Protocol.HTTP,
    "kubernetes.io/ws": Protocol.HTTP,
    "https": Protocol.TLS,
    "tls": Protocol.TLS,
    "kubernetes.io/wss": Protocol.TLS,
    "tcp": Protocol.TCP,
    "mongo": Protocol.TCP,
    "mysql": Protocol.TCP,
    "redis": Protocol.TCP,
    "http2": Protocol.TCP,  # HTTP/2: opaque until the sidecar speaks it
    "grpc": Protocol.TCP,
    "kubernetes.io/h2c": Protocol.TCP,
}
# Here the server speaks first, so waiting for the client's first bytes to find out the protocol would wait for ever:
# SMTP, DNS, MySQL, MongoDB (the same ports as Istio).
_SERVER_SPEAKS_FIRST: Final = frozenset({25, 53, 3306, 27017})


def build(
    resources: Iterable[Resource[object]],
    problems: Iterable[Problem] = (),
    trust_domain: str = names.TRUST_DOMAIN,
    root_namespace: str = names.SYSTEM_NAMESPACE,
) -> World:
    """The world that `resources` describe, one resource per key. Their order does not matter."""
    in_force = {resource.key: resource for resource in sorted(resources, key=lambda resource: resource.key)}
    mesh = _mesh(in_force, root_namespace)
    domains = mesh.trust_domains(trust_domain)
    authentications = _of(in_force, PeerAuthentication)
    pods = pods_of(_of(in_force, kubernetes.Pod), _of(in_force, kubernetes.Node), authentications, root_namespace)
    slices = _slices(_of(in_force, kubernetes.EndpointSlice))
    services: dict[str, Service] = {}
    endpoints: dict[tuple[str, int], tuple[Endpoint, ...]] = {}
    for resource in _of(in_force, kubernetes.Service):
        service = _service(resource, pods, slices, domains)
        services[service.host] = service
        endpoints.update(_ready_endpoints(service, resource.value.spec, slices, pods))
    aliases = _aliases(services)
    for service, spec in _by_rank(_of(in_force, ServiceEntry), pods, domains, root_namespace):
        if services.setdefault(service.host, service) is service:
            endpoints.update(_entry_endpoints(service, spec, pods))
    given = cluster_ips.given(services.values(), root_namespace)
    services = {host: _with_its_own(service, given) for host, service in sorted(services.items())}
    return World(
        revision=_revision(in_force),
        resources=in_force,
        services=services,
        workloads=pods.by_address,
        endpoints=dict(sorted(endpoints.items())),
        virtual_services=_of(in_force, VirtualService),
        destination_rules=_of(in_force, DestinationRule),
        service_entries=_of(in_force, ServiceEntry),
        gateways=_of(in_force, Gateway),
        peer_authentications=authentications,
        authorization_policies=_of(in_force, AuthorizationPolicy),
        request_authentications=_of(in_force, RequestAuthentication),
        rules=_rules(_of(in_force, DestinationRule), services),
        routing=_routing(_of(in_force, VirtualService), services, root_namespace),
        cluster_ips=given,
        aliases=aliases,
        mesh=mesh,
        problems=tuple(problems),
        trust_domain=trust_domain,
        root_namespace=root_namespace,
    )


def protocol_of(name: str, app_protocol: str | None, port: int) -> Protocol:
    """What is spoken on a port: by `appProtocol`, else by the name up to its first dash (`http-metrics`)."""
    if app_protocol is not None:
        return _PROTOCOLS.get(app_protocol.lower(), Protocol.AUTO)
    word = name.lower()
    said = _PROTOCOLS.get(word) or _PROTOCOLS.get(word.partition("-")[0])
    if said is not None:
        return said
    return Protocol.TCP if port in _SERVER_SPEAKS_FIRST else Protocol.AUTO


def _of(resources: Mapping[Key, Resource[object]], kind: type[T]) -> tuple[Resource[T], ...]:
    return tuple(resource for resource in resources.values() if holds(resource, kind))


def _by_rank(
    entries: Iterable[Resource[ServiceEntry]], pods: Pods, domains: Sequence[str], root_namespace: str
) -> list[tuple[Service, ServiceEntrySpec]]:
    """The services of ServiceEntries; of several for one host, the one that counts comes first."""
    ranked = [
        (precedence.rank(entry, precedence.owner_by_name(service.host), root_namespace), service, entry.value.spec)
        for entry in entries
        for service in _entry_services(entry, pods.by_address, domains)
    ]
    return [(service, spec) for _, service, spec in sorted(ranked, key=lambda found: found[0])]


def _mesh(resources: Mapping[Key, Resource[object]], root_namespace: str) -> mesh_config.MeshConfig:
    """What the mesh's ConfigMap says; the defaults where there is none, or where galley is about to refuse it."""
    resource = resources.get(Key("ConfigMap", root_namespace, mesh_config.CONFIG_MAP))
    found = mesh_config.read(resource) if resource is not None and holds(resource, kubernetes.ConfigMap) else None
    return found if isinstance(found, mesh_config.MeshConfig) else mesh_config.MeshConfig()


def _revision(resources: Mapping[Key, Resource[object]]) -> str:
    digest = hashlib.sha256()
    for resource in resources.values():
        digest.update(msgspec.json.encode(redacted(resource.raw), order="sorted"))
    return digest.hexdigest()[:16]


def _rules(
    resources: Iterable[Resource[DestinationRule]], services: Mapping[str, Service]
) -> dict[str, dict[str, Resource[DestinationRule]]]:
    found: dict[str, dict[str, Resource[DestinationRule]]] = {}
    for resource in resources:
        namespace = resource.key.namespace
        host = hosts.resolve(resource.value.spec.host, namespace, services)
        found.setdefault(namespace, {}).setdefault(host, resource)
    return found


def _routing(
    resources: Iterable[Resource[VirtualService]], services: Mapping[str, Service], root_namespace: str
) -> dict[str, Resource[VirtualService]]:
    found: dict[str, tuple[precedence.Rank, Resource[VirtualService]]] = {}
    for resource in resources:
        spec = resource.value.spec
        if not spec.gateways or "mesh" in spec.gateways:
            for written in spec.hosts:
                host = hosts.resolve(written, resource.key.namespace, services)
                rank = precedence.rank(resource, precedence.owner(host, services), root_namespace)
                if host not in found or rank < found[host][0]:
                    found[host] = rank, resource
    return {host: resource for host, (_, resource) in found.items()}


# --- Services ------------------------------------------------------------------------------------------------------


def _service(
    resource: Resource[kubernetes.Service],
    pods: Pods,
    slices: Mapping[tuple[str, str], list[kubernetes.EndpointSlice]],
    domains: Sequence[str],
) -> Service:
    spec, key = resource.value.spec, resource.key
    external = spec.type == "ExternalName"
    # From within the cluster, kube-proxy takes an external address for the service as it does a cluster IP.
    addresses = [] if external else [spec.cluster_ip or "", *(spec.cluster_ips or []), *(spec.external_ips or [])]
    selector = {} if external else spec.selector or {}
    behind = pods.selected(key.namespace, selector)
    for item in slices.get((key.namespace, key.name), []):
        found = (pods.behind(e, address, key.namespace)[0] for e in item.endpoints or [] for address in e.addresses)
        behind += [workload for workload in found if workload is not None]
    return Service(
        host=names.service_host(key.name, key.namespace),
        name=key.name,
        namespace=key.namespace,
        # IPv6 is not served yet: galley says so where a service has such an address.
        addresses=tuple(dict.fromkeys(a for a in addresses if a not in {"", "None"} and ":" not in a)),
        ports=tuple(
            ServicePort(port.name, port.port, port.target_port or port.port, _service_protocol(port))
            for port in spec.ports
            if port.protocol == "TCP"
        ),
        resolution=_service_resolution(spec),
        selector=selector,
        accounts=_accounts(behind, key.namespace, domains),
        external=external,
        resource=resource,
    )


def _with_its_own(service: Service, given: ClusterIPs) -> Service:
    """The service without the addresses that Kubernetes has given to another."""
    own = cluster_ips.without_others(service, given)
    return service if own == service.addresses else replace(service, addresses=own)


def _service_resolution(spec: kubernetes.ServiceSpec) -> Resolution:
    if spec.type == "ExternalName":
        return Resolution.DNS
    return Resolution.ORIGINAL if spec.cluster_ip == "None" else Resolution.ENDPOINTS


def _aliases(services: dict[str, Service]) -> dict[str, tuple[Service, ...]]:
    """Take the services out that are but other names (ExternalName) of services here, and give them by their hosts.

    What is called by such a name is then the service itself: its endpoints, its identity, its routes.
    """
    found: dict[str, tuple[Service, ...]] = {}
    for host, service in list(services.items()):
        name = _external_name(service)
        if name != host and name in services and not _external_name(services[name]):
            del services[host]
            found[name] = (*found.get(name, ()), service)
    return found


def _external_name(service: Service) -> str:
    """What an ExternalName stands for; empty for any other service."""
    resource = service.resource
    if not service.external or not holds(resource, kubernetes.Service):
        return ""
    return (resource.value.spec.external_name or "").lower().removesuffix(".")


def _service_protocol(port: kubernetes.ServicePort) -> Protocol:
    return protocol_of(port.name, port.app_protocol, port.port)


def _accounts(workloads: Iterable[Workload], namespace: str, domains: Sequence[str]) -> tuple[str, ...]:
    """Who may answer for a service, in the mesh's trust domain or one that stands for it.

    A service without pods has the account that its first pod would get unasked. Never empty: to a TLS client an empty
    list of names would mean that anyone will do.
    """
    accounts = sorted({(workload.namespace, workload.service_account) for workload in workloads})
    return tuple(
        str(Identity(domain, *account)) for domain in domains for account in accounts or [(namespace, "default")]
    )


def _slices(
    resources: Iterable[Resource[kubernetes.EndpointSlice]],
) -> dict[tuple[str, str], list[kubernetes.EndpointSlice]]:
    """By service. Slices of IPv6 addresses and of names are none that are served; galley says so."""
    found: dict[tuple[str, str], list[kubernetes.EndpointSlice]] = {}
    for resource in resources:
        service = (resource.value.metadata.labels or {}).get(SERVICE_NAME_LABEL)
        if service and resource.value.address_type == "IPv4":
            found.setdefault((resource.key.namespace, service), []).append(resource.value)
    return found


def _ready_endpoints(
    service: Service,
    spec: kubernetes.ServiceSpec,
    slices: Mapping[tuple[str, str], list[kubernetes.EndpointSlice]],
    pods: Pods,
) -> Iterator[tuple[tuple[str, int], tuple[Endpoint, ...]]]:
    for port in service.ports:
        if service.external:
            name = _external_name(service)
            yield (service.host, port.port), (Endpoint(name, port.port, {}),) if name else ()
            continue
        pieces = slices.get((service.namespace, service.name), [])
        wanted = _any if spec.publish_not_ready_addresses else _takes_traffic
        found = _of_slices(service, port, pieces, pods, wanted) or _of_slices(
            service, port, pieces, pods, _still_serves
        )
        yield (service.host, port.port), tuple(found[key] for key in sorted(found))


def _of_slices(
    service: Service,
    port: ServicePort,
    pieces: Iterable[kubernetes.EndpointSlice],
    pods: Pods,
    wanted: Callable[[kubernetes.EndpointConditions | None], bool],
) -> dict[tuple[str, int], Endpoint]:
    """The endpoints of one port whose conditions are `wanted`, by address and port."""
    found: dict[tuple[str, int], Endpoint] = {}
    for item in pieces:
        targets = [target.port for target in item.ports or [] if (target.name or "") == port.name and target.port]
        for endpoint in item.endpoints or []:
            if not wanted(endpoint.conditions):
                continue
            for address, target in ((a, t) for a in endpoint.addresses for t in targets):
                if (made := pods.slice_endpoint(endpoint, address, target, service.namespace)) is not None:
                    found[address, target] = made
    return found


def _any(_: kubernetes.EndpointConditions | None) -> bool:
    return True


def _takes_traffic(conditions: kubernetes.EndpointConditions | None) -> bool:
    """What is not said counts as well: ready, and not about to end."""
    return conditions is None or (conditions.ready is not False and not conditions.terminating)


def _still_serves(conditions: kubernetes.EndpointConditions | None) -> bool:
    """About to end, and better than none: where nothing else takes traffic, as for kube-proxy (KEP-1669)."""
    return conditions is not None and bool(conditions.terminating) and bool(conditions.serving)


# --- Service entries -----------------------------------------------------------------------------------------------

_RESOLUTIONS: Final[Mapping[str, Resolution]] = {
    "NONE": Resolution.ORIGINAL,
    "STATIC": Resolution.ENDPOINTS,
    "DNS": Resolution.DNS,
    "DNS_ROUND_ROBIN": Resolution.DNS_ROUND_ROBIN,
}


def _entry_services(
    resource: Resource[ServiceEntry], workloads: Mapping[str, Workload], domains: Sequence[str]
) -> Iterator[Service]:
    spec, key = resource.value.spec, resource.key
    behind = [workloads[item.address] for item in spec.endpoints if item.address and item.address in workloads]
    ports = tuple(
        ServicePort(
            port.name,
            port.number,
            port.target_port or port.number,
            protocol_of(port.name, port.protocol.lower() if port.protocol else None, port.number),
        )
        for port in spec.ports
    )
    allocated = {item.host.lower(): item.value for item in resource.value.addresses()}
    for host in dict.fromkeys(host.lower() for host in spec.hosts):
        addresses = [*spec.addresses, *([allocated[host]] if host in allocated else [])]
        yield Service(
            host=host,
            name=key.name,
            namespace=key.namespace,
            addresses=tuple(dict.fromkeys(addresses)),
            ports=ports,
            resolution=_RESOLUTIONS.get(spec.resolution, Resolution.ORIGINAL),
            selector={},
            accounts=_accounts(behind, key.namespace, domains),
            external=spec.location == "MESH_EXTERNAL",
            resource=resource,
        )


def _entry_endpoints(
    service: Service, spec: ServiceEntrySpec, pods: Pods
) -> Iterator[tuple[tuple[str, int], tuple[Endpoint, ...]]]:
    for port in service.ports:
        target = port.target if isinstance(port.target, int) else port.port
        found = [
            pods.endpoint(item.address or "", item.ports.get(port.name, target), item.labels, item.weight or 1)
            for item in spec.endpoints
            if item.weight != 0
        ]
        if not spec.endpoints and service.resolution in {Resolution.DNS, Resolution.DNS_ROUND_ROBIN}:
            found = [Endpoint(service.host, target, {})]
        found.sort(key=lambda endpoint: (endpoint.address, endpoint.port))
        yield (service.host, port.port), tuple(found)
