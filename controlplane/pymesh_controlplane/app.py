"""The control plane's composition: which components run, on which ports, and how they start and end."""

import asyncio
import contextlib
import errno
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ssl import SSLContext
from typing import Final

import grpc
import grpc.aio

from pymesh.errors import ConfigError, MeshError
from pymesh.identity import Identity
from pymesh_controlplane import debug, files, parts
from pymesh_controlplane.callers import proved
from pymesh_controlplane.citadel import serving, store
from pymesh_controlplane.citadel.attestation import Authenticator, TokenVerifier
from pymesh_controlplane.citadel.authority import Authority
from pymesh_controlplane.citadel.client import Certificate, of_authority, of_citadel
from pymesh_controlplane.citadel.frontend import TlsFrontend, server_context
from pymesh_controlplane.citadel.gate import Gate
from pymesh_controlplane.citadel.service import CertificateService
from pymesh_controlplane.mesh_port import MeshPort
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.options import Options
from pymesh_controlplane.pilot.server import DiscoveryServer, Origin, ServerContext
from pymesh_controlplane.pilot.translate import Translator
from pymesh_controlplane.sources.base import Source
from pymesh_controlplane.sources.shared import SharedSource

log = logging.getLogger("pymesh.controlplane")

# Seconds that calls under way have to end when the process does: a CSR takes milliseconds, an ADS stream never ends.
GRACE: Final = 0.3
# Of the listening sockets; a mesh that starts connects all at once.
BACKLOG: Final = 1024
# Seconds that a thread keeps the interpreter while the event loop wants it. Files are parsed and proxies translated for
# in threads; with Python's 5 ms an answer that takes a few turns of the loop waits a third of a second for them.
SWITCH_INTERVAL: Final = 0.001
# Objects made and not freed before the collector looks at the young ones; at all of them it looks after a hundred times
# as many. With Python's 700 it would look at a thousand services anew, 80 ms long, for nearly every change of one.
GC_THRESHOLD: Final = 10_000
# Streams at once, over all connections of a port.
MAX_STREAMS: Final = 8192

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


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that are served; None: not by this process."""

    http: int
    xds: int | None = None
    tls: int | None = None
    mesh: int | None = None  # bound; it listens once there is a certificate


@dataclass(frozen=True, slots=True)
class Citadel:
    """What citadel works with, once its files have been read."""

    authority: Authority
    tokens: TokenVerifier
    context: SSLContext
    due: datetime


async def run(options: Options, source: Source | None, *, serving_now: Callable[[Ports], None]) -> None:
    """Run the components until SIGTERM or SIGINT.

    Args:
        options: what was asked for.
        source: where the world of pilot and policy comes from; None if neither runs.
        serving_now: called once, when every port is open.

    Raises:
        ConfigError: a port, a folder or a file cannot be used.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(GC_THRESHOLD)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    shared = None if source is None else SharedSource(source)
    pilot = DiscoveryServer(Translator().snapshot, metrics, time.monotonic) if "pilot" in options.components else None
    mesh_parts = _mesh_parts(options, shared)
    try:
        async with contextlib.AsyncExitStack() as resources, asyncio.TaskGroup() as tasks:
            services: list[asyncio.Task[None]] = []
            ports, authority, waiting = Ports(http=0), None, [part.waiting for part in mesh_parts]
            if "citadel" in options.components:
                citadel = open_citadel(options, metrics, now=_now())
                authority = citadel.authority
                listener = resources.enter_context(listen(options.listen, options.tls_port, "--tls-port"))
                inner, frontend = await _secure_server(citadel, pilot, listener, metrics)
                resources.push_async_callback(inner.stop, GRACE)
                services += [
                    tasks.create_task(frontend.serve()),
                    tasks.create_task(serving.keep_fresh(authority, citadel.context, citadel.due, clock=_now)),
                ]
                ports = replace(ports, tls=port_of(listener))
            if pilot is not None and shared is not None:
                plain, xds_port = await _plain_server(options, pilot)
                resources.push_async_callback(plain.stop, GRACE)
                services.append(tasks.create_task(pilot.run(shared)))
                ports = replace(ports, xds=xds_port)
            if mesh_parts:
                listener = resources.enter_context(bind(options.listen, options.mesh_port, "--mesh-port"))
                mesh = MeshPort(listener, _certificate(options, authority, metrics), options.trust_domain, metrics)
                waiting.append(mesh.waiting)
                services.append(tasks.create_task(mesh.run([part.services for part in mesh_parts])))
                services += [tasks.create_task(part.run()) for part in mesh_parts if part.run is not None]
                ports = replace(ports, mesh=port_of(listener))
            if shared is not None:
                services.append(tasks.create_task(shared.run()))
            listener = resources.enter_context(listen(options.listen, options.http_port, "--http-port"))
            pages = debug.application(
                pilot,
                metrics,
                _time_of,
                waiting=waiting,
                more=[route for part in mesh_parts for route in part.routes],
                collectors=[collector for part in mesh_parts for collector in part.collectors],
                texts=[text for part in mesh_parts for text in part.texts],
            )
            services.append(tasks.create_task(debug.HttpServer(pages, listener).run_until_cancelled()))
            serving_now(replace(ports, http=port_of(listener)))
            await stop.wait()
            log.info("ending")
            for service in services:
                service.cancel()
    except BaseExceptionGroup as group:
        told = group.subgroup(MeshError)
        if told is None:
            raise
        raise _first_of(told) from None


def open_citadel(options: Options, metrics: Metrics, *, now: datetime) -> Citadel:
    """Read, or make, what citadel needs, and publish the root.

    Raises:
        ConfigError: a file or folder cannot be used.
    """
    if options.ca_dir is None or options.jwks is None:
        raise ConfigError("citadel needs --ca-dir and --jwks")
    authority = store.load_or_create(options.ca_dir, options.trust_domain, now=now)
    tokens = TokenVerifier(options.jwks, options.trust_domain, metrics)
    if options.root_cert_out is not None:
        files.publish(options.root_cert_out, authority.root_pem.encode(), 0o644)
    metrics.set(
        "citadel_server_root_cert_expiry_timestamp",
        min(root.not_valid_after_utc.timestamp() for root in authority.roots),
    )
    context = server_context(authority.root_pem)
    return Citadel(authority, tokens, context, serving.renew(authority, context, now=now))


def listen(address: str, port: int, flag: str) -> socket.socket:
    """A listening TCP socket.

    Raises:
        ConfigError: the address is none of this machine's, or the port is taken or not allowed.
    """
    listener = bind(address, port, flag)
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _not_ours(address, port, flag, error) from error
    return listener


def bind(address: str, port: int, flag: str) -> socket.socket:
    """A TCP socket with its address, which does not listen yet.

    Raises:
        ConfigError: as in `listen`.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise _not_ours(address, port, flag, error) from error
    return listener


def _not_ours(address: str, port: int, flag: str, error: OSError) -> ConfigError:
    sentence = f"cannot listen on {address} port {port}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        sentence += f"; is another control plane running? {flag} takes another port"
    return ConfigError(sentence)


def port_of(listener: socket.socket) -> int:
    """The port it is bound to."""
    return int(listener.getsockname()[1])


async def _secure_server(
    citadel: Citadel, pilot: DiscoveryServer | None, listener: socket.socket, metrics: Metrics
) -> tuple[grpc.aio.Server, TlsFrontend]:
    """The gRPC server behind the TLS port, started, and the frontend that leads to it."""
    inner = grpc.aio.server(options=GRPC_OPTIONS, maximum_concurrent_rpcs=MAX_STREAMS)
    frontend = TlsFrontend(listener, citadel.context, inner.add_insecure_port("127.0.0.1:0"), metrics)
    gate = Gate(frontend.peer_of, Authenticator(citadel.tokens, citadel.authority.trust_domain))
    service = CertificateService(citadel.authority, gate.caller, metrics, _now)
    inner.add_generic_rpc_handlers((service.handler(),))
    if pilot is not None:
        origin = proved(gate, lambda: metrics.count("citadel_server_authentication_failure_count"))
        inner.add_generic_rpc_handlers((pilot.handler(origin),))
    await inner.start()
    return inner, frontend


async def _plain_server(options: Options, pilot: DiscoveryServer) -> tuple[grpc.aio.Server, int]:
    """The gRPC server in plaintext, started, and its port."""
    listen(options.listen, options.xds_port, "--xds-port").close()  # says what is wrong where gRPC would not
    host = f"[{options.listen}]" if ":" in options.listen else options.listen
    plain = grpc.aio.server(options=GRPC_OPTIONS, maximum_concurrent_rpcs=MAX_STREAMS)
    try:
        port = plain.add_insecure_port(f"{host}:{options.xds_port}")
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {options.listen} port {options.xds_port}: {error}") from error
    plain.add_generic_rpc_handlers((pilot.handler(_anybody),))
    await plain.start()
    return plain, port


async def _anybody(context: ServerContext) -> Origin:
    return Origin(context.peer())


def _mesh_parts(options: Options, source: Source | None) -> list[parts.Part]:
    """The components that serve sidecars."""
    found: list[parts.Part] = []
    if "policy" in options.components and source is not None:
        found.append(parts.policy(source))
    if "telemetry" in options.components:
        found.append(parts.telemetry())
    return found


def _certificate(options: Options, authority: Authority | None, metrics: Metrics) -> Certificate:
    """Where the mesh port's certificate comes from: the citadel of this process, or the one that it is told of."""
    if authority is not None:
        identity = Identity(options.trust_domain, *options.account.split("/"))
        return Certificate(of_authority(authority, identity, _now), metrics, source="this process", clock=_now)
    obtain = of_citadel(options.citadel, options.token, options.root_cert)
    return Certificate(obtain, metrics, source=options.citadel, clock=_now)


def _first_of(group: BaseExceptionGroup[MeshError]) -> MeshError:
    """One error of a group, to be told as the reason."""
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _now() -> datetime:
    return datetime.now(UTC)


def _time_of(seconds: float) -> datetime:
    """The time of day at `seconds` of the monotonic clock."""
    return datetime.fromtimestamp(time.time() - time.monotonic() + seconds, UTC)
