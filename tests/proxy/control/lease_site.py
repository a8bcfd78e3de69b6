"""A running proxy with a policy service, a real grpcio server that grants as a test says, and an upstream."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from random import random

from pymesh.policy_api import FILTER, FILTER_TYPE
from pymesh.xds.decode import load_bootstrap
from pymesh_proxy.config.model import Listener
from pymesh_proxy.config.snapshot import Configuration
from pymesh_proxy.control.leases import Leases
from pymesh_proxy.filters.slots import SlotRule
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.registry import EndpointRegistry
from tests.support.inprocess import Json, Running, bootstrap, cluster, http_listener, route, running
from tests.support.peers import Peer, RawUpstream, client
from tests.support.policy_peer import PolicyPeer
from tests.support.waiting import eventually

RULE = "ConcurrencyLimit shop/cart"
OTHER = "ConcurrencyLimit shop/all"
RATE = "RateLimit shop/cart"
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
ROUTER = {
    "name": "router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}


def slots(name: str = RULE, mode: str = "LAST_DECISION", otherwise: str = "CLOSED", most: int = 100) -> Json:
    return {"name": name, "kind": "slots", "max": most, "failure_mode": mode, "otherwise": otherwise}


def rate(name: str = RATE) -> Json:
    modes = {"failure_mode": "LAST_DECISION", "otherwise": "CLOSED"}
    return {"name": name, "kind": "rate", "requests": 600, "period": "60s", "burst": 100, **modes}


def policy(*rules: Json, timeout: str = "2s") -> Json:
    value = {"cluster": "policy", "timeout": timeout, "rules": list(rules)}
    return {
        "name": FILTER,
        "typed_config": {
            "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
            "type_url": FILTER_TYPE,
            "value": value,
        },
    }


def config(upstream: RawUpstream, port: int, filters: Sequence[Json], **action: object) -> str:
    listener = http_listener([route("service", prefix="/", **action)], http_filters=[*filters, ROUTER])
    return bootstrap([listener], [cluster("service", upstream.address), cluster("policy", ("127.0.0.1", port))])


class Site:
    """A proxy with a policy service and an upstream."""

    def __init__(self, proxy: Running, upstream: RawUpstream, peer: PolicyPeer, stack: AsyncExitStack) -> None:
        self.proxy = proxy
        self.upstream = upstream
        self.peer = peer
        self.stack = stack

    async def ask(self) -> Peer:
        """A client that has sent a request."""
        peer = await self.stack.enter_async_context(client(self.proxy.address))
        peer.send(GET)
        return peer

    async def inside(self) -> tuple[Peer, Peer]:
        """A client, and its request's connection to the app, where it stays."""
        peer = await self.ask()
        served = await self.upstream.accept()
        await served.head()
        return peer, served

    async def answered(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of what a new request gets, without the app."""
        return await answer_to(await self.ask())

    async def connected(self, rule: str = RULE) -> None:
        """The service has granted."""
        await eventually(lambda: len(self.peer.heard) > 0 and self.rule(rule).usable > 0, what="a grant")

    def follow(self, peer: PolicyPeer) -> None:
        """A configuration in which the policy service is elsewhere."""
        snapshot = self.proxy.runtime.snapshot
        there = replace(snapshot.clusters["policy"], endpoints=(Endpoint("127.0.0.1", peer.port),))
        self.proxy.proxy.adopt(replace(snapshot, clusters={**snapshot.clusters, "policy": there}))

    def listeners(self, *filters: Json) -> Mapping[str, Listener]:
        """Those of a configuration with other filters."""
        text = config(self.upstream, self.peer.port, filters)
        return Configuration(EndpointRegistry(), random).apply_bootstrap(load_bootstrap(text, "test")).listeners

    def rules(self, *filters: Json) -> None:
        """A configuration with other filters comes into force."""
        snapshot = replace(self.proxy.runtime.snapshot, listeners=self.listeners(*filters))
        self.proxy.proxy.adopt(snapshot)

    @property
    def leases(self) -> Leases:
        [client] = self.proxy.proxy.services.policies.values()
        return client.leases

    def rule(self, name: str = RULE) -> SlotRule:
        """The rule's state."""
        return self.leases.rules[name]

    @property
    def in_use(self) -> int:
        return len(self.rule().holders)

    async def last(self, count: int) -> RequestRecord:
        return (await self.proxy.records(count))[-1]


async def answer_to(peer: Peer) -> tuple[int, bytes, bytes]:
    head, body = await peer.message()
    return int(head.split(b" ", 2)[1]), head, body


@asynccontextmanager
async def site(peer: PolicyPeer, *filters: Json, **action: object) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream())
        text = config(upstream, peer.port, filters or [policy(slots())], **action)
        proxy = await stack.enter_async_context(running(text))
        try:
            yield Site(proxy, upstream, peer, stack)
        finally:
            await proxy.proxy.services.close()
