"""Gateway: which pods, on which ports, for which hosts; and what is bound to it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from pymesh import names
from pymesh.resources.istio.gateway import Gateway, Server
from pymesh.resources.istio.virtual_service import VirtualService
from pymesh.resources.resource import Resource, holds
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.galley.pods import Pods
from pymesh_controlplane.pilot import credentials, gateways, hosts
from pymesh_controlplane.pilot.gateways import ENCRYPTED, PLAIN, ROUTER, TERMINATED, Offers
from pymesh_controlplane.pilot.model import Problem, Service, World
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.wording import listed

# What may be done with TLS, by protocol.
_MODES: Final = {
    "HTTPS": ("SIMPLE", "MUTUAL", "ISTIO_MUTUAL", "PASSTHROUGH"),
    "TLS": ("PASSTHROUGH", "ISTIO_MUTUAL"),
}


class _Pod(NamedTuple):
    """What pods of one namespace, all alike, offer."""

    namespace: str
    labels: Mapping[str, str]
    offers: Offers


def check(resource: Resource[Gateway], world: World, pods: Pods) -> list[Problem]:
    """Everything that is wrong with a Gateway in this world."""
    findings = Findings(resource)
    if not resource.value.spec.servers:
        findings.error("spec.servers", "there is no server: write at least one below spec.servers")
    names_of_ports: dict[str, int] = {}
    for index, server in enumerate(resource.value.spec.servers):
        _check_server(findings, server, f"spec.servers[{index}]")
        first = names_of_ports.setdefault(server.port.name, index)
        if first != index:
            sentence = f"spec.servers[{first}] has this name already: servers are told apart by it"
            findings.error(f"spec.servers[{index}].port.name", sentence)
    if not resource.value.spec.selector and any(
        server.port.protocol in ENCRYPTED for server in resource.value.spec.servers
    ):
        findings.warning(
            "spec.selector",
            "without a selector every gateway pod serves this, and those of its namespace get the keys: name the pods, "
            "as in istio: ingressgateway",
        )
    _check_served(findings, resource, world, pods)
    return findings.problems


def check_bound(findings: Findings, resource: Resource[VirtualService], world: World) -> None:
    """Warn of hosts of a VirtualService that none of its gateways has."""
    spec, namespace = resource.value.spec, resource.key.namespace
    named = [gateways.gateway_key(name, namespace) for name in spec.gateways if name != "mesh"]
    found = [item for item in (world.resources.get(key) for key in named) if item is not None and holds(item, Gateway)]
    if not found or len(found) < len(named) or "mesh" in spec.gateways:
        return  # one that is missing is an error of its own; what is for the mesh too need not be for the gateway
    offered = [pair for item in found for server in item.value.spec.servers for pair in gateways.hosts_of(server, item)]
    for index, written in enumerate(spec.hosts):
        own = hosts.resolve(written, namespace, world.services)
        if not any(
            place in {gateways.ANY_NAMESPACE, namespace} and gateways.narrower(own, host) for place, host in offered
        ):
            findings.warning(
                f"spec.hosts[{index}]",
                f"no server of {listed(item.key for item in found)} has the host {own} for VirtualServices of "
                f"{namespace}: it is not served there",
            )


def _check_server(findings: Findings, server: Server, path: str) -> None:
    protocol = server.port.protocol
    if protocol not in PLAIN | ENCRYPTED:
        findings.error(f"{path}.port.protocol", f"{protocol} is not supported yet: use HTTP, HTTPS or TLS")
    else:
        _check_tls(findings, server, path)
    for index, written in enumerate(server.hosts):
        place, slash, host = written.rpartition("/")
        findings.check_host(f"{path}.hosts[{index}]", host)
        if slash and place not in {".", gateways.ANY_NAMESPACE} and not names.is_namespace(place):
            findings.error(
                f"{path}.hosts[{index}]", f"{place!r} is not a namespace: write namespace/host, ./host or */host"
            )


def _check_tls(findings: Findings, server: Server, path: str) -> None:
    """Whether what is said of TLS goes together."""
    tls, protocol, here = server.tls, server.port.protocol, f"{path}.tls"
    if tls is None:
        if protocol in ENCRYPTED:
            findings.error(path, f"{protocol} needs tls: write at least tls.mode")
        return
    if protocol in PLAIN:
        if tls.mode is not None or tls.credential_name is not None:
            findings.error(here, "HTTP has no TLS, only httpsRedirect: say protocol HTTPS")
        return
    if tls.https_redirect:
        findings.error(f"{here}.httpsRedirect", "is for servers of plain HTTP: this one has HTTPS already")
    if tls.mode not in _MODES[protocol]:
        written = tls.mode or "no mode"
        findings.error(f"{here}.mode", f"{written} is not supported for {protocol}: use {listed(_MODES[protocol])}")
        return
    if tls.mode in TERMINATED and tls.credential_name is None:
        findings.error(here, f"{tls.mode} needs credentialName: the Secret with the certificate")
    if tls.mode not in TERMINATED and tls.credential_name is not None:
        findings.error(f"{here}.credentialName", f"{tls.mode} uses no Secret: remove it")
    if tls.mode != "MUTUAL" and tls.subject_alt_names:
        findings.error(f"{here}.subjectAltNames", "names of clients are checked with mode MUTUAL alone")
    for field, version in (
        ("minProtocolVersion", tls.min_protocol_version),
        ("maxProtocolVersion", tls.max_protocol_version),
    ):
        if version in {"TLSV1_0", "TLSV1_1"}:
            findings.error(f"{here}.{field}", f"{version} is broken and not spoken: TLSV1_2 is the lowest")
    if (tls.min_protocol_version, tls.max_protocol_version) == ("TLSV1_3", "TLSV1_2"):
        findings.error(f"{here}.minProtocolVersion", "is above maxProtocolVersion")


def _check_served(findings: Findings, resource: Resource[Gateway], world: World, pods: Pods) -> None:
    """Whether there are pods, and what they cannot serve of it."""
    selector = resource.value.spec.selector
    if not selector:
        return
    alike = list(_offers(resource, world, pods))
    if not alike:
        labels = ", ".join(f"{label}={value}" for label, value in sorted(selector.items()))
        findings.warning("spec.selector", f"no pod has the labels {labels}: nothing serves it")
    _check_ports(findings, resource, alike, world)
    _check_credentials(findings, resource, alike, world)
    told = set()
    for conflict in (conflict for pod in alike for conflict in pod.offers.conflicts):
        if conflict.gateway == resource.key and conflict not in told:
            told.add(conflict)
            findings.warning(conflict.path, f"{conflict.sentence}; it is not served")


def _check_ports(findings: Findings, resource: Resource[Gateway], pods: Iterable[_Pod], world: World) -> None:
    """Whether a Service in front of the pods leads to each server: by its port, or else by the pods' port itself."""
    in_front = [
        port
        for service in world.services.values()
        if any(_leads_to(service, pod) for pod in pods)
        for port in service.ports
    ]
    if not in_front or any(isinstance(port.target, str) for port in in_front):
        return  # pods without a Service are reached at their own ports; what a name stands for, each pod says itself
    ports = sorted({port.port for port in in_front})
    reached = {*ports, *(port.target for port in in_front)}
    for index, server in enumerate(resource.value.spec.servers):
        if server.port.number not in reached:
            findings.warning(
                f"spec.servers[{index}].port.number",
                f"no Service in front of the pods has the port {server.port.number}, so none leads to this "
                f"server; there are {listed(ports)}",
            )


def _leads_to(service: Service, pod: _Pod) -> bool:
    """Whether the pod is one of the service's."""
    here = bool(service.selector) and service.namespace == pod.namespace
    return here and service.selector.items() <= pod.labels.items()


def _check_credentials(findings: Findings, resource: Resource[Gateway], pods: Iterable[_Pod], world: World) -> None:
    """Whether the pods' namespaces have the Secrets."""
    told = set()
    for namespace, _, offers in pods:
        mine = (offer for some in offers.by_port.values() for offer in some if offer.gateway.key == resource.key)
        for offer in mine:
            for item in credentials.wanted(offer):
                path = f"spec.servers[{offer.position}].tls.credentialName"
                sentence = _missing(item, namespace, world)
                if sentence and (path, sentence) not in told:
                    told.add((path, sentence))
                    findings.warning(path, f"{sentence}: TLS handshakes for {listed(offer.names)} fail")


def _missing(item: credentials.Wanted, namespace: str, world: World) -> str:
    """What is not there of a secret; empty if all is."""
    if item.credential in credentials.NEVER:
        return f"a Secret of the name {item.credential} has the mesh's CA and goes to no gateway"
    found = credentials.find(item, namespace, world)
    if found is None:
        return f"there is no Secret {namespace}/{item.credential} (the namespace of the gateway's pods)"
    content = credentials.readable(found)
    if item.roots and credentials.pick(content, credentials.ROOTS) is None:
        return (
            f"MUTUAL needs the roots of its clients' certificates: ca.crt in {found.key}, "
            f"or a Secret {namespace}/{item.credential}{credentials.CA_SUFFIX}"
        )
    pair = [credentials.pick(content, keys) for keys in (credentials.CHAIN, credentials.KEY)]
    return f"{found.key} has no tls.crt and tls.key" if not item.roots and None in pair else ""


def _offers(resource: Resource[Gateway], world: World, pods: Pods) -> Iterator[_Pod]:
    """What the pods of a gateway offer; once for pods that are alike."""
    for namespace, labels in pods.alike:
        if gateways.selects(resource.value, labels):
            yield _Pod(namespace, labels, gateways.offers(Node("", ROUTER, (), "", namespace, labels=labels), world))
