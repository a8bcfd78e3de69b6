"""World → the route configurations of a gateway: one for all plain HTTP of a port, one for each TLS server. Pure.

Only what a VirtualService that is bound to the gateway names has a route. A request for anything else gets 404.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from envoy.config.route.v3 import route_components_pb2, route_pb2

from pymesh.resources.istio.virtual_service import VirtualService
from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.pilot import precedence
from pymesh_controlplane.pilot.callers import Caller
from pymesh_controlplane.pilot.gateways import Offer, common_hosts, names_for
from pymesh_controlplane.pilot.matching import ANYTHING, is_catch_all, route_match
from pymesh_controlplane.pilot.messages import METADATA, metadata
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.routes import (
    MAX_DIRECT_BODY,
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


class Claim(NamedTuple):
    """What a server has to say about a host: the routes of a VirtualService, or, without one, that it redirects."""

    offer: Offer
    written: Resource[VirtualService] | None


class Lost(NamedTuple):
    """A claim that has no effect, since `holder` has the host; `why` as in `which is older`."""

    host: str
    claim: Claim
    holder: Key
    why: str


class Claims(NamedTuple):
    """Of servers that share a route configuration: who serves a host, in the order that counts; and who does not."""

    served: Mapping[str, Sequence[Claim]]
    lost: Sequence[Lost]


def claims(offers: Iterable[Offer], bound: Bound, world: World) -> Claims:
    """Who has which host.

    Gateways of one namespace share a host; it goes to those of the namespace whose gateway comes first (see
    `precedence`). VirtualServices at these may be of other namespaces, where the gateway lets them, but get only what
    one before them leaves over.
    """
    by_host: dict[str, list[Claim]] = {}
    for offer in offers:
        server = offer.server
        if server.tls is not None and server.tls.https_redirect:
            for host in offer.names:
                by_host.setdefault(host, []).append(Claim(offer, None))
            continue
        for written in bound.get(offer.gateway.key, ()):
            for host in common_hosts(offer, written, world):
                by_host.setdefault(host, []).append(Claim(offer, written))
    served, lost = {}, []
    for host, found in by_host.items():
        at_gateway, beaten = _of_first_gateway(host, found, world)
        lost += beaten
        served[host], beaten = _not_covered(host, at_gateway, world)
        lost += beaten
    return Claims(served, lost)


def _of_first_gateway(host: str, found: Iterable[Claim], world: World) -> tuple[list[Claim], list[Lost]]:
    def rank(claim: Claim) -> precedence.Rank:
        return precedence.rank(claim.offer.gateway, precedence.owner(host, world.services), world.root_namespace)

    first, *others = sorted(found, key=rank)
    kept, lost = [first], []
    for claim in others:
        if claim.offer.gateway.key.namespace == first.offer.gateway.key.namespace:
            kept.append(claim)
        else:
            lost.append(Lost(host, claim, first.offer.gateway.key, precedence.reason(rank(first), rank(claim))))
    return kept, lost


def _not_covered(host: str, found: Sequence[Claim], world: World) -> tuple[list[Claim], list[Lost]]:
    """Without VirtualServices behind one of another namespace that takes everything."""
    place = precedence.owner(host, world.services) or found[0].offer.gateway.key.namespace
    kept = [claim for claim in found if claim.written is None]
    ranked = [
        (precedence.rank(claim.written, place, world.root_namespace), claim, claim.written)
        for claim in found
        if claim.written is not None
    ]
    lost: list[Lost] = []
    full: tuple[precedence.Rank, Key] | None = None
    for rank, claim, written in sorted(ranked, key=lambda item: item[0]):
        if full is not None and full[1].namespace != written.key.namespace:
            lost.append(Lost(host, claim, full[1], precedence.reason(full[0], rank)))
            continue
        kept.append(claim)
        if full is None and _takes_the_rest(written):
            full = rank, written.key
    return kept, lost


def _takes_the_rest(written: Resource[VirtualService]) -> bool:
    return any(
        not http.match or any(is_catch_all(match) and not (match.port or match.gateways) for match in http.match)
        for http in written.value.spec.http
    )


def plan(offers: Iterable[Offer], bound: Bound, caller: Caller, world: World) -> list[HostPlan]:
    """The virtual hosts of servers that share a route configuration, by host.

    VirtualServices of the same host are joined (see `claims`). A server with `httpsRedirect` redirects whatever its
    hosts are asked for.
    """
    plans: list[HostPlan] = []
    for host, found in claims(offers, bound, world).served.items():
        redirecting = [claim.offer for claim in found if claim.written is None]
        to_https = f"{redirecting[0].gateway.key} servers[{redirecting[0].position}]" if redirecting else ""
        parts: dict[Key, Part] = {}
        for offer, written in found if not redirecting else ():
            if written is not None and written.key not in parts:
                known_as = names_for(offer.gateway.key, written.key.namespace)
                parts[written.key] = Part(written, offer.server.port.number, known_as, targets(written, world))
        plans.append(HostPlan(host, found[0].offer.port, caller, tuple(parts.values()), to_https))
    return sorted(plans, key=lambda one: one.host)


def virtual_host(plan: HostPlan) -> route_components_pb2.VirtualHost:
    """The routes for one host."""
    if plan.to_https:
        found = [_redirect(plan.to_https)]
    else:
        # Of several VirtualServices, none may take with "everything else" what another of its namespace says in
        # particular; those of other namespaces come behind it.
        found = list(_routes(plan))
        if len(plan.parts) > 1:
            found.sort(key=lambda route: route.match == _CATCH_ALL)
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
