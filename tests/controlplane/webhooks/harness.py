"""Both webhooks on a port with real TLS, over a world and a time of day that a test makes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from pymesh.resources.parse import parse
from pymesh_controlplane.citadel.authority import Authority, self_signed
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.ports import listen, port_of
from pymesh_controlplane.webhooks.server import Webhooks
from tests.controlplane.webhooks.reviews import Caller, Object, request, review

POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "reviews-"},
    "spec": {"containers": [{"name": "app", "image": "reviews:1"}]},
}
ROUTE: Object = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "VirtualService",
    "metadata": {"name": "reviews", "namespace": "default"},
    "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]},
}

ABOUT_POD = review(request("Pod", POD))
ABOUT_ROUTE = review(request("VirtualService", ROUTE))


@dataclass
class Clock:
    """The time of day, which a test moves on."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now


class Worlds:
    """A source whose world the test makes."""

    def __init__(self) -> None:
        self._worlds: asyncio.Queue[World] = asyncio.Queue()

    def become(self, *texts: str) -> None:
        """From now on the world is what `texts` describe."""
        self._worlds.put_nowait(world.build(parse("---\n".join(texts), "w.yaml").resources))

    async def watch(self) -> AsyncIterator[World]:
        """See `Source`."""
        while True:
            yield await self._worlds.get()


@dataclass
class Running:
    """Both webhooks as the control plane runs them, and what they are made of."""

    webhooks: Webhooks
    port: int
    authority: Authority
    worlds: Worlds

    def numbers(self) -> str:
        """What is shown of them at /metrics."""
        registry = CollectorRegistry()
        registry.register(self.webhooks.metrics)
        return generate_latest(registry).decode()

    async def caller(self, **more: Any) -> Caller:
        """A new connection."""
        return await Caller(self.port, self.authority.root_pem, **more).connect()


@contextlib.asynccontextmanager
async def running(clock: Clock | None = None) -> AsyncIterator[Running]:
    """The server, for as long as the block lasts."""
    clock = clock or Clock()
    authority, worlds = self_signed("cluster.local", now=clock.now), Worlds()
    listener = listen("127.0.0.1", 0, "--webhook-port")
    webhooks = Webhooks(listener, Trust(authority), injection=InjectionConfig, source=worlds, clock=clock)
    port = port_of(listener)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(webhooks.run())
        try:
            yield Running(webhooks, port, authority, worlds)
        finally:
            serving.cancel()
