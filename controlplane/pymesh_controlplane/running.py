"""A control plane that is being put together and runs: its ports, its tasks, what /ready and /metrics show.

`app` and `cluster` say what it consists of, on one machine and in a cluster; here is how each piece is opened.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import grpc
import grpc.aio
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette

from pymesh.errors import ConfigError
from pymesh.identity import Identity
from pymesh_controlplane import debug
from pymesh_controlplane.callers import proved
from pymesh_controlplane.citadel import pages, serving
from pymesh_controlplane.citadel.attestation import Authenticator, Tokens
from pymesh_controlplane.citadel.bundles import Bundles
from pymesh_controlplane.citadel.client import Certificate, of_authority, of_citadel
from pymesh_controlplane.citadel.custodian import Custodian
from pymesh_controlplane.citadel.following import Roots
from pymesh_controlplane.citadel.frontend import TlsFrontend, server_context
from pymesh_controlplane.citadel.gate import Gate
from pymesh_controlplane.citadel.service import CertificateService
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.mesh_port import MeshPort
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.options import Options
from pymesh_controlplane.parts import Part, serve
from pymesh_controlplane.pilot.jwks import KeyedSource
from pymesh_controlplane.pilot.jwks_fetch import fetch
from pymesh_controlplane.pilot.server import DiscoveryServer, Origin, ServerContext
from pymesh_controlplane.pilot.translate import Translator
from pymesh_controlplane.ports import Ports, bind, listen, port_of
from pymesh_controlplane.sources.base import Source
from pymesh_controlplane.sources.shared import SharedSource

# Seconds that calls under way have to end when the process does: a CSR takes milliseconds, an ADS stream never ends.
GRACE: Final = 0.3
# Streams at once, over all connections of a port: each sidecar has one for its configuration and one for the roots,
# and sometimes a call for its certificate.
MAX_STREAMS: Final = 12_288

GRPC_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # two control planes on one port would share its connections in silence
    ("grpc.server_handshake_timeout_ms", 10_000),  # to the HTTP/2 SETTINGS: who is slower is cut off
    ("grpc.max_allowed_incoming_connections", 4096),
    ("grpc.max_concurrent_streams", 100),  # of one connection; a proxy has one or two
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),  # a request with MAX_NAMES names of 80 characters
    ("grpc.max_metadata_size", 24 * 1024),  # a token has at most 16 KiB
    ("grpc.absolute_max_metadata_size", 24 * 1024),
    ("grpc.keepalive_time_ms", 30_000),  # a pod that vanished is noticed within 40 s
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # clients may ping as often as that
    ("grpc.keepalive_permit_without_calls", 1),
)


class Running:
    """What runs.

    Attributes:
        ports: that are open.
        metrics: what is counted.
        waiting: what has to be ready: each says what it waits for, "" when it is.
        collectors: what is shown at /metrics.
        resources: what is closed at the end, when all tasks have ended.
    """

    def __init__(self, options: Options, tasks: asyncio.TaskGroup, resources: AsyncExitStack) -> None:
        self.resources = resources
        self.ports = Ports()
        self.metrics = Metrics()
        self.waiting: list[Callable[[], str]] = [lambda: "" if self._complete else "starting"]
        self.collectors: list[Collector] = []
        self._options = options
        self._tasks = tasks
        self._services: list[asyncio.Task[None]] = []
        self._complete = False
        self._application: Starlette | None = None

    def start(self, *services: Coroutine[None, None, None]) -> None:
        """Run `services`, which do not end by themselves."""
        self._services += [self._tasks.create_task(service) for service in services]

    def complete(self) -> None:
        """Everything has been started."""
        self._complete = True

    def end(self) -> None:
        """End everything."""
        for service in self._services:
            service.cancel()

    def follow(self, source: Source) -> SharedSource:
        """`source`, for all components that follow it."""
        shared = SharedSource(source)
        self.start(shared.run())
        return shared

    def pilot(self, source: Source) -> DiscoveryServer:
        """pilot, for the worlds of `source`; it has no port yet."""
        pilot = DiscoveryServer(Translator().snapshot, self.metrics, time.monotonic)
        keyed = KeyedSource(source, fetch, self.metrics, random.SystemRandom().random)
        self.start(keyed.run(), pilot.run(keyed))
        return pilot

    def pages(self, pilot: DiscoveryServer | None, parts: Sequence[Part]) -> None:
        """Open port 15014.

        Raises:
            ConfigError: it cannot be had.
        """
        listener = self.resources.enter_context(listen(self._options.listen, self._options.http_port, "--http-port"))
        self.waiting += [part.waiting for part in parts]
        self.collectors += [collector for part in parts for collector in part.collectors]
        application = debug.application(
            pilot,
            self.metrics,
            _time_of,
            waiting=self.waiting,
            more=[route for part in parts for route in part.routes],
            collectors=[_All(self.collectors)],
            texts=[text for part in parts for text in part.texts],
        )
        self._application = application
        self.start(debug.HttpServer(application, listener).run_until_cancelled())
        self.ports = replace(self.ports, http=port_of(listener))

    async def plain_port(self, pilot: DiscoveryServer, address: str) -> None:
        """Open port 15010 on `address`, for anybody.

        Raises:
            ConfigError: it cannot be had.
        """
        port = self._options.xds_port
        listen(address, port, "--xds-port").close()  # says what is wrong where gRPC would not
        plain = grpc.aio.server(options=GRPC_OPTIONS, maximum_concurrent_rpcs=MAX_STREAMS)
        try:
            bound = plain.add_insecure_port(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {address} port {port}: {error}") from error
        plain.add_generic_rpc_handlers((pilot.handler(_anybody),))
        await plain.start()
        self.resources.push_async_callback(plain.stop, GRACE)
        self.ports = replace(self.ports, xds=bound)

    async def tls_port(self, custodian: Custodian, tokens: Tokens, pilot: DiscoveryServer | None) -> None:
        """Open port 15012: citadel, and pilot, for callers who prove who they are.

        Raises:
            ConfigError: it cannot be had.
            CsrError: the authority has expired.
        """
        trust = custodian.trust
        context = server_context(trust.authority.root_pem)
        due = serving.renew(trust.authority, context, now=time_of_day())
        listener = self.resources.enter_context(listen(self._options.listen, self._options.tls_port, "--tls-port"))
        inner = grpc.aio.server(options=GRPC_OPTIONS, maximum_concurrent_rpcs=MAX_STREAMS)
        frontend = TlsFrontend(listener, context, inner.add_insecure_port("127.0.0.1:0"), self.metrics)
        gate = Gate(frontend.peer_of, Authenticator(tokens, trust.authority.trust_domain))
        service = CertificateService(trust, gate.caller, self.metrics, time_of_day)
        bundles = Bundles(trust, gate.caller, self.metrics)
        inner.add_generic_rpc_handlers((service.handler(), bundles.handler()))
        custodian.holders = bundles.holders
        custodian.expected = partial(_with_certificates, pilot)
        if self._application is not None:
            self._application.router.routes.extend(pages.routes(custodian))
        if pilot is not None:
            origin = proved(gate, lambda: self.metrics.count("citadel_server_authentication_failure_count"))
            inner.add_generic_rpc_handlers((pilot.handler(origin),))
        await inner.start()
        self.resources.push_async_callback(inner.stop, GRACE)
        fresh = serving.keep_fresh(trust, context, due, clock=time_of_day, use=frontend.use)
        self.start(frontend.serve(), fresh, custodian.run())
        self.ports = replace(self.ports, tls=port_of(listener))

    def mesh_port(self, parts: Sequence[Part], trust: Trust | None) -> None:
        """Open port 9091 for `parts` as soon as there is a certificate: of citadel here, or of the one elsewhere.

        Raises:
            ConfigError: it cannot be had.
        """
        options = self._options
        if trust is not None:
            identity = Identity(options.trust_domain, *options.account.split("/"))
            obtain, source = of_authority(trust, identity, time_of_day), "this process"
            certificate = Certificate(obtain, self.metrics, source=source, clock=time_of_day)
            trust.subscribe(certificate.renew)
        else:
            roots = Roots(options.citadel, options.token, options.root_cert)
            obtain = of_citadel(options.citadel, options.token, roots.current)
            certificate = Certificate(obtain, self.metrics, source=options.citadel, clock=time_of_day)
            self.start(roots.follow(certificate))
        listener = self.resources.enter_context(bind(options.listen, options.mesh_port, "--mesh-port"))
        mesh = MeshPort(listener, certificate, options.trust_domain, self.metrics)
        self.waiting.append(mesh.waiting)
        self.start(serve(mesh, parts))
        self.ports = replace(self.ports, mesh=port_of(listener))


class _All(Collector):
    """What several collectors have, also those that come later."""

    def __init__(self, collectors: Sequence[Collector]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            yield from collector.collect()


def _with_certificates(pilot: DiscoveryServer | None) -> list[str]:
    """The pods that have a certificate of the mesh, as far as this process knows."""
    if pilot is None or pilot.world is None:
        return []
    return sorted({f"{item.name}.{item.namespace}" for item in pilot.world.workloads.values() if item.mesh})


async def _anybody(context: ServerContext) -> Origin:
    return Origin(context.peer())


def time_of_day() -> datetime:
    """Now."""
    return datetime.now(UTC)


def _time_of(seconds: float) -> datetime:
    """The time of day at `seconds` of the monotonic clock."""
    return datetime.fromtimestamp(time.time() - time.monotonic() + seconds, UTC)
