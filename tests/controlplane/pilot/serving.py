"""A discovery server on a free port of loopback, fed by the test."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf import json_format
from google.protobuf.message import Message

from pymesh.xds.types import CLUSTER, ENDPOINT, HTTP_CONNECTION_MANAGER, HTTP_ROUTER, LISTENER, ROUTE
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.server import Authenticate, DiscoveryServer, Origin, ServerContext
from pymesh_controlplane.pilot.session import PUSH_ORDER, Snapshot
from pymesh_controlplane.pilot.translate import encoded
from pymesh_controlplane.running import GRPC_OPTIONS
from tests.controlplane.pilot.worlds import Messages

NODE_ID = "sidecar~10.244.0.7~reviews-v1-0.default~default.svc.cluster.local"


def node_message(node_id: str = NODE_ID, account: str = "reviews") -> NodeMessage:
    """The node of a sidecar."""
    message = NodeMessage(id=node_id, cluster="reviews-v1.default", user_agent_name="test")
    message.metadata.update({"NAMESPACE": "default", "SERVICE_ACCOUNT": account})
    return message


def world(revision: str) -> World:
    """A world of which only the revision counts."""
    return World(revision, {}, {}, {}, {})


def snapshot_of(messages: Messages) -> Snapshot:
    """`messages` as the server wants them."""
    return {kind: {name: encoded(name, messages[kind][name]) for name in messages.get(kind, {})} for kind in PUSH_ORDER}


@dataclass
class Feed:
    """A source whose worlds the test makes, and a translation that looks them up."""

    worlds: asyncio.Queue[World] = field(default_factory=asyncio.Queue)
    content: dict[str, Snapshot] = field(default_factory=dict)

    async def watch(self) -> AsyncIterator[World]:
        """As pilot's sources do."""
        while True:
            yield await self.worlds.get()

    def put(self, resources: Mapping[str, Mapping[str, Message]]) -> None:
        """From now on this is what every proxy is to know."""
        revision = str(len(self.content))
        self.content[revision] = snapshot_of(resources)
        self.worlds.put_nowait(world(revision))

    def translate(self, _: Node, current: World) -> Snapshot:
        """In place of pilot's own translation."""
        return self.content[current.revision]


@dataclass
class Pilot:
    """What a test drives."""

    server: DiscoveryServer
    feed: Feed
    metrics: Metrics
    port: int


async def anybody(context: ServerContext) -> Origin:
    """As on port 15010."""
    return Origin(context.peer())


def always(origin: Origin) -> Authenticate:
    """Whoever calls is `origin`."""

    async def authenticate(_: ServerContext) -> Origin:
        return origin

    return authenticate


@asynccontextmanager
async def serving(
    authenticate: Authenticate = anybody, translate: Callable[[Node, World], Snapshot] | None = None
) -> AsyncIterator[Pilot]:
    """A running pilot."""
    feed, metrics = Feed(), Metrics()
    server = DiscoveryServer(translate or feed.translate, metrics, time.monotonic)
    listener = grpc.aio.server(options=GRPC_OPTIONS)
    port = listener.add_insecure_port("127.0.0.1:0")
    listener.add_generic_rpc_handlers((server.handler(authenticate),))
    await listener.start()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(server.run(feed))
        try:
            yield Pilot(server, feed, metrics, port)
        finally:
            await listener.stop(0)
            running.cancel()


def mesh(port: int, *, backend: int, cluster: str = "outbound|9080||reviews", timeout: int = 1) -> Messages:
    """A listener on `port` whose one route leads to a server on `backend`, by a cluster with endpoints from pilot."""
    ads = {"ads": {}, "resource_api_version": "V3"}
    manager = {
        "@type": HTTP_CONNECTION_MANAGER,
        "stat_prefix": "test",
        "rds": {"route_config_name": "9080", "config_source": ads},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": HTTP_ROUTER},
            }
        ],
    }
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": backend}}}}
    return {
        CLUSTER: {
            cluster: json_format.ParseDict(
                {
                    "name": cluster,
                    "type": "EDS",
                    "connect_timeout": f"{timeout}s",
                    "eds_cluster_config": {"eds_config": ads},
                },
                Cluster(),
            )
        },
        ENDPOINT: {
            cluster: json_format.ParseDict(
                {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [endpoint]}]}, ClusterLoadAssignment()
            )
        },
        LISTENER: {
            "front": json_format.ParseDict(
                {
                    "name": "front",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                },
                Listener(),
            )
        },
        ROUTE: {
            "9080": json_format.ParseDict(
                {
                    "name": "9080",
                    "virtual_hosts": [
                        {
                            "name": "all",
                            "domains": ["*"],
                            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
                        }
                    ],
                },
                RouteConfiguration(),
            )
        },
    }
