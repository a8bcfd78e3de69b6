"""The `tls` and `tcp` routes of a VirtualService: server names that are its own, ranges that are some, destinations."""

import ipaddress

from pymesh.resources.istio.virtual_service import HTTPMatchRequest, HTTPRoute, TLSMatchAttributes, VirtualService
from pymesh.resources.resource import Resource
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.pilot import gateways, hosts
from pymesh_controlplane.pilot.model import Protocol, World
from pymesh_controlplane.wording import listed


def check(findings: Findings, resource: Resource[VirtualService], world: World) -> None:
    """Everything that is wrong with the routes of connections, but for what is wrong with their destinations."""
    spec = resource.value.spec
    for path, route in spec.routes():
        if not isinstance(route, HTTPRoute) and not route.route:
            findings.error(f"{path}.route", "there is no destination: write at least one below route")
    own = [hosts.resolve(host, resource.key.namespace, world.services) for host in spec.hosts]
    for path, match in spec.matches():
        if isinstance(match, HTTPMatchRequest):
            continue
        if isinstance(match, TLSMatchAttributes):
            for index, name in enumerate(match.sni_hosts):
                _check_server_name(findings, f"{path}.sniHosts[{index}]", name, [*own, *spec.hosts])
        for index, subnet in enumerate(match.destination_subnets):
            if not _is_range(subnet):
                sentence = f"{subnet!r} is not a range of IPv4 addresses: write one such as 10.1.0.0/16"
                findings.error(f"{path}.destinationSubnets[{index}]", sentence)
        if match.destination_subnets and any(name != "mesh" for name in match.gateways or spec.gateways):
            sentence = "at a gateway this says nothing: who dials it dials its own address"
            findings.warning(f"{path}.destinationSubnets", sentence)
    if not spec.gateways or "mesh" in spec.gateways:
        _check_ports(findings, resource.value, own, world)


def _check_server_name(findings: Findings, path: str, name: str, own: list[str]) -> None:
    findings.check_host(path, name)
    if name == "*":
        findings.error(path, "'*' is every server name there is: name the hosts, or *.example.com")
    elif not any(gateways.covers(host.lower(), name.lower()) for host in own):
        findings.error(path, f"{name} is none of spec.hosts: add it there, these routes are for its connections")


def _is_range(text: str) -> bool:
    try:
        ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        return False
    return True


def _check_ports(findings: Findings, virtual: VirtualService, own: list[str], world: World) -> None:
    """Warn of routes for connections that no port of the services has: in a sidecar they have no effect."""
    services = [world.services[host] for host in own if host in world.services]
    if not services:
        return
    spoken = {port.protocol for service in services for port in service.ports}
    if virtual.spec.tls and Protocol.TLS not in spoken:
        findings.warning("spec.tls", f"no port of {listed(own)} is declared TLS, so no sidecar takes these routes")
    if virtual.spec.tcp and not spoken & {Protocol.TCP, Protocol.AUTO}:
        findings.warning("spec.tcp", f"no port of {listed(own)} is declared TCP, so no sidecar takes these routes")
