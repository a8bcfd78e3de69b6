"""The other end of a session: a proxy that subscribes as Envoy does, and what it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from pymesh.xds.types import CLUSTER, ENDPOINT, LISTENER, ROUTE
from pymesh_controlplane.pilot.session import (
    PUSH_ORDER,
    DeltaRequest,
    Session,
    Snapshot,
    SotwRequest,
)
from pymesh_controlplane.pilot.subscription import Resource, Response, digest_of

# What every proxy asks for; secrets only where something names them.
FOUR = PUSH_ORDER[:-1]


def snapshot(**resources: Mapping[str, str]) -> Snapshot:
    """A snapshot from `clusters`, `endpoints`, `listeners`, `routes` and `secrets`, each name to content."""
    kinds = zip(PUSH_ORDER, ("clusters", "endpoints", "listeners", "routes", "secrets"), strict=True)
    return {
        type_url: {
            name: Resource(name, digest_of(text.encode()), text.encode(), name if kind == "clusters" else "")
            for name, text in resources.get(kind, {}).items()
        }
        for type_url, kind in kinds
    }


def names(response: Response) -> list[str]:
    """Of the resources in it."""
    return [resource.name for resource in response.resources]


@dataclass
class Proxy:
    """The other end: subscribes as Envoy does, applies what it is sent, and says so."""

    session: Session
    held: dict[str, dict[str, str]] = field(default_factory=lambda: {type_url: {} for type_url in FOUR})
    asked: dict[str, set[str]] = field(default_factory=lambda: {ENDPOINT: set(), ROUTE: set()})
    nonces: dict[str, str] = field(default_factory=dict)
    now: float = 0.0

    def start(self) -> None:
        """Ask for all clusters and listeners."""
        for type_url in (CLUSTER, LISTENER):
            self.say(type_url)

    def say(self, type_url: str, nonce: str = "", error: str | None = None) -> None:
        """Acknowledge, refuse or subscribe, in the variant that the session speaks."""
        self.nonces[type_url] = nonce
        if not self.session.delta:
            wanted = tuple(sorted(self.asked.get(type_url, ())))
            self.session.request(SotwRequest(type_url, nonce, wanted, error), self.now)
            return
        self.session.request(DeltaRequest(type_url, nonce, error=error), self.now)

    def subscribe(self, type_url: str, wanted: set[str]) -> None:
        """Ask for exactly `wanted`, in a request of its own."""
        before, self.asked[type_url] = self.asked[type_url], wanted
        if before == wanted:
            return
        for name in before - wanted:
            self.held[type_url].pop(name, None)
        if self.session.delta:
            request = DeltaRequest(
                type_url, subscribe=tuple(sorted(wanted - before)), unsubscribe=tuple(sorted(before - wanted))
            )
            self.session.request(request, self.now)
        else:
            nonce = self.nonces.get(type_url, "")
            self.session.request(SotwRequest(type_url, nonce, tuple(sorted(wanted))), self.now)

    def apply(self, response: Response) -> None:
        """Put `response` in force."""
        held = self.held[response.type_url]
        if not self.session.delta and response.type_url in (CLUSTER, LISTENER):
            held.clear()
        wanted = self.asked.get(response.type_url, {resource.name for resource in response.resources})
        held.update({found.name: found.body.decode() for found in response.resources if found.name in wanted})
        for name in response.removed:
            held.pop(name, None)

    def follow(self) -> None:
        """Ask for the endpoints of every cluster and for the routes of every listener it has."""
        self.subscribe(ENDPOINT, set(self.held[CLUSTER]))
        self.subscribe(ROUTE, set(self.held[LISTENER]))

    def settle(self) -> list[Response]:
        """Take everything until nothing more comes; what came."""
        came = []
        while sent := self.session.responses(self.now):
            for response in sent:
                self.apply(response)
                self.say(response.type_url, response.nonce)
                self.follow()
                came.append(response)
        return came


MESH = snapshot(
    clusters={"a": "a1", "b": "b1"},
    endpoints={"a": "a-1", "b": "b-1"},
    listeners={"9080": "l1"},
    routes={"9080": "a b"},
)

both = pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])


def connected(delta: bool, first: Snapshot = MESH) -> Proxy:
    """A proxy that has everything."""
    proxy = Proxy(Session(delta))
    proxy.session.update(first, 0.0)
    proxy.start()
    proxy.settle()
    assert all(proxy.session.synced(type_url) for type_url in FOUR)
    assert proxy.session.converged(0.0) == 0.0
    return proxy


def snapshot_with(**changes: Mapping[str, str]) -> Snapshot:
    """MESH with other resources of some kinds."""
    return {**MESH, **{type_url: found for type_url, found in snapshot(**changes).items() if found}}
