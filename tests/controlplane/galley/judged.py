"""A resource in a world that is right, and what galley says of it."""

from pymesh_controlplane.galley.check import check
from tests.controlplane.pilot.worlds import BOOKINFO, world_of

KINDS = {
    "VirtualService": "networking.istio.io/v1",
    "DestinationRule": "networking.istio.io/v1",
    "ServiceEntry": "networking.istio.io/v1",
    "Gateway": "networking.istio.io/v1",
    "PeerAuthentication": "security.istio.io/v1",
}
TO = "route: [{destination: {host: ratings}}]"


def resource(kind: str, spec: str, name: str = "x") -> str:
    """A resource of this kind."""
    return f"""
---
apiVersion: {KINDS[kind]}
kind: {kind}
metadata: {{name: {name}, namespace: default}}
spec: {spec}
"""


def findings(text: str) -> list[str]:
    """`<severity> <path>: <sentence>` for every problem in a world."""
    world = world_of(text)
    return [f"{item.severity.value} {item.path}: {item.sentence}" for item in check(world.resources.values(), world)]


def only(text: str) -> str:
    """The one problem of a world."""
    found = findings(text)
    assert len(found) == 1, found
    return found[0]


def virtual(http: str, more: str = "", host: str = "ratings") -> str:
    """Bookinfo with a VirtualService of one route."""
    return BOOKINFO + resource("VirtualService", f"{{hosts: [{host}], http: [{http}]{more}}}")
