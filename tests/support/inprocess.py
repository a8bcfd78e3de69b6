"""A whole proxy in the test's own event loop, on loopback: what it counts can be looked at, filters can be put in.

    async with running(bootstrap(upstream.address)) as proxy:
        async with client(proxy.address) as peer: ...

On leaving the block everything in flight must have been counted out again: nothing may leak, whatever the test did.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from pymesh.steps import whole
from pymesh.xds.decode import load_bootstrap
from pymesh_proxy.admin_pages import admin_pages, metrics
from pymesh_proxy.app import Proxy
from pymesh_proxy.config.model import HttpManager, Snapshot
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.options import Options, parse
from pymesh_proxy.telemetry.record import RequestRecord
from tests.support.peers import Address
from tests.support.waiting import eventually

Json = dict[str, Any]

_TYPE = "type.googleapis.com/envoy.extensions.filters."
HTTP = "http"
TCP = "tcp"


def cluster(name: str, *addresses: Address, **more: object) -> Json:
    """A STATIC cluster of these endpoints."""
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}} for host, port in addresses
    ]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        **more,
    }


def limits(**values: int) -> Json:
    """`circuit_breakers` of a cluster."""
    return {"circuit_breakers": {"thresholds": [values]}}


def route(to: str = "service", *, prefix: str = "/", **more: object) -> Json:
    """A route to a cluster; `more` goes into its action."""
    return {"match": {"prefix": prefix}, "route": {"cluster": to, **more}}


def http_listener(routes: Sequence[Json], **manager: object) -> Json:
    """A listener on a free port with an HTTP connection manager."""
    router = {"name": "router", "typed_config": {"@type": f"{_TYPE}http.router.v3.Router"}}
    return _listener(
        HTTP,
        "http_connection_manager.v3.HttpConnectionManager",
        {
            "stat_prefix": HTTP,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes)}]},
            "http_filters": [router],
            **manager,
        },
    )


def tcp_listener(to: str = "service", **proxy: object) -> Json:
    """A listener on a free port that passes bytes on."""
    return _listener(TCP, "tcp_proxy.v3.TcpProxy", {"stat_prefix": TCP, "cluster": to, **proxy})


def _listener(name: str, kind: str, config: Mapping[str, object]) -> Json:
    network = {"name": kind, "typed_config": {"@type": f"{_TYPE}network.{kind}", **config}}
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [network]}],
    }


def bootstrap(listeners: Sequence[Json], clusters: Sequence[Json]) -> str:
    """The text of a bootstrap."""
    return json.dumps({"static_resources": {"listeners": list(listeners), "clusters": list(clusters)}})


def simple(*upstreams: Address, **action: object) -> str:
    """An HTTP listener in front of one cluster `service`; `action` goes into the route."""
    return bootstrap([http_listener([route(**action)])], [cluster("service", *upstreams)])


class Running:
    """A proxy that serves."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.runtime = proxy.runtime

    def address_of(self, name: str) -> Address:
        """Where the listener `name` accepts."""
        host, _, port = dict(self.proxy.addresses())[name].rpartition(":")
        return host, int(port)

    @property
    def address(self) -> Address:
        """Where the only listener accepts."""
        [(name, _)] = self.proxy.addresses()
        return self.address_of(name)

    def change(self, config: str) -> None:
        """Put another bootstrap in force, as a push would: listeners stay on their ports, nobody is told of it."""
        changed = json.loads(config)
        for listener in changed["static_resources"]["listeners"]:
            listener["address"]["socket_address"]["port_value"] = self.address_of(listener["name"])[1]
        self.proxy.adopt(self.proxy.configuration.apply_bootstrap(load_bootstrap(json.dumps(changed), "test")))

    def follow(self) -> None:
        """Let connections without a request follow, as after a push."""
        whole(self.runtime.following())

    async def records(self, count: int) -> list[RequestRecord]:
        """The records of all requests so far, of which there must be `count`."""
        await eventually(lambda: len(self.runtime.recent) >= count, what=f"{count} records")
        assert len(self.runtime.recent) == count
        return list(self.runtime.recent)

    async def record(self) -> RequestRecord:
        """The record of the only request so far."""
        [record] = await self.records(1)
        return record

    async def settled(self) -> None:
        """Wait until nothing is in flight by any count; fails with the counts that stay."""
        await eventually(lambda: not self.in_flight(), what=f"nothing in flight, but {self.in_flight()}")

    def in_flight(self) -> dict[str, object]:
        """Every count of things in flight that is not zero, as the admin port shows them, and as they are kept."""
        found: dict[str, object] = {}
        idle = 0
        pages = admin_pages(self.proxy)
        for row in json.loads(_body(pages["/clusters"].answer({"format": "json"}))):
            for endpoint in row["endpoints"]:
                idle += endpoint["idle"]
                if endpoint["active"]:
                    found[f"{row['cluster']} {endpoint['address']} active"] = endpoint["active"]
        pooled = 0.0
        for family in text_string_to_metric_families(whole(metrics(self.proxy)).decode()):
            for sample in family.samples:
                if sample.name == "envoy_cluster_upstream_cx_active":
                    pooled += sample.value
                elif sample.name.endswith("_active") and "ejections" not in sample.name and sample.value:
                    found[f"{sample.name} {sample.labels}"] = sample.value
        if pooled != idle:
            found["upstream connections neither idle nor in use"] = pooled - idle
        for compiled in self.runtime.snapshot.clusters.values():
            state = self.runtime.upstreams.state(compiled)
            if state.requests or state.waiting:
                found[f"{compiled.name} requests, waiting"] = (state.requests, len(state.waiting))
        if self.runtime.connections:
            found["downstream connections"] = len(self.runtime.connections)
        return found

    def counter(self, name: str) -> float:
        """The sum over all labels of a sample on /stats/prometheus."""
        text = whole(metrics(self.proxy)).decode()
        samples = [item for family in text_string_to_metric_families(text) for item in family.samples]
        found = [sample.value for sample in samples if sample.name == name]
        assert found, f"no {name} among {sorted({sample.name for sample in samples})}"
        return sum(found)


def _body(answer: object) -> str:
    return answer.body.decode()  # type: ignore[attr-defined]  # these pages answer at once


def options(*argv: str) -> Options:
    """Options of a proxy without ports of its own."""
    return parse(["--config", "none", "--admin", "127.0.0.1:0", "--metrics-port", "0", "--readiness-port", "0", *argv])


@contextlib.asynccontextmanager
async def running(config: str, *, filters: Sequence[HttpFilter] = (), settle: bool = True) -> AsyncIterator[Running]:
    """A proxy with the bootstrap `config`, whose HTTP managers have `filters`."""
    proxy = Proxy(options(), asyncio.get_running_loop())
    proxy.runtime.upstreams._balancers._random = lambda: 0.0  # round robin begins with the first endpoint
    snapshot = proxy.configuration.apply_bootstrap(load_bootstrap(config, "test"))
    proxy.adopt(with_filters(snapshot, filters) if filters else snapshot)
    serving = Running(proxy)
    try:
        yield serving
        if settle:
            await serving.settled()
    finally:
        for acceptor in proxy._acceptors.values():
            acceptor.close()
        await proxy.runtime.close()


def with_filters(snapshot: Snapshot, filters: Sequence[HttpFilter]) -> Snapshot:
    """`snapshot` with these filters in every HTTP manager."""
    listeners = {}
    for name, listener in snapshot.listeners.items():
        chains = tuple(
            replace(chain, handler=replace(chain.handler, filters=tuple(filters)))
            if isinstance(chain.handler, HttpManager)
            else chain
            for chain in listener.chains
        )
        default = listener.default_chain
        if default is not None and isinstance(default.handler, HttpManager):
            default = replace(default, handler=replace(default.handler, filters=tuple(filters)))
        listeners[name] = replace(listener, chains=chains, default_chain=default)
    return replace(snapshot, listeners=listeners)


def write_bootstrap(directory: Path, text: str) -> Path:
    """`text` in a file."""
    path = directory / "bootstrap.json"
    path.write_text(text)
    return path
