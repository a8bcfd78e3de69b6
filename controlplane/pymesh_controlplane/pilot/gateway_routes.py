"""World → the route configurations of a gateway: one for all plain HTTP of a port, one for each TLS server. Pure.

Only what a VirtualService that is bound to the gateway names has a route. A request for anything else gets 404.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from envoy.config.route.v3 import route_components_pb2, route_pb2

from pymesh.resources.istio import VirtualService
from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.pilot.gateways import Offer, common_hosts, names_for
from pymesh_controlplane.pilot.matching import ANYTHING, route_match
from pymesh_controlplane.pilot.messages import METADATA, metadata
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.routes import (
    MAX_DIRECT_BODY,
    Caller,
    Targets,
    targets,
    virtual_service_routes,
)

_CATCH_ALL: Final = route_match(ANYTHING)

# By gateway, the VirtualServices that name it.
Bound = Mapping[Key, Sequence[Resource[VirtualService]]]


class Part(NamedTuple):
    """The share of one VirtualService in a virtual host.

    Attributes:
        port: what the gateway calls its port; clauses and destinations without a port of their own mean it.
        gateways: what `written` may call the gateway.
        targets: what the destinations of `written` mean.
    """

    written: Resource[VirtualService]
    port: int
    gateways: tuple[str, ...]
    targets: Targets


class HostPlan(NamedTuple):
    """Everything that a virtual host is made of. `to_https` names the server that redirects; empty if none does."""

    host: str
    port: int
    caller: Caller
    parts: tuple[Part, ...]
    to_https: str = ""


def plan(offers: Iterable[Offer], bound: Bound, caller: Caller, world: World) -> list[HostPlan]:
    """The virtual hosts of servers that share a route configuration, by host.

    VirtualServices of the same host are joined, in the order of their names. A server with `httpsRedirect` redirects
    whatever its hosts are asked for.
    """
    parts: dict[str, list[Part]] = {}
    redirecting: dict[str, str] = {}
    port = 0
    for offer in offers:
        server, gateway = offer.server, offer.gateway.key
        port = port or offer.port
        if server.tls is not None and server.tls.https_redirect:
            for host in offer.names:
                redirecting.setdefault(host, f"{gateway} servers[{offer.position}]")
            continue
        for written in bound.get(gateway, ()):
            names = names_for(gateway, written.key.namespace)
            for host in common_hosts(offer, written, world):
                here = parts.setdefault(host, [])
                if all(part.written is not written for part in here):
                    here.append(Part(written, server.port.number, names, targets(written, world)))
    plans = [HostPlan(host, port, caller, (), source) for host, source in redirecting.items()]
    plans += [HostPlan(host, port, caller, tuple(found)) for host, found in parts.items() if host not in redirecting]
    return sorted(plans, key=lambda one: one.host)


def virtual_host(plan: HostPlan) -> route_components_pb2.VirtualHost:
    """The routes for one host."""
    if plan.to_https:
        found = [_redirect(plan.to_https)]
    else:
        # Of several VirtualServices, none may take with "everything else" what another says in particular.
        found = sorted(_routes(plan), key=lambda route: len(plan.parts) > 1 and route.match == _CATCH_ALL)
    return route_components_pb2.VirtualHost(name=f"{plan.host}:{plan.port}", domains=[plan.host], routes=found)


def _routes(plan: HostPlan) -> Iterator[route_components_pb2.Route]:
    for part in plan.parts:
        yield from virtual_service_routes(part.written, part.port, plan.caller, part.targets, part.gateways)


def _redirect(source: str) -> route_components_pb2.Route:
    action = route_components_pb2.RedirectAction(https_redirect=True)
    return route_components_pb2.Route(
        name="https-redirect", match=_CATCH_ALL, redirect=action, metadata=metadata({METADATA: {"source": source}})
    )


def configuration(name: str, virtual_hosts: Iterable[route_components_pb2.VirtualHost]) -> route_pb2.RouteConfiguration:
    """The route configuration `name`. Clients may know the gateway by another port than its own, so none counts."""
    message = route_pb2.RouteConfiguration(name=name, virtual_hosts=virtual_hosts, ignore_port_in_host_matching=True)
    message.max_direct_response_body_size_bytes.value = MAX_DIRECT_BODY
    return message
