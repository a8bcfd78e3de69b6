"""How long it takes until a change of one file is in force everywhere.

    python -m benchmarks.micro.pilot_convergence [--services 200] [--proxies 20] [--rounds 5]

Starts a real pymesh-controlplane on free ports of loopback, connects the proxies' own xDS client as often as asked for
(all in this process), renames files into place, and reads from /debug/syncz when the last proxy acknowledged. Beside
it asks for /ready all the time: how long the slowest answer took tells whether pilot's event loop ever stands still.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import uvloop
from google.protobuf.message import Message

from benchmarks.micro import pilot_world
from pymesh_proxy.control.channel import Channel
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.pace import Pace
from pymesh_proxy.control.target import Target
from pymesh_proxy.control.xds import XdsClient, node_message

_SERVING = re.compile(r"serving http=(\d+) xds=(\d+)")


class Pilot(NamedTuple):
    """The ports of a control plane."""

    http: int
    xds: int


class Taker:
    """Takes every configuration, and does nothing with it: a proxy's own work is measured elsewhere."""

    def apply(self, type_url: str, added: dict[str, Message], removed: set[str], version: str) -> None:
        """See pymesh_proxy.control.ads.Consumer."""

    def publish(self) -> None:
        """See pymesh_proxy.control.ads.Consumer."""


@asynccontextmanager
async def control_plane(folder: Path) -> AsyncIterator[Pilot]:
    """A pilot of its own process that watches `folder`."""
    command = [sys.executable, "-m", "pymesh_controlplane", "--components", "pilot", "--config-dir", str(folder)]
    command += ["--listen", "127.0.0.1", "--xds-port", "0", "--http-port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    stderr = process.stderr
    assert stderr is not None
    try:
        async for line in stderr:
            if found := _SERVING.search(line.decode()):
                break
        else:
            raise SystemExit("pymesh-controlplane did not start")
        reading = asyncio.get_running_loop().create_task(stderr.read())
        yield Pilot(int(found[1]), int(found[2]))
    finally:
        process.terminate()
        await process.wait()
    await reading


async def ask(pilot: Pilot, path: str) -> bytes:
    """The body of an answer of port 15014."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pilot.http)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: pilot\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2]


async def last_acknowledged(pilot: Pilot, kinds: Sequence[str], proxies: int, since: float) -> float:
    """When the last of the proxies acknowledged an update of one of `kinds` that was made after `since`; epoch."""
    while True:
        status: list[dict[str, Any]] = json.loads(await ask(pilot, "/debug/syncz"))
        times = [_acknowledged(proxy, kinds) for proxy in status]
        synced = all(kind["status"] == "SYNCED" for proxy in status for kind in proxy["types"].values())
        if len(times) == proxies and synced and min(times) > since:
            return max(times)
        await asyncio.sleep(0.25)  # seldom: the page costs pilot more than an update does


def _acknowledged(proxy: dict[str, Any], kinds: Sequence[str]) -> float:
    acks = [proxy["types"][kind].get("last_ack") for kind in kinds]
    return max((datetime.fromisoformat(ack).timestamp() for ack in acks if ack), default=0.0)


async def slowest_answer(pilot: Pilot, until: asyncio.Event) -> float:
    """Seconds of the slowest answer to /ready of those asked one after the other."""
    slowest = 0.0
    while not until.is_set():
        begun = time.perf_counter()
        await ask(pilot, "/ready")
        slowest = max(slowest, time.perf_counter() - begun)
        await asyncio.sleep(0.01)
    return slowest


async def measure(
    what: str, pilot: Pilot, kinds: Sequence[str], given: argparse.Namespace, change: Callable[[int], None]
) -> None:
    """Make the change as often as asked for, and print how long it took to be everywhere."""
    took: list[float] = []
    done = asyncio.Event()
    asking = asyncio.get_running_loop().create_task(slowest_answer(pilot, done))
    for index in range(given.rounds):
        begun = time.time()
        change(index)
        took.append(await last_acknowledged(pilot, kinds, given.proxies, begun) - begun)
        await asyncio.sleep(0.3)
    done.set()
    print(
        f"  {what:<32} median {statistics.median(took) * 1e3:5.0f} ms, slowest {max(took) * 1e3:5.0f} ms; "
        f"slowest /ready meanwhile {await asking * 1e3:4.0f} ms"
    )


async def main() -> None:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--proxies", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sotw", action="store_true", help="state of the world in place of delta")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pilot_world.write(folder, given.services)
        async with control_plane(folder) as pilot:
            while await ask(pilot, "/ready") != b"ready\n":
                await asyncio.sleep(0.05)
            print(
                f"{given.services} services, {given.proxies} proxies, {'state of the world' if given.sotw else 'delta'}"
            )
            begun = time.time()
            clients = [
                asyncio.get_running_loop().create_task(client(pilot, index, given)) for index in range(given.proxies)
            ]
            everywhere = await last_acknowledged(pilot, ("cds", "eds", "lds", "rds"), given.proxies, begun)
            print(f"  all connected and synchronized after {(everywhere - begun) * 1e3:.0f} ms")

            def replace(index: int, weight: int = 90, *, ready: bool = True) -> None:
                pilot_world.replace(folder, index, pilot_world.manifest(index, weight=weight, ready=ready))

            await measure("another weight in a route", pilot, ("rds",), given, lambda i: replace(0, 10 + i))
            await measure("an endpoint comes or goes", pilot, ("eds",), given, lambda i: replace(1, ready=i % 2 == 1))
            await measure("a service more", pilot, ("cds",), given, lambda i: replace(given.services + i))
            for task in clients:
                task.cancel()


async def client(pilot: Pilot, index: int, given: argparse.Namespace) -> None:
    """One proxy, as far as pilot can tell."""
    node = pilot_world.node(index)
    who = Node(node.pod, node.namespace, node.addresses[0], node.service_account, node.pod)
    channel = Channel(Target("127.0.0.1", pilot.xds))
    await XdsClient(
        channel, node_message(who), Taker(), delta=not given.sotw, rng=random.Random(index), pace=Pace()
    ).run()


if __name__ == "__main__":
    uvloop.run(main())
