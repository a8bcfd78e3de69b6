"""Hosts of gateways that another resource serves: what pilot leaves out, told to whom it is of. Pure."""

from collections.abc import Iterator, Mapping

from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.galley.pods import Pods
from pymesh_controlplane.pilot import gateway_listeners, gateway_routes, gateways
from pymesh_controlplane.pilot.gateways import ROUTER, Offer
from pymesh_controlplane.pilot.model import Problem, World
from pymesh_controlplane.pilot.node import Node


def taken(world: World, pods: Pods) -> dict[Key, list[str]]:
    """By VirtualService or Gateway, why hosts of it are not served, at the pods of any gateway."""
    bound = gateways.bound(world)
    found: dict[Key, dict[str, None]] = {}
    for node in _routers(world, pods):
        tables: dict[str, list[Offer]] = {}
        for offer in (offer for some in gateways.offers(node, world).by_port.values() for offer in some):
            if not offer.opaque:
                tables.setdefault(gateway_listeners.route_name(offer), []).append(offer)
        for some in tables.values():
            for host, (offer, written), holder, why in gateway_routes.claims(some, bound, world).lost:
                port = offer.server.port.number
                at = f" at {offer.gateway.key}" if written is not None else ""
                sentence = f"host {host} of port {port} is served by {holder}, {why}: this one has no effect{at}"
                found.setdefault((written or offer.gateway).key, {})[sentence] = None
    return {key: list(sentences) for key, sentences in found.items()}


def check(resource: Resource[object], lost: Mapping[Key, list[str]]) -> list[Problem]:
    """Warn of what `taken` has found of one resource."""
    findings = Findings(resource)
    for sentence in lost.get(resource.key, ()):
        findings.warning("spec.servers" if resource.key.kind == "Gateway" else "spec.hosts", sentence)
    return findings.problems


def _routers(world: World, pods: Pods) -> Iterator[Node]:
    """One pod of each kind that some gateway selects, of those that are there and those that Deployments make."""
    selectors = {tuple(sorted(gateway.value.spec.selector.items())) for gateway in world.gateways}
    for namespace, labels in pods.alike if selectors - {()} else ():
        if any(selector and set(selector) <= labels.items() for selector in selectors):
            yield Node("", ROUTER, (), "", namespace, labels=labels)
