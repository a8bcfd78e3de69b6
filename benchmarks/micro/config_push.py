"""What a push of configuration does to a proxy: the longest stall of the event loop, the time it takes, the memory.

    python -m benchmarks.micro.config_push [--services 1000] [--endpoints 10] [--routes 10] [--pushes 3] [--at-once]

Plays pilot and proxy in one process, without sockets: responses of CDS, EDS and RDS that replace everything go through
the proxy's own ADS client, compiler and pace. Beside them a timer that is due every millisecond finds out for how long
the loop did not turn. `--at-once` takes all steps in a row, as if there were no slices. The same under load, with a
process of its own, is `python -m benchmarks.macro push`.
"""

import argparse
import asyncio
import gc
import sys
from collections.abc import Iterator
from time import perf_counter, process_time

import uvloop
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse
from google.protobuf.message import Message

from pymesh.errors import ConfigError
from pymesh.steps import Steps, whole
from pymesh.xds import types
from pymesh_proxy.config.model import Snapshot
from pymesh_proxy.config.snapshot import Configuration
from pymesh_proxy.control import pace
from pymesh_proxy.control.ads import Ads, XdsStats
from pymesh_proxy.control.subscription import StateOfTheWorld
from pymesh_proxy.upstream.registry import EndpointRegistry

_ROUTES = "9080"


def host(service: int) -> str:
    """The name of a service."""
    return f"service-{service}.default.svc.cluster.local"


def cluster(service: int, generation: int) -> Cluster:
    """As pilot sends it; different in each generation."""
    message = Cluster(name=f"outbound|9080||{host(service)}", type=Cluster.EDS, lb_policy=Cluster.LEAST_REQUEST)
    message.connect_timeout.seconds = 10 + generation
    message.eds_cluster_config.eds_config.ads.SetInParent()
    message.circuit_breakers.thresholds.add().max_connections.value = 4096
    service_facts = {"host": host(service), "name": f"service-{service}", "namespace": "default"}
    message.metadata.filter_metadata["istio"].update({"services": [service_facts]})
    return message


def endpoints(service: int, generation: int, count: int) -> ClusterLoadAssignment:
    """Addresses that no generation shares with the one before."""
    message = ClusterLoadAssignment(cluster_name=f"outbound|9080||{host(service)}")
    group = message.endpoints.add()
    for number in range(count):
        index = service * count + number
        one = group.lb_endpoints.add()
        address = one.endpoint.address.socket_address
        address.address = f"10.{generation % 200}.{index // 250 % 250}.{index % 250 + 1}"
        address.port_value = 9080
        workload = f"service-{service}-v1;default;service-{service};v1;Kubernetes"
        one.metadata.filter_metadata["istio"].update({"workload": workload})
    return message


def routes(services: int, generation: int, count: int) -> RouteConfiguration:
    """One virtual host a service."""
    message = RouteConfiguration(name=_ROUTES)
    for service in range(services):
        name = f"service-{service}.default"
        virtual_host = message.virtual_hosts.add(name=f"{name}:9080", domains=[name, host(service), f"{name}:9080"])
        for number in range(count):
            route = virtual_host.routes.add(name=f"route-{number}-{generation}")
            route.match.prefix = f"/api/v{number}/"
            route.route.cluster = f"outbound|9080||{host(service)}"
            route.route.timeout.seconds = 15
    return message


def listener() -> Listener:
    """One that takes the routes by RDS."""
    manager = HttpConnectionManager(stat_prefix="outbound")
    manager.rds.route_config_name = _ROUTES
    manager.rds.config_source.ads.SetInParent()
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.Pack(Router())
    message = Listener(name="outbound")
    message.address.socket_address.address, message.address.socket_address.port_value = "127.0.0.1", 15001
    message.filter_chains.add().filters.add(name="http").typed_config.Pack(manager)
    return message


def push(services: int, generation: int, endpoint_count: int, route_count: int) -> Iterator[bytes]:
    """The responses of one push, in their order."""
    everything: list[tuple[str, list[Message]]] = [
        (types.CLUSTER, [cluster(number, generation) for number in range(services)]),
        (types.ENDPOINT, [endpoints(number, generation, endpoint_count) for number in range(services)]),
        (types.LISTENER, [listener()]),
        (types.ROUTE, [routes(services, generation, route_count)]),
    ]
    for type_url, resources in everything:
        response = DiscoveryResponse(type_url=type_url, version_info=str(generation), nonce=f"{type_url}{generation}")
        for resource in resources:
            response.resources.add().Pack(resource)
        yield response.SerializeToString()


class Consumer:
    """What `pymesh_proxy.app` does with configuration, without its sockets."""

    def __init__(self) -> None:
        self.configuration = Configuration(EndpointRegistry(), lambda: 0.5)
        self.snapshot: Snapshot = self.configuration.snapshot

    def apply(
        self, type_url: str, added: dict[str, bytes], removed: set[str], version: str
    ) -> Steps[dict[str, ConfigError]]:
        """See control.ads.Consumer."""
        return self.configuration.staging(type_url, added, removed)

    def publish(self) -> Steps[None]:
        """See control.ads.Consumer."""
        self.snapshot = yield from self.configuration.publishing()
        yield from self.configuration.clearing()


class Ticker:
    """Finds out for how long the loop did not turn."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = perf_counter()
        self._loop = asyncio.get_running_loop()
        self._turn()

    def _turn(self) -> None:
        now = perf_counter()
        self.longest = max(self.longest, now - self._last)
        self._last = now
        self._timer = self._loop.call_later(0.001, self._turn)

    def reset(self) -> None:
        """Forget what was."""
        self.longest, self._last = 0.0, perf_counter()

    def stop(self) -> None:
        """Look no longer."""
        self._timer.cancel()


def memory() -> float:
    """Resident memory of this process in MB."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123 - one line of procfs
        return int(statm.read().split()[1]) * 4096 / 1e6


async def measure(given: argparse.Namespace) -> None:
    """Push a few times, and print what each push cost."""
    consumer = Consumer()
    ads = Ads(StateOfTheWorld(), Node(id="bench"), consumer, stats := XdsStats())
    ads.open(0.0)
    slices: list[float] = []
    own = pace.Pace(lambda: True, lambda seconds, _cpu: slices.append(seconds))
    gc.collect()
    gc.freeze()
    print(f"{'':8}{'stall ms':>10}{'slice ms':>10}{'total s':>10}{'CPU s':>8}{'MB':>8}")
    for generation in range(given.pushes):
        responses = list(push(given.services, generation, given.endpoints, given.routes))
        await asyncio.sleep(0.1)
        slices.clear()
        ticker = Ticker()
        began, cpu = perf_counter(), process_time()
        for response in responses:
            if given.at_once:
                whole(ads.receive(response, 0.0))
                await asyncio.sleep(0)
            else:
                await own.take(ads.receive(response, 0.0))
        await asyncio.sleep(0.01)
        total, used = perf_counter() - began, process_time() - cpu
        stall = ticker.longest
        ticker.stop()
        del responses
        if stats.rejected:
            sys.exit(f"refused: {stats.last_rejection}")
        longest = max(slices, default=0.0)
        print(
            f"{generation + 1:<8}{stall * 1e3:10.2f}{longest * 1e3:10.2f}{total:10.2f}{used:8.2f}{memory():8.1f}",
            flush=True,
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--services", type=int, default=1000, help="each is a cluster and a virtual host")
    parser.add_argument("--endpoints", type=int, default=10, help="of each service")
    parser.add_argument("--routes", type=int, default=10, help="of each virtual host")
    parser.add_argument("--pushes", type=int, default=3, help="each replaces everything; the first fills the proxy")
    parser.add_argument("--at-once", action="store_true", help="without slices")
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
