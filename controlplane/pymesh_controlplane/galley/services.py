"""Service, EndpointSlice, Pod and ServiceEntry: names, ports and addresses that can be served."""

import ipaddress
from collections.abc import Collection, Iterable
from typing import Final

from pymesh.names import SYSTEM_NAMESPACE, service_host
from pymesh.resources.istio.service_entry import EntryPort, ServiceEntry
from pymesh.resources.kubernetes import EndpointSlice, Pod, Service
from pymesh.resources.resource import Resource
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.pilot import cluster_ips
from pymesh_controlplane.pilot.model import Problem, Protocol, World
from pymesh_controlplane.pilot.world import SERVICE_NAME_LABEL, protocol_of
from pymesh_controlplane.wording import listed

_HTTP2: Final = ("grpc", "http2", "kubernetes.io/h2c")
_OPAQUE: Final = "HTTP/2 and gRPC are carried as opaque TCP yet: no routes, retries or metrics per request"


def check_service(resource: Resource[Service]) -> list[Problem]:
    """A Service: ports that can be told apart, addresses that are some."""
    findings = Findings(resource)
    spec = resource.value.spec
    if spec.type == "ExternalName":
        findings.check_host("spec.externalName", spec.external_name or "")
    if spec.session_affinity == "ClientIP":
        findings.warning("spec.sessionAffinity", "has no effect on connections through a sidecar")
    for index, address in enumerate(dict.fromkeys([spec.cluster_ip or "", *(spec.cluster_ips or [])])):
        if address in {"", "None"}:
            continue
        path = "spec.clusterIP" if index == 0 else "spec.clusterIPs"
        if not _is_address(address):
            findings.error(path, f"{address!r} is not an IP address")
        elif ":" in address:
            findings.warning(path, f"IPv6 is not supported yet: {address} is left to Kubernetes, not to the sidecar")
    for index, address in enumerate(spec.external_ips or []):
        if not _is_address(address):
            findings.error(f"spec.externalIPs[{index}]", f"{address!r} is not an IP address")
    seen: set[object] = set()
    for index, port in enumerate(spec.ports):
        path = f"spec.ports[{index}]"
        if len(spec.ports) > 1 and not port.name:
            findings.error(f"{path}.name", "every port of a service with several ports needs a name")
        for field, value in (("name", port.name), ("port", (port.port, port.protocol))):
            if value and value in seen:
                findings.error(f"{path}.{field}", "there is such a port above already")
            seen.add(value)
        said = (port.app_protocol or port.name.partition("-")[0]).lower()
        ours = resource.key.namespace == SYSTEM_NAMESPACE  # only the sidecars themselves call these
        if said in _HTTP2 and port.name.lower() != "grpc-web" and not ours:
            findings.warning(path, _OPAQUE)
    return findings.problems


def check_external_ips(resource: Resource[Service], world: World) -> list[Problem]:
    """Warn of `externalIPs` that are another service's by its ClusterIP."""
    findings = Findings(resource)
    own = {service_host(resource.key.name, resource.key.namespace)}
    for index, address in enumerate(resource.value.spec.external_ips or []):
        sentence = _left_to(address, 0, own, world) if _is_address(address) else ""
        if sentence:
            findings.warning(f"spec.externalIPs[{index}]", sentence)
    return findings.problems


def _left_to(written: str, port: int, own: Collection[str], world: World) -> str:
    """Why connections to `port` of an address or a range go to another service (see `cluster_ips`); empty if not so."""
    host = cluster_ips.holder(written, port, own, world.cluster_ips)
    if host is None:
        return ""
    owner = world.services[host].resource.key
    if ipaddress.ip_network(written, strict=False).num_addresses == 1:
        return f"{written} is the ClusterIP of {owner}: connections to it go there all the same"
    covered = f"{written} covers the ClusterIP of {owner}, which has requests on port {port}"
    return f"{covered}: on that port the range has no effect, give narrower ones"


def check_pod(resource: Resource[Pod]) -> list[Problem]:
    """A Pod: an address that is one."""
    findings = Findings(resource)
    status = resource.value.status
    if status is not None and status.pod_ip and not _is_address(status.pod_ip):
        findings.error("status.podIP", f"{status.pod_ip!r} is not an IP address")
    return findings.problems


def check_slice(resource: Resource[EndpointSlice]) -> list[Problem]:
    """An EndpointSlice: of a service, with addresses that can be served."""
    findings = Findings(resource)
    value = resource.value
    if SERVICE_NAME_LABEL not in (value.metadata.labels or {}):
        findings.warning("metadata.labels", f"without the label {SERVICE_NAME_LABEL} it belongs to no service")
    if value.address_type != "IPv4":
        findings.warning(
            "addressType", f"{value.address_type} is not supported yet: sidecars go to IPv4 addresses only"
        )
        return findings.problems
    for index, endpoint in enumerate(value.endpoints or []):
        for place, address in enumerate(endpoint.addresses):
            if not _is_address(address) or ":" in address:
                findings.error(f"endpoints[{index}].addresses[{place}]", f"{address!r} is not an IPv4 address")
    return findings.problems


# --- ServiceEntry --------------------------------------------------------------------------------------------------


def check_entry(resource: Resource[ServiceEntry], world: World) -> list[Problem]:
    """A ServiceEntry: hosts that are free, ports that can be told apart, endpoints that fit the resolution."""
    findings = Findings(resource)
    spec = resource.value.spec
    findings.check_exported("spec.exportTo", spec.export_to)
    for index, host in enumerate(spec.hosts):
        path = f"spec.hosts[{index}]"
        findings.check_host(path, host)
        holder = world.services.get(host.lower())
        if host == "*":
            findings.error(path, "'*' is every host there is: name the hosts, or *.example.com")
        elif holder is not None and holder.resource.key != resource.key:
            findings.warning(path, f"{host} is already defined by {holder.resource.key}: this one has no effect for it")
    for index, address in enumerate(spec.addresses):
        if not _is_network(address):
            findings.error(f"spec.addresses[{index}]", f"{address!r} is not an IPv4 address or range")
        else:
            _check_free(findings, f"spec.addresses[{index}]", address, resource.value, world)
    for index, item in enumerate(resource.value.addresses()):
        if not _is_address(item.value) or ":" in item.value:
            findings.error(f"status.addresses[{index}].value", f"{item.value!r} is not an IPv4 address")
    _check_entry_ports(findings, resource.value)
    _check_resolution(findings, resource.value)
    return findings.problems


def _check_free(findings: Findings, path: str, address: str, entry: ServiceEntry, world: World) -> None:
    """Whether what the entry takes by address is free to be taken."""
    by_address = [port.number for port in entry.spec.ports if _protocol(port) is not Protocol.HTTP]
    ports = by_address if "/" in address else [0]  # of one address no port is free
    sentences = [sentence for port in ports if (sentence := _left_to(address, port, (), world))]
    if sentences:
        findings.warning(path, sentences[0])


def _check_entry_ports(findings: Findings, entry: ServiceEntry) -> None:
    if not entry.spec.ports:
        findings.error("spec.ports", "there is no port: write at least one")
    seen: set[object] = set()
    for index, port in enumerate(entry.spec.ports):
        path = f"spec.ports[{index}]"
        for field, value in (("name", port.name), ("number", port.number)):
            if value in seen:
                findings.error(f"{path}.{field}", f"there is a port {value} above already")
            seen.add(value)
        protocol = _protocol(port)
        if protocol is Protocol.TCP or (protocol is Protocol.TLS and entry.spec.location == "MESH_INTERNAL"):
            _check_told_apart(findings, path, port, entry)
        if (port.protocol or "").lower() in _HTTP2:
            findings.warning(path, _OPAQUE)
        if port.target_port not in {None, port.number} and entry.spec.resolution == "NONE":
            findings.error(f"{path}.targetPort", "has no effect with resolution NONE: remove it")


def _check_told_apart(findings: Findings, path: str, port: EntryPort, entry: ServiceEntry) -> None:
    """Connections that nothing but their address tells from others need one."""
    allocatable = entry.spec.hosts_without_address()
    if entry.spec.addresses or len(allocatable) == len(entry.addresses()) > 0:
        return
    what = f"connections to port {port.number} cannot be told from others: give spec.addresses"
    if len(allocatable) == len({host.lower() for host in entry.spec.hosts}):
        findings.warning(path, f"{what}; nothing here has allocated addresses for {listed(allocatable)}")
    else:
        instead = ", or use protocol HTTP or TLS" if _protocol(port) is Protocol.TCP else ""
        findings.error(path, f"{what}{instead}")


def _protocol(port: EntryPort) -> Protocol:
    return protocol_of(port.name, port.protocol.lower() if port.protocol else None, port.number)


def _check_resolution(findings: Findings, entry: ServiceEntry) -> None:
    spec, resolution = entry.spec, entry.spec.resolution
    wildcards = [host for host in spec.hosts if "*" in host]
    if resolution == "DYNAMIC_DNS":
        findings.error("spec.resolution", "DYNAMIC_DNS is not supported yet: use DNS or NONE")
    elif resolution == "NONE" and spec.endpoints:
        findings.error("spec.endpoints", "resolution NONE goes where the caller dials: remove endpoints or use STATIC")
    elif resolution == "STATIC" and not spec.endpoints:
        findings.error("spec.endpoints", "resolution STATIC needs endpoints")
    elif resolution.startswith("DNS") and wildcards and not spec.endpoints:
        findings.error("spec.hosts", f"{listed(wildcards)} cannot be looked up: give endpoints or use resolution NONE")
    if resolution == "DNS_ROUND_ROBIN" and len(spec.endpoints) > 1:
        findings.error("spec.endpoints", "resolution DNS_ROUND_ROBIN looks up one name: give one endpoint at most")
    ports = {port.name for port in spec.ports}
    for index, endpoint in enumerate(spec.endpoints):
        path = f"spec.endpoints[{index}]"
        if not endpoint.address:
            findings.error(f"{path}.address", "an endpoint needs an address")
        elif resolution == "STATIC" and (not _is_address(endpoint.address) or ":" in endpoint.address):
            findings.error(f"{path}.address", f"{endpoint.address!r} is not an IPv4 address; names need resolution DNS")
        elif resolution.startswith("DNS"):
            findings.check_host(f"{path}.address", endpoint.address)
        if endpoint.weight == 0:
            findings.warning(f"{path}.weight", "an endpoint of weight 0 gets nothing")
        _check_named(findings, f"{path}.ports", endpoint.ports, ports)


def _check_named(findings: Findings, path: str, given: Iterable[str], known: set[str]) -> None:
    for name in given:
        if name not in known:
            findings.error(f"{path}.{name}", f"there is no port named {name} in spec.ports; there are {listed(known)}")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _is_network(text: str) -> bool:
    try:
        ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        return False
    return True
