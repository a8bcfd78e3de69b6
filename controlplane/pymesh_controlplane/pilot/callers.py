"""Who calls, as far as routes ask for it: of a namespace, and with labels. Pure."""

from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from pymesh.resources.istio.virtual_service import (
    HTTPMatchRequest,
    L4MatchAttributes,
    TLSMatchAttributes,
    VirtualService,
)
from pymesh.resources.resource import Resource
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node


class Caller(NamedTuple):
    """What the routes of a proxy may depend on: its namespace, and those of its labels that some route asks for."""

    namespace: str
    labels: tuple[tuple[str, str], ...] = ()  # sorted


# Stands for every caller where nobody asks who calls.
ANYBODY: Final = Caller("")


def asked_labels(world: World) -> frozenset[str]:
    """The labels of callers that some VirtualService asks for. In most worlds there are none."""
    return frozenset(
        label
        for resource in world.routing.values()
        for _, match in resource.value.spec.matches()
        for label in match.source_labels
    )


def caller_of(node: Node, asked: AbstractSet[str]) -> Caller:
    """All that the routes for `node` depend on, where the labels `asked` are those that count."""
    labels = sorted((label, value) for label, value in node.labels.items() if label in asked)
    return Caller(node.namespace, tuple(labels))


def matter_to_requests(resource: Resource[VirtualService]) -> bool:
    """Whether some route of requests asks who sends them."""
    return any(_asks(match) for http in resource.value.spec.http for match in http.match)


def matter_to_connections(world: World) -> bool:
    """Whether some route of connections asks who opens them. In most worlds none does."""
    return any(
        _asks(match)
        for resource in world.routing.values()
        for _, match in resource.value.spec.matches()
        if not isinstance(match, HTTPMatchRequest)
    )


def _asks(match: HTTPMatchRequest | TLSMatchAttributes | L4MatchAttributes) -> bool:
    return bool(match.source_labels or match.source_namespace)
