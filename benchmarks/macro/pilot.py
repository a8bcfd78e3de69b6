"""A control plane that replaces everything when it is told to: state-of-the-world ADS for any xDS client.

    python -m benchmarks.macro.pilot --port N --control SOCKET [--clusters 1000] [--endpoints 10]

A process of its own, on the load's cores. Whoever connects to the control socket and writes `push NODE` replaces every
cluster and every endpoint of that node's, and reads one line of JSON when the node has acknowledged both, or has not.
"""

import argparse
import json
import re
import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.protobuf.message import Message

from pymesh.xds import types

_METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
# Seconds that a node has for a push.
PUSH_TIMEOUT: Final = 30.0
# Worlds that take turns; no two have an endpoint or a cluster's settings in common.
_WORLDS: Final = 2
# Streams at a time: a thread each.
_MAX_STREAMS: Final = 16


@dataclass(frozen=True, slots=True)
class Size:
    """Of a world."""

    clusters: int
    endpoints: int


def cluster(number: int, world: int) -> Cluster:
    """As pilot sends it, in as far as a proxy's work depends on it."""
    made = Cluster(name=f"service-{number}", type=Cluster.EDS, lb_policy=Cluster.LEAST_REQUEST)
    made.connect_timeout.seconds = 10 + world
    made.eds_cluster_config.eds_config.ads.SetInParent()
    made.circuit_breakers.thresholds.add().max_connections.value = 4096
    return made


def endpoints(number: int, world: int, count: int, upstream_port: int) -> ClusterLoadAssignment:
    """The first cluster has the load, and so the upstream; the others addresses that nobody asks for."""
    made = ClusterLoadAssignment(cluster_name=f"service-{number}")
    group = made.endpoints.add()
    for index in range(count if number else 1):
        address = group.lb_endpoints.add().endpoint.address.socket_address
        address.address = f"10.{100 + world}.{number // 20}.{number % 20 * 10 + index}" if number else "127.0.0.1"
        address.port_value = 9080 if number else upstream_port
    return made


def routes() -> RouteConfiguration:
    """Everything to the first cluster."""
    made = RouteConfiguration(name="web")
    route = made.virtual_hosts.add(name="all", domains=["*"]).routes.add()
    route.match.prefix = "/"
    route.route.cluster = "service-0"
    return made


def listener(port: int) -> Listener:
    """The one that the load goes to."""
    manager = HttpConnectionManager(stat_prefix="web")
    manager.rds.route_config_name = "web"
    manager.rds.config_source.ads.SetInParent()
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.Pack(Router())
    made = Listener(name="web")
    address = made.address.socket_address
    address.address, address.port_value = "127.0.0.1", port
    chain = made.filter_chains.add()
    chain.filters.add(name="envoy.filters.network.http_connection_manager").typed_config.Pack(manager)
    return made


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node listens, and where its upstream does, on loopback."""

    listen_port: int
    upstream_port: int


def introduced(node_id: str) -> tuple[str, Place]:
    """Name and place of a node, from an id in the form that Istio gave them, with the place in the pod's name.

    Raises:
        ValueError: it is another.
    """
    found = re.fullmatch(r"sidecar~[0-9.]+~(\w+)-([0-9]+)-([0-9]+)\.\S+", node_id)
    if found is None:
        raise ValueError(f"{node_id!r} does not say where its proxy listens, and its upstream")
    return found[1], Place(int(found[2]), int(found[3]))


@cache
def resources(type_url: str, size: Size, world: int, place: Place) -> bytes:
    """The resources of a response, serialised: what costs time is done before the push that needs it."""
    found: list[Message] = [routes()]
    if type_url == types.CLUSTER:
        found = [cluster(number, world) for number in range(size.clusters)]
    elif type_url == types.ENDPOINT:
        found = [endpoints(number, world, size.endpoints, place.upstream_port) for number in range(size.clusters)]
    elif type_url == types.LISTENER:
        found = [listener(place.listen_port)]
    response = DiscoveryResponse()
    for resource in found:
        response.resources.add().Pack(resource)
    return response.SerializeToString()


@dataclass(slots=True)
class Node:
    """One client's stream: what it is told, and what it says to that. `changed` guards everything else."""

    name: str
    size: Size
    place: Place
    generation: int = 0
    outgoing: "SimpleQueue[bytes | None]" = field(default_factory=SimpleQueue)
    asked: dict[str, frozenset[str]] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    refused: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def hear(self, request: DiscoveryRequest) -> None:
        """A request: an acknowledgement, a refusal, or a question for more."""
        with self.changed:
            if request.error_detail.message:
                self.refused = request.error_detail.message
            elif request.version_info:
                self.acknowledged[request.type_url] = int(request.version_info)
            names = frozenset(request.resource_names)
            if self.asked.get(request.type_url) != names:
                self.asked[request.type_url] = names
                self._tell(request.type_url)
            self.changed.notify_all()

    def push(self) -> dict[str, object]:
        """Replace everything, and wait until that is acknowledged; both times are of `time.monotonic()`."""
        kinds = (types.CLUSTER, types.ENDPOINT)
        with self.changed:
            self.refused = ""
            self.generation += 1
            pushed = time.monotonic()
            for kind in kinds:
                self._tell(kind)

            def ended() -> bool:
                return bool(self.refused) or all(self.acknowledged.get(kind) == self.generation for kind in kinds)

            if not self.changed.wait_for(ended, PUSH_TIMEOUT):
                return {"error": f"not acknowledged within {PUSH_TIMEOUT:g} s"}
            if self.refused:
                return {"error": f"refused: {self.refused}"}
            return {"pushed": pushed, "acknowledged": time.monotonic()}

    def _tell(self, type_url: str) -> None:
        found = resources(type_url, self.size, self.generation % _WORLDS, self.place)
        version = str(self.generation)
        # Serialised messages one behind the other are the serialised merged message.
        head = DiscoveryResponse(type_url=type_url, version_info=version, nonce=f"{type_url} {version}")
        self.outgoing.put(found + head.SerializeToString())


class Pilot(grpc.GenericRpcHandler):
    """Serves the streams. `nodes` are those that are connected, by name."""

    def __init__(self, size: Size) -> None:
        self.nodes: dict[str, Node] = {}
        self._size = size

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """See grpc.GenericRpcHandler."""
        return grpc.stream_stream_rpc_method_handler(self._stream) if details.method == _METHOD else None

    def push(self, name: str) -> dict[str, object]:
        """See `Node.push`."""
        node = self.nodes.get(name)
        return node.push() if node else {"error": f"no node {name!r} is connected, only {', '.join(self.nodes)}"}

    def _stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        first = DiscoveryRequest.FromString(next(requests))
        name, place = introduced(first.node.id)
        node = Node(name, self._size, place)
        for kind in (types.CLUSTER, types.ENDPOINT):
            for world in range(_WORLDS):
                resources(kind, self._size, world, place)
        self.nodes[node.name] = node
        context.add_callback(lambda: node.outgoing.put(None))

        def hear() -> None:
            with suppress(grpc.RpcError):  # the stream has ended
                for request in requests:
                    node.hear(DiscoveryRequest.FromString(request))

        node.hear(first)
        threading.Thread(target=hear, daemon=True).start()
        while (response := node.outgoing.get()) is not None:
            yield response


class _Control(socketserver.StreamRequestHandler):
    """One command, one line of JSON."""

    server: "_ControlServer"

    def handle(self) -> None:
        word, _, name = self.rfile.readline().decode().strip().partition(" ")
        said = self.server.pilot.push(name) if word == "push" else {"error": f"no command {word!r}"}
        self.wfile.write(json.dumps(said).encode() + b"\n")


class _ControlServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, pilot: Pilot) -> None:
        super().__init__(str(path), _Control)
        self.pilot = pilot


def main() -> None:
    """Serve until terminated."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.macro.pilot")
    made.add_argument("--port", type=int, required=True)
    made.add_argument("--control", type=Path, required=True)
    made.add_argument("--clusters", type=int, default=1000)
    made.add_argument("--endpoints", type=int, default=10)
    arguments = made.parse_args()
    pilot = Pilot(Size(arguments.clusters, arguments.endpoints))
    with (
        ThreadPoolExecutor(_MAX_STREAMS) as pool,
        _ControlServer(arguments.control, pilot) as control,
    ):
        server = grpc.server(pool, handlers=[pilot], options=[("grpc.max_send_message_length", -1)])
        server.add_insecure_port(f"127.0.0.1:{arguments.port}")
        server.start()
        control.serve_forever()


if __name__ == "__main__":
    main()
