"""Pushes of configuration to a proxy that works, and its end: no request is lost to them. Real process, real xDS."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.message import Message

from pymesh.xds import types
from tests.support.proxy_process import ProxyProcess, free_port
from tests.support.pushing import Pushing
from tests.support.steady_load import SteadyLoad
from tests.support.waiting import eventually
from tests.support.xds import HCM, ROUTER, message

# Clusters and virtual hosts that nobody uses: enough for each push to take many slices.
MANY = 150
# Requests a second of each of the four kinds.
RATE = 25.0
PUSHES = 6


class Upstream:
    """Answers a request with its body, after up to 40 ms, so that there are always some in flight."""

    def __init__(self) -> None:
        self.port = 0
        self.served = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
                body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
                self.served += 1
                await asyncio.sleep(self.served % 5 / 100)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def upstreams(count: int) -> AsyncIterator[list[Upstream]]:
    found = [Upstream() for _ in range(count)]
    servers = []
    for upstream in found:
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
        upstream.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    try:
        yield found
    finally:
        for server in servers:
            server.close()


def clusters(*used: str, generation: int) -> list[Message]:
    text = "{name: %s, type: EDS, connect_timeout: %ds, eds_cluster_config: {eds_config: {ads: {}}}}"
    names = [*used, *(f"unused-{number}" for number in range(MANY))]
    return [message(Cluster, text % (name, generation + 1)) for name in names]


def endpoints(ports: Sequence[int], *used: str) -> list[Message]:
    members = ", ".join(
        f"{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}" for port in ports
    )
    text = "{cluster_name: %s, endpoints: [{lb_endpoints: [%s]}]}"
    names = [*used, *(f"unused-{number}" for number in range(MANY))]
    return [message(ClusterLoadAssignment, text % (name, members)) for name in names]


def routes(cluster: str) -> list[Message]:
    text = "{name: %s, domains: [%s], routes: [{name: to-%s, match: {prefix: /}, route: {cluster: %s}}]}"
    hosts = [text % ("used", "'*'", cluster, cluster)]
    hosts += [text % (f"v{number}", f"v{number}.example", cluster, cluster) for number in range(MANY)]
    return [message(RouteConfiguration, f"{{name: '80', virtual_hosts: [{', '.join(hosts)}]}}")]


def listener(port: int, server_name: str) -> list[Message]:
    config = (
        f"{{'@type': {HCM}, stat_prefix: s, server_name: {server_name}, "
        f"rds: {{config_source: {{ads: {{}}}}, route_config_name: '80'}}, http_filters: [{ROUTER}]}}"
    )
    text = (
        f"{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, "
        f"filter_chains: [{{filters: [{{name: f, typed_config: {config}}}]}}]}}"
    )
    return [message(Listener, text)]


@pytest.fixture
def pilot() -> Iterator[Pushing]:
    with Pushing() as pushing:
        yield pushing


async def push(pilot: Pushing, type_url: str, version: str, resources: list[Message]) -> None:
    pilot.push(type_url, version, resources)
    await asyncio.to_thread(pilot.acknowledged, type_url, version)


async def ask_until_told(address: tuple[str, int]) -> int:
    """Send request after request on one connection, until an answer says that it is the last; how many there were.

    Raises:
        IncompleteReadError, ConnectionError: the connection ended under a request.
    """
    reader, writer = await asyncio.open_connection(*address)
    answered = 0
    while True:
        writer.write(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200")
        answered += 1
        if b"\r\nconnection: close\r\n" in head:
            assert await reader.read() == b""
            writer.close()
            return answered


@pytest.mark.e2e
async def test_neither_pushes_nor_the_end_lose_a_request(pilot: Pushing, tmp_path: Path) -> None:
    """Of routes, listeners, clusters and endpoints, while requests are in flight; then SIGTERM."""
    port = free_port()
    async with upstreams(3) as served:
        ports = [upstream.port for upstream in served]
        pilot.push(types.CLUSTER, "0", clusters("c0", generation=0))
        pilot.push(types.ENDPOINT, "0", endpoints(ports[:2], "c0"))
        pilot.push(types.LISTENER, "0", listener(port, "g0"))
        pilot.push(types.ROUTE, "0", routes("c0"))
        config = pilot.bootstrap(tmp_path / "bootstrap.json")
        proxy = ProxyProcess("--config", config, "--drain-time", "10")
        await asyncio.to_thread(proxy.__enter__)
        try:
            load = SteadyLoad(("127.0.0.1", port), RATE)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(load.run())
                for generation in range(1, PUSHES):
                    new, old, version = f"c{generation}", f"c{generation - 1}", str(generation)
                    two = [ports[generation % 3], ports[(generation + 1) % 3]]
                    # Make before break, as any control plane has to: the cluster is there before a route leads to it.
                    pilot.push(types.ENDPOINT, f"{version}a", endpoints(two, old, new))
                    await push(pilot, types.CLUSTER, f"{version}a", clusters(old, new, generation=generation))
                    await push(pilot, types.ENDPOINT, f"{version}b", endpoints(two, old, new))
                    await push(pilot, types.LISTENER, version, listener(port, f"g{generation}"))
                    await push(pilot, types.ROUTE, version, routes(new))
                    await push(pilot, types.CLUSTER, f"{version}c", clusters(new, generation=generation))
                await asyncio.to_thread(proxy.get, "/ready")
                records = await asyncio.to_thread(proxy.requests)
                rejected = await asyncio.to_thread(proxy.counter, "pymesh_xds_rejected")
                before = load.served()
                await eventually(lambda: load.served() > before + 10, what="requests after the last push")
                load.ending = True
                await running
            assert (dict(load.lost), load.closed) == ({}, 0)
            assert (rejected, pilot.refused) == (0, [])
            assert len({record["cluster"] for record in records}) >= 3, "requests went on through several pushes"
            assert all(upstream.served for upstream in served)
            await asyncio.to_thread(proxy.settled)

            async with asyncio.TaskGroup() as group:
                clients = [group.create_task(ask_until_told(("127.0.0.1", port))) for _ in range(20)]
                served_before = sum(upstream.served for upstream in served)
                await eventually(lambda: sum(one.served for one in served) > served_before + 100, what="a hundred more")
                proxy.terminate()
            assert all(client.result() for client in clients)
            assert await asyncio.to_thread(proxy.wait) == 0
        finally:
            await asyncio.to_thread(proxy.__exit__, None, None, None)


@pytest.mark.e2e
async def test_what_static_resources_refer_to_is_followed(pilot: Pushing, tmp_path: Path) -> None:
    """A static listener whose routes come by RDS, a static cluster whose endpoints come by EDS; no LDS, no CDS."""
    port = free_port()
    text = "{name: c0, type: EDS, connect_timeout: 1s, eds_cluster_config: {eds_config: {ads: {}}}}"
    config = pilot.bootstrap(tmp_path / "bootstrap.json", listener(port, "static"), [message(Cluster, text)])
    async with upstreams(2) as served:
        pilot.push(types.ENDPOINT, "1", endpoints([served[0].port], "c0"))
        pilot.push(types.ROUTE, "1", routes("c0"))
        with ProxyProcess("--config", config) as proxy:
            assert (await asyncio.to_thread(proxy.ask, port, "/")).status == 200
            await push(pilot, types.ENDPOINT, "2", endpoints([served[1].port], "c0"))
            assert (await asyncio.to_thread(proxy.ask, port, "/")).status == 200
    assert [upstream.served for upstream in served] == [1, 1]
    assert pilot.node.metadata == {"LABELS": {"app": "proxy"}, "of-the-user": ["a", 1.0]}
    assert (pilot.node.locality.zone, pilot.node.user_agent_name) == ("z1", "pymesh-proxy")
