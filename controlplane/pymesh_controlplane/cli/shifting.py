"""What a shift changes: which routes of which VirtualServices, and their weights at every step. Pure.

Documents are Kubernetes objects as `pymesh get -o json` shows them. In them nothing is touched but the weights of the
service's destinations, and the destination that is added where a route does not have it.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, Final

from pymesh.errors import MeshError
from pymesh.resources.istio.destination_rule import DestinationRule, Subset
from pymesh.resources.istio.virtual_service import HTTPMatchRequest, HTTPRoute, VirtualService
from pymesh.resources.parse import reread
from pymesh.resources.resource import Key, Positions, Resource
from pymesh_controlplane.pilot import hosts, world
from pymesh_controlplane.pilot.model import Service, World
from pymesh_controlplane.pilot.policies import rule_for, subset_of
from pymesh_controlplane.wording import listed, near

# The kinds that say where requests go.
KINDS: Final = frozenset({"Service", "Pod", "EndpointSlice", "VirtualService", "DestinationRule", "Gateway"})

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A route to the service, by its VirtualService and its position in spec.http.

    Attributes:
        ours: of each of its destinations, whether it is of the service.
        share: percent of the service's requests there that go to the subset, rounded down.
    """

    virtual: Key
    index: int
    name: str
    ours: tuple[bool, ...]
    share: int

    def __str__(self) -> str:
        return f"{self.virtual} spec.http[{self.index}]{f' ({self.name})' if self.name else ''}"


@dataclass(frozen=True, slots=True)
class Shift:
    """What is to be shifted.

    Attributes:
        service: the service's full name.
        subset: where to.
        before: the VirtualServices with the routes that change, as they are.
        made: the one that is to be made, where there is none; `before` then has it as it would be at the beginning.
        places: the routes that change.
        pinned: the routes to the service that do not, since they are for some callers' requests only.
    """

    service: str
    subset: str
    before: Mapping[Key, Document]
    made: Key | None
    places: tuple[Place, ...]
    pinned: tuple[Place, ...]

    @property
    def share(self) -> int:
        """Percent of the requests that go to the subset before the shift, in the route where it is least."""
        return min((place.share for place in self.places), default=100)

    def at(self, share: int) -> dict[Key, Document]:
        """The VirtualServices that give at least `share` percent to the subset, in every route that is shifted."""
        changed = {key: copy.deepcopy(document) for key, document in self.before.items()}
        for place in self.places:
            route = changed[place.virtual]["spec"]["http"][place.index]
            route["route"] = weighed(route["route"], place.ours, self.subset, max(share, place.share))
        return changed


def steps(share: int, step: int | None) -> list[int]:
    """The shares, in percent, after `share` up to 100; without `step` all at once."""
    return [100] if step is None else [*range(share + step, 100, step), 100]


def world_of(objects: Iterable[Mapping[str, Any]]) -> World:
    """The world that the objects of a mesh make, as far as it says where requests go."""
    return world.build(reread(item, Positions("", {})) for item in objects if item["kind"] in KINDS)


def prepare(objects: Sequence[Document], name: str, namespace: str, subset: str) -> Shift:
    """What shifting the Service `name` to `subset` changes.

    Args:
        objects: all that there is in the mesh.
        name: of a Service in `namespace`.
        namespace: of the Service.
        subset: of the Service, as its DestinationRule calls it.

    Raises:
        MeshError: something is missing; the text says what, and what there is.
    """
    seen = world_of(objects)
    service = _service(seen, name, namespace)
    rule = _rule(seen, service)
    _require_ready(seen, service, rule, subset)
    found = [place for item in seen.virtual_services for place in _places(item, service.host, subset, seen)]
    if not found:
        return _made(seen, service, rule, subset)
    wanted = {place.virtual for place in found}
    before = {key: item for item in objects if (key := _key(item)) in wanted}
    by_key = {resource.key: resource for resource in seen.virtual_services}
    pinned = tuple(place for place in found if _is_pinned(by_key[place.virtual].value.spec.http[place.index]))
    free = [place for place in found if place not in pinned]
    if not free:
        raise MeshError(
            f"every route to {service.host} is for some callers only: {listed(pinned)}; "
            "shift needs one without a match on headers, query parameters or the caller"
        )
    places = tuple(place for place in free if place.share < 100)
    changed = {place.virtual for place in places}
    return Shift(
        service.host, subset, {key: item for key, item in before.items() if key in changed}, None, places, pinned
    )


# --- What there is -------------------------------------------------------------------------------------------------


def _service(seen: World, name: str, namespace: str) -> Service:
    known = [service for service in seen.services.values() if service.kubernetes]
    for service in known:
        if (service.name, service.namespace) == (name, namespace):
            if not any(port.protocol.may_be_http for port in service.ports):
                raise MeshError(f"no port of {service.host} speaks HTTP: only requests are shifted, not connections")
            return service
    elsewhere = [service.namespace for service in known if service.name == name]
    if elsewhere:
        raise MeshError(f"namespace {namespace} has no Service {name}; {listed(elsewhere)} has one: see -n")
    there = [service.name for service in known if service.namespace == namespace]
    raise MeshError(f"namespace {namespace} has no Service {name}{near(name, there)}; it has {listed(there)}")


def _rule(seen: World, service: Service) -> Resource[DestinationRule]:
    rule = rule_for(service, service.namespace, seen)
    if rule is None or not rule.value.spec.subsets:
        raise MeshError(
            f"no DestinationRule says which subsets {service.host} has: apply one with host {service.name} and "
            "subsets such as {name: v2, labels: {version: v2}}"
        )
    return rule


def _require_ready(seen: World, service: Service, rule: Resource[DestinationRule], name: str) -> None:
    subset = subset_of(rule, name)
    known = [item.name for item in rule.value.spec.subsets]
    if subset is None:
        raise MeshError(f"{rule.key} has no subset {name}{near(name, known)}; it has {listed(known)}")
    if not _ready(seen, service, subset):
        labels = ",".join(f"{label}={value}" for label, value in subset.labels.items())
        raise MeshError(f"no pod of {service.host} is ready that has the labels of subset {name} ({labels or 'none'})")


def _ready(seen: World, service: Service, subset: Subset) -> int:
    """How many of the service's ready addresses are in a subset."""
    labels = subset.labels.items()
    found = {
        endpoint.address
        for port in service.ports
        for endpoint in seen.endpoints.get((service.host, port.port), ())
        if labels <= endpoint.labels.items()
    }
    return len(found)


def _places(virtual: Resource[VirtualService], host: str, subset: str, seen: World) -> list[Place]:
    """The routes of a VirtualService that have a destination of the service with any weight."""
    found: list[Place] = []
    for index, http in enumerate(virtual.value.spec.http):
        ours = tuple(
            hosts.resolve(item.destination.host, virtual.key.namespace, seen.services) == host for item in http.route
        )
        weights = [item.weight for item in http.route] if len(http.route) > 1 else [1] * len(http.route)
        whole = sum(weight for weight, own in zip(weights, ours, strict=True) if own)
        if whole:
            there = sum(
                weight
                for weight, own, item in zip(weights, ours, http.route, strict=True)
                if own and item.destination.subset == subset
            )
            found.append(Place(virtual.key, index, http.name, ours, there * 100 // whole))
    return found


def _is_pinned(http: HTTPRoute) -> bool:
    return bool(http.match) and all(map(_names_callers, http.match))


def _names_callers(match: HTTPMatchRequest) -> bool:
    return bool(
        match.headers or match.without_headers or match.query_params or match.source_labels or match.source_namespace
    )


def _made(seen: World, service: Service, rule: Resource[DestinationRule], subset: str) -> Shift:
    """A VirtualService of our own; the rest of the requests goes to the other subsets, to each by its ready pods."""
    key = Key("VirtualService", service.namespace, service.name)
    if key in seen.resources or service.host in seen.routing:
        holder = seen.routing.get(service.host)
        raise MeshError(f"{holder.key if holder else key} is there and has no HTTP route to {service.host}")
    ready = {item.name: _ready(seen, service, item) for item in rule.value.spec.subsets if item.name != subset}
    others: list[Document] = [
        {"destination": {"host": service.name, "subset": name}, "weight": pods} for name, pods in ready.items() if pods
    ]
    route = [*others, {"destination": {"host": service.name, "subset": subset}, "weight": 0}]
    if not others:
        route = [{"destination": {"host": service.name}, "weight": 1}]
    document: Document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": key.name, "namespace": key.namespace},
        "spec": {"hosts": [service.name], "http": [{"route": route}]},
    }
    place = Place(key, 0, "", tuple(True for _ in route), 0)
    return Shift(service.host, subset, {key: document}, key, (place,), ())


def _key(document: Mapping[str, Any]) -> Key:
    metadata = document["metadata"]
    return Key(document["kind"], metadata.get("namespace", ""), metadata["name"])


# --- Weights -------------------------------------------------------------------------------------------------------


def weighed(route: Sequence[Document], ours: Sequence[bool], subset: str, share: int) -> list[Document]:
    """The destinations of a route such that `share` percent of what the service gets there goes to the subset.

    The service's other destinations share the rest as they did before, and those of other services keep theirs. Where
    the weights are too small to say a percent, all of them are multiplied.

    Args:
        route: destinations with their weights.
        ours: of each, whether it is of the service; one at least is, with a weight.
        subset: where to.
        share: 0 to 100; of a subset that gets all already it is 100.
    """
    items = [copy.deepcopy(item) for item in route]
    mine = [index for index, own in enumerate(ours) if own]
    weights = [int(item.get("weight") or 0) for item in items] if len(items) > 1 else [100]
    if not any(items[index]["destination"].get("subset") == subset for index in mine):
        items.append({"destination": {**items[mine[0]]["destination"], "subset": subset}})
        mine.append(len(items) - 1)
        weights.append(0)
    whole = sum(weights[index] for index in mine)
    factor = 100 // gcd(whole, 100)
    weights = [weight * factor for weight in weights]
    there = [index for index in mine if items[index]["destination"].get("subset") == subset]
    rest = [index for index in mine if index not in there]
    given = whole * factor * share // 100
    parts = _divided(whole * factor - given, [weights[index] for index in rest])
    for index in there:
        weights[index] = given if index == there[0] else 0
    for index, part in zip(rest, parts, strict=True):
        weights[index] = part
    return [{**item, "weight": weight} for item, weight in zip(items, weights, strict=True)]


def _divided(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in parts that are to each other as `weights` are, as nearly as whole numbers can be."""
    whole = sum(weights)
    if not whole:
        return [0 for _ in weights]
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: -(total * weights[index] % whole))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts
