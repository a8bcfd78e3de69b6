"""What the components that serve sidecars bring to the process that runs them, one function a component."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from prometheus_client.registry import Collector as Metrics
from starlette.routing import BaseRoute

from pymesh.errors import ConfigError
from pymesh_controlplane.mesh_port import Http, MeshPort
from pymesh_controlplane.options import Options
from pymesh_controlplane.pilot.server import Authenticate
from pymesh_controlplane.policy.service import PolicyService
from pymesh_controlplane.policy.store import Store
from pymesh_controlplane.sources.base import Source
from pymesh_controlplane.telemetry import pages
from pymesh_controlplane.telemetry.collector import Collector
from pymesh_controlplane.telemetry.service import AccessLogService

# What a Secret that names the store has: where it is, its password, the roots of its certificate.
STORE_FILES: Final = ("url", "password", "ca.crt")


@dataclass(frozen=True, slots=True)
class Part:
    """A component with services on the mesh port.

    Attributes:
        services: the gRPC services of port 9091, given what tells the origin of their calls.
        run: its work beside the calls, until cancelled; None if it has none.
        waiting: why it is not ready, "" if it is.
        routes: its pages on port 15014.
        http: what it serves over HTTP/1.1 on port 9091; of one component at most.
        collectors, texts: what it shows at /metrics there; the latter is in Prometheus' text format already.
    """

    services: Callable[[Authenticate], Sequence[grpc.GenericRpcHandler]]
    run: Callable[[], Coroutine[None, None, None]] | None = None
    waiting: Callable[[], str] = str
    routes: Sequence[BaseRoute] = ()
    http: Http | None = None
    collectors: Sequence[Metrics] = ()
    texts: Sequence[Callable[[], str]] = ()


def chosen(components: Collection[str], source: Source | None, store: Store | None = None) -> list[Part]:
    """The parts of `components`. policy follows `source`, and is left out where there is none."""
    found: list[Part] = []
    if "policy" in components and source is not None:
        found.append(policy(source, store))
    if "telemetry" in components:
        found.append(telemetry())
    return found


async def serve(mesh: MeshPort, parts: Sequence[Part]) -> None:
    """Run `parts` and their port until cancelled. The port closes first: what it answers last needs the others."""
    http = next((part.http for part in parts if part.http is not None), None)
    async with asyncio.TaskGroup() as tasks:
        for part in parts:
            if part.run is not None:
                tasks.create_task(part.run())
        await mesh.run([part.services for part in parts], http)


def store(options: Options) -> Store | None:
    """What replicas of the policy service share, if there is to be something.

    Raises:
        ConfigError: the URL or the password's file is of no use, or redis is not installed.
    """
    if "policy" not in options.components:
        return None
    url, password, ca_file = options.store, options.store_password_file, options.store_ca
    if options.store_from is not None:
        url, password, ca_file = _from_secret(options.store_from)
    if not url:
        return None
    try:
        from pymesh_controlplane.policy.redis_store import RedisStore
    except ImportError as error:
        raise ConfigError("--store needs redis-py: install pymesh-proxy[redis]") from error
    try:
        return RedisStore(
            url,
            mesh=options.trust_domain,
            password=password.read_text().strip() if password else "",
            ca_file=ca_file,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"--store: {error}") from error


def _from_secret(folder: Path) -> tuple[str, Path | None, Path | None]:
    """URL, and the files of the password and the roots, of a mounted Secret; nothing if there is none."""
    url, *files = (folder / name for name in STORE_FILES)
    password, ca_file = (file if file.exists() else None for file in files)
    if url.exists():
        return url.read_text().strip(), password, ca_file
    if password or ca_file:
        raise ConfigError(f"--store-from {folder}: there is no file {url.name} beside the others")
    return "", None, None


def policy(source: Source, store: Store | None = None) -> Part:
    """The policy service: answers checks and leases slots, by the rules of the worlds of `source`."""
    service = PolicyService(source, time.monotonic, store)
    return Part(
        services=service.handlers,
        http=service.http,
        run=service.run,
        waiting=service.waiting,
        routes=service.routes(),
        collectors=(service.collector(),),
    )


def telemetry() -> Part:
    """The collector: takes the access log entries of proxies, and answers who talks to whom."""
    collector = Collector(time.monotonic(), time.time())
    service = AccessLogService(collector, time.monotonic)
    return Part(
        services=lambda origin: (service.handler(origin),),
        routes=pages.routes(collector, time.monotonic),
        collectors=(collector,),
        texts=(collector.istio_text,),
    )
