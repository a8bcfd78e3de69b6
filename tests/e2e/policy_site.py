"""One proxy process for three ports, whose rules have the three failure modes, its app, and the load on them.

Each port has slots and tokens that it holds (leased), and questions that it asks.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load.open_loop import measure
from benchmarks.load.plans import Requests
from benchmarks.load.results import Latencies
from benchmarks.load.target import parse_target
from tests.controlplane.pilot.worlds import pod, service
from tests.proxy.control.lease_site import ROUTER, policy, slots
from tests.support.inprocess import Json, bootstrap, cluster, http_listener, route, write_bootstrap
from tests.support.proxy_process import ProxyProcess, free_port
from tests.support.waiting import eventually

# Seconds that a question may take: more than the 0.05 that pilot gives, for the sake of busy machines.
BUDGET = 0.2
# Requests a second of all three ports together, and for how long in one turn.
RATE, SECONDS = 500, 0.9
# Connections to each port: so many requests are under way at most when the service falls silent.
CONNECTIONS = 10
SENT = round(RATE / 3 * SECONDS)
# Requests of each port that the app has served before the service is taken away.
LET_IN = 20
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
NODE = "sidecar~10.244.1.0~web-0.default~default.svc.cluster.local"

# By port: the name of its rules, and their failure mode in the filter and in manifests.
MODES = {"open": ("OPEN", "Open"), "last": ("LAST_DECISION", "LastDecision"), "closed": ("CLOSED", "Closed")}
# Of each port, so that neither slots nor tokens are ever short.
PLENTY = 5000
ONCE, SOON = "request.path[/once/{who}]", "request.path[/soon/{who}]"


def held(port: str) -> str:
    """The name of the rule whose slots a port holds."""
    return f"ConcurrencyLimit default/{port}"


def rate(port: str, what: str) -> str:
    """The name of a port's rate: one that is `leased`, `asked` about, `once` an hour or again `soon`."""
    return f"RateLimit default/{port}-{what}"


def world() -> str:
    """For each path one an hour below /once, and one a second below /soon; of everything else plenty."""
    limits = [
        f"""
apiVersion: policy.pymesh.io/v1alpha1
kind: {kind}
metadata: {{name: {name}, namespace: default}}
spec: {{targetRefs: [{{name: web}}], failureMode: {mode}, {spec}}}
"""
        for port, (_, mode) in MODES.items()
        for kind, name, spec in (
            ("ConcurrencyLimit", port, "max: 100"),
            ("RateLimit", f"{port}-leased", f"requests: {PLENTY}, per: Second"),
            ("RateLimit", f"{port}-asked", "requests: 1000000, per: Hour, by: [source.address]"),
            ("RateLimit", f"{port}-once", f"requests: 1, burst: 1, per: Hour, by: ['{ONCE}']"),
            ("RateLimit", f"{port}-soon", f"requests: 1, burst: 1, per: Second, by: ['{SOON}']"),
        )
    ]
    return "---\n".join([service("web"), pod("web-0", "10.244.1.0", "web"), *limits])


def listener(port: str) -> Json:
    """The port, its rules in front of the app."""
    mode, _ = MODES[port]
    same = {"failure_mode": mode, "otherwise": "CLOSED"}
    rules: list[Json] = [
        slots(held(port), mode),
        {"name": rate(port, "leased"), "kind": "rate", "requests": PLENTY, "period": "1s", "burst": PLENTY, **same},
        {"name": rate(port, "asked"), "kind": "check", "by": ["source.address"], **same},
        {"name": rate(port, "once"), "kind": "check", "by": [ONCE], **same},
        {"name": rate(port, "soon"), "kind": "check", "by": [SOON], **same},
    ]
    made = http_listener([route("app")], http_filters=[policy(*rules, timeout=f"{BUDGET}s"), ROUTER])
    made["name"] = port
    return made


@dataclass
class App:
    """It says ok to everything. `served`: how many requests, by their path."""

    served: Counter[str] = field(default_factory=Counter)
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.open.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.served[head.split(b" ", 2)[1].decode()] += 1
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.open.remove(writer)


@dataclass
class Site:
    """A proxy, the app behind it and where it looks for its policy service."""

    proxy: ProxyProcess
    app: App
    ports: dict[str, int]
    policy_port: int

    async def get(self, port: str, path: str = "/") -> tuple[int, str, str]:
        """Status, head and body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[port])
        writer.write(f"GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return int(head.split(" ", 2)[1]), head, body

    async def turn(self, port: str) -> Latencies:
        """Requests for the path /`port`."""
        target = parse_target(f"http://127.0.0.1:{self.ports[port]}/{port}")
        return await measure(Requests(target, RATE / 3, CONNECTIONS, SECONDS, warm_up=0.0))

    async def load(self, port: str, enough: asyncio.Event) -> list[Latencies]:
        """Turn by turn until it is `enough`."""
        turns = []
        while not enough.is_set():
            turns.append(await self.turn(port))
        return turns

    def let_in(self, served: Mapping[str, int]) -> bool:
        """Whether requests of every port were let in since the app had `served` so many."""
        return all(self.app.served[f"/{port}"] >= served[f"/{port}"] + LET_IN for port in MODES)

    async def keeps_out(self) -> bool:
        """Whether the service is away for those who are not let in without it."""
        return (await self.get("closed"))[0] == 503

    async def counters(self) -> dict[tuple[str, str], float]:
        """What was counted of each rule, by the counter's name without its ends."""
        page = await asyncio.to_thread(self.proxy.get, "/stats/prometheus")
        return {
            (sample.name.removeprefix("pymesh_policy_").removesuffix("_total"), sample.labels["rule"]): sample.value
            for family in text_string_to_metric_families(page.text)
            for sample in family.samples
            if sample.name.startswith("pymesh_policy_")
        }

    async def refuses(self, port: str, path: str) -> bool:
        """Whether a limit is reached."""
        return (await self.get(port, path))[0] == 429

    async def in_a_row(self, port: str, path: str, count: int) -> list[int]:
        """The statuses of requests that are sent at once, on one connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[port])
        head = f"GET {path} HTTP/1.1\r\nhost: web\r\n"
        writer.write((count - 1) * f"{head}\r\n".encode() + f"{head}connection: close\r\n\r\n".encode())
        said = (await reader.read()).decode()
        writer.close()
        return [int(status) for status in re.findall(r"HTTP/1\.1 (\d+) ", said)]

    async def back(self) -> bool:
        """Whether every rule is decided by the service."""
        return [(await self.get(port))[0] for port in MODES] == [200, 200, 200]


@asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    """All of it; at the end nothing has gone wrong in the proxy."""
    async with AsyncExitStack() as stack:
        app = App()
        server = await stack.enter_async_context(await asyncio.start_server(app.serve, "127.0.0.1", 0))
        where = free_port()
        clusters = [cluster("app", server.sockets[0].getsockname()), cluster("policy", ("127.0.0.1", where))]
        text = json.loads(bootstrap([listener(port) for port in MODES], clusters))
        text["node"] = {"id": NODE, "cluster": "web.default"}
        proxy = ProxyProcess("--config", str(write_bootstrap(directory, json.dumps(text))))
        await asyncio.to_thread(proxy.__enter__)
        try:
            rows = (await asyncio.to_thread(proxy.get, "/listeners?format=json")).json
            ports = {row["name"]: int(row["address"].rpartition(":")[2]) for row in rows}
            yield Site(proxy, app, ports, where)
            assert not proxy.logged("Traceback")
        finally:
            proxy.__exit__(None, None, None)
            await eventually(lambda: not app.open, what="the end of the app's connections")
