"""What a cluster of many services and pods costs the control plane's source: time to the first world, time and CPU from
one change to the world that has it, memory, and how long the event loop stands still.

    python -m benchmarks.micro.kubernetes_source --services 1000 --pods 2000

The API server is the double of the tests, in a process of its own. Its objects have the size of real ones: a pod of
some 6 kB, of which the source keeps 2.5.
"""

import argparse
import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import uvloop

from pymesh_controlplane.app import GC_THRESHOLD, SWITCH_INTERVAL
from pymesh_controlplane.kube.client import connect
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.sources.kubernetes import KubernetesSource
from tests.support.kubernetes.server import ApiServer

NAMESPACES = 20
NODES = 20
CHANGES = 8
CHANGED = ("s0.ns0.svc.cluster.local", 80)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=2000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.services, given.pods)
    else:
        sys.setswitchinterval(SWITCH_INTERVAL)
        gc.set_threshold(GC_THRESHOLD)
        uvloop.run(measure(given.services, given.pods))


# --- The API server, in its own process ------------------------------------------------------------------------------


def serve(services: int, pods: int) -> None:
    """Say where it is, then change one pod and its slice for every line that comes, and say its address."""
    with ApiServer() as api:
        store = api.cluster.store
        for index in range(services):
            store.put(("", "services"), service(index))
            replicas = range(pods // services)
            for replica in replicas:
                store.put(("", "pods"), pod(index, replica, address(index, replica)))
            addresses = [address(index, replica) for replica in replicas]
            store.put(("discovery.k8s.io", "endpointslices"), endpoint_slice(index, addresses))
        print(api.kubeconfig(), flush=True)
        for number, _ in enumerate(sys.stdin, 1):
            moved = f"10.200.0.{number}"

            def change(moved: str = moved) -> None:
                store.put(("", "pods"), pod(0, 0, moved))
                store.put(("discovery.k8s.io", "endpointslices"), endpoint_slice(0, [moved]))

            api._running().call(change)
            print(moved, flush=True)


def address(index: int, replica: int) -> str:
    """Of a pod."""
    return f"10.{100 + replica}.{index // 250}.{index % 250 + 1}"


def service(index: int) -> dict[str, Any]:
    """A Service as the API server has it."""
    ip = f"10.96.{index // 250}.{index % 250 + 1}"
    port = {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}
    spec = {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "selector": {"app": f"s{index}"}, "ports": [port]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(f"s{index}", index), "spec": spec}


def pod(index: int, replica: int, ip: str) -> dict[str, Any]:
    """A Pod of the usual size."""
    labels = {"app": f"s{index}", "version": "v1", "security.istio.io/tlsMode": "istio"}
    container = {"name": "app", "image": "app", "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}]}
    container |= {"env": [{"name": f"VARIABLE_{number}", "value": "something"} for number in range(30)]}
    fields = {"f:status": {f"f:field{number}": {} for number in range(80)}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **metadata(f"s{index}-{replica}", index),
            "labels": labels,
            "managedFields": [{"manager": "kubelet", "fieldsV1": fields}],
        },
        "spec": {"serviceAccountName": f"s{index}", "nodeName": f"n{replica % NODES}", "containers": [container]},
        "status": {"podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running"},
    }


def endpoint_slice(index: int, addresses: list[str]) -> dict[str, Any]:
    """The EndpointSlice of a service."""
    namespace = f"ns{index % NAMESPACES}"
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**metadata(f"s{index}-x", index), "labels": {"kubernetes.io/service-name": f"s{index}"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [ip],
                "conditions": {"ready": True},
                "nodeName": f"n{replica % NODES}",
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": f"s{index}-{replica}"},
            }
            for replica, ip in enumerate(addresses)
        ],
    }


def metadata(name: str, index: int) -> dict[str, Any]:
    """What every object has."""
    return {
        "name": name,
        "namespace": f"ns{index % NAMESPACES}",
        "uid": "x" * 36,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }


# --- The source, in this one -----------------------------------------------------------------------------------------


async def measure(services: int, pods: int) -> None:
    """Print the figures."""
    command = [sys.executable, "-m", "benchmarks.micro.kubernetes_source", "--serve"]
    command += ["--services", str(services), "--pods", str(pods)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        client = connect(Path(server.stdout.readline().strip()))
        beat = Beat()
        began, cpu, memory = time.perf_counter(), time.process_time(), resident()
        async with aclosing(worlds(KubernetesSource(client))) as found, asyncio.TaskGroup() as tasks:
            heart = tasks.create_task(beat.run())
            world = await anext(found)
            print(
                f"{len(world.services)} services, {len(world.workloads)} pods: first world after "
                f"{time.perf_counter() - began:.2f} s, {time.process_time() - cpu:.2f} s of CPU; "
                f"memory {memory:.0f} -> {resident():.0f} MB; loop stood {1000 * beat.longest:.0f} ms at most"
            )
            for _ in range(CHANGES):
                beat.longest, cpu = 0.0, time.process_time()
                server.stdin.write("\n")
                server.stdin.flush()
                moved, began = server.stdout.readline().strip(), time.perf_counter()
                while [endpoint.address for endpoint in world.endpoints[CHANGED]] != [moved]:
                    world = await anext(found)
                print(
                    f"one change: {1000 * (time.perf_counter() - began):.0f} ms, "
                    f"{1000 * (time.process_time() - cpu):.0f} ms of CPU; "
                    f"memory {resident():.0f} MB; loop stood {1000 * beat.longest:.0f} ms"
                )
            heart.cancel()
        await client.close()
    finally:
        server.stdin.close()
        server.wait()


async def worlds(source: KubernetesSource) -> AsyncIterator[World]:
    """The worlds of a source."""
    async for world in source.watch():
        yield world


class Beat:
    """Notices how long the event loop stands still, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        """Look every 5 ms."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(0.005)
            self.longest = max(self.longest, loop.time() - began - 0.005)


def resident() -> float:
    """MB of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss:"))


if __name__ == "__main__":
    main()
