"""The composition root: which parts a proxy process has, how they know each other, how it starts and how it ends."""

import asyncio
import gc
import logging
import os
import random
import signal
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

from pymesh.errors import ConfigError, MeshError
from pymesh.names import APP_PROBES_VARIABLE
from pymesh.steps import Steps
from pymesh.xds import types
from pymesh.xds.decode import load_bootstrap
from pymesh.xds.text import parse
from pymesh_proxy.admin import CONNECTION_TIMEOUT, HttpPort
from pymesh_proxy.admin_pages import admin_pages, metrics_pages, readiness_pages
from pymesh_proxy.config.model import InlineRoots, Listener, Snapshot
from pymesh_proxy.config.python_filter import named_filter
from pymesh_proxy.config.secrets import secret_in
from pymesh_proxy.config.snapshot import Configuration
from pymesh_proxy.control.pace import Pace
from pymesh_proxy.control.plane import ControlPlane, control_plane
from pymesh_proxy.control.secrets import Certificate, Roots, SecretStore
from pymesh_proxy.control.services import FilterServices
from pymesh_proxy.listener import Interception, ListenerServer
from pymesh_proxy.options import Options, read_text
from pymesh_proxy.runtime import Runtime
from pymesh_proxy.transport.accept import Acceptor, listen
from pymesh_proxy.transport.addresses import cached
from pymesh_proxy.transport.handed_in import handed_in
from pymesh_proxy.upstream.dns import DnsResolver
from pymesh_proxy.upstream.registry import EndpointRegistry

if TYPE_CHECKING:
    from pymesh_proxy.app_health import AppHealth

log = logging.getLogger("pymesh.proxy")

# While shutting down: how often to look whether everything in flight is done, and the least time that new connections
# are still taken, since whoever sends them hears of our end a moment later than we do.
DRAIN_POLL: Final = 0.1
DRAIN_LEAST: Final = 0.5
# Seconds that collectors have, after that, for the last entries.
FLUSH_SECONDS: Final = 2.0


class Proxy:
    """One proxy process."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self.options = options
        self.secrets = SecretStore()
        self.runtime = Runtime(loop, random.random, self.secrets)
        self.configuration = _configuration(options)
        self.services = FilterServices(self.runtime, self.runtime.stats.filters)
        self.configuration.remains.on_loose = self._clear
        moving, occupied = self.runtime.traffic.moving, self.runtime.loop_meter.occupied
        self.pace = Pace(moving, occupied)
        self.scrapes = Pace(moving, occupied, lasting=False)  # which have not the time to wait for a push
        self.dns = DnsResolver(self._publish_addresses)
        self.control: ControlPlane | None = None
        self.started = monotonic()
        self.unbound = 0  # listeners whose address cannot be listened on
        self._serving = False
        self._clearing = False
        self._acceptors: dict[str, Acceptor] = {}
        self._bound: dict[str, tuple[str, int]] = {}  # where the acceptors of configured listeners are
        self._handed_in = handed_in(os.environ, os.getpid())  # those that wait for the first configuration
        self._ports: list[HttpPort] = []
        self._app_health = _app_health(options)
        self._stop = asyncio.Event()

    # --- Configuration ---

    def apply(
        self, type_url: str, added: Mapping[str, bytes], removed: set[str], version: str
    ) -> Steps[dict[str, ConfigError]]:
        """See control.ads.Consumer. Secrets are in force at once: the next handshake uses them."""
        if type_url == types.SECRET:
            return self._take_secrets(added, removed)
        refused = yield from self.configuration.staging(type_url, added, removed)
        log.info("%s: %d added or changed, %d removed %s", types.short(type_url), len(added), len(removed), version)
        return refused

    def _take_secrets(self, added: Mapping[str, bytes], removed: Iterable[str]) -> dict[str, ConfigError]:
        refused: dict[str, ConfigError] = {}
        for name, encoded in added.items():
            try:
                found = secret_in(encoded)
            except ConfigError as error:
                refused[name] = error
                continue
            secret = Roots(found.pem) if isinstance(found, InlineRoots) else Certificate(found.chain, found.key)
            if self.secrets.put(name, secret):
                log.info("secret %s is in use", name)
        for name in removed:
            self.secrets.drop(name)
        return refused

    def publish(self) -> Steps[None]:
        """See control.ads.Consumer."""
        snapshot = yield from self.configuration.publishing()
        yield from self.runtime.upstreams.preparing(snapshot.clusters)
        self.adopt(self.configuration.snapshot)  # with addresses that have come in the meantime
        yield from self.runtime.following()
        yield from self.configuration.clearing()

    def _clear(self) -> None:
        """Something of an older configuration is free to go, at a time when nobody publishes."""
        if not self._clearing:
            self._clearing = True
            self.runtime.spawn(self._clear_in_slices())

    async def _clear_in_slices(self) -> None:
        try:
            await self.pace.take(self.configuration.clearing())
        finally:
            self._clearing = False

    def adopt(self, snapshot: Snapshot) -> None:
        """Put a snapshot in force: one assignment for the data path, then sockets and names follow."""
        self.services.follow(snapshot)
        self.runtime.adopt(snapshot)
        self.dns.follow(snapshot.clusters)
        if self.options.listen is None:
            self._bind(snapshot.listeners)
            self.runtime.loop.call_soon(self._accept_handed_in)

    def _publish_addresses(self, cluster: str, addresses: Mapping[str, tuple[str, ...]]) -> None:
        """See upstream.dns.Publish."""
        self.adopt(self.configuration.apply_addresses(cluster, addresses))
        self._clear()

    # --- Listeners ---

    def _bind(self, listeners: Mapping[str, Listener]) -> None:
        """Open the sockets of listeners that are new or have moved, close those of listeners that are gone.

        Raises:
            MeshError: at the start, an address cannot be listened on. Later that is told, and tried again with the next
                configuration: what serves goes on.
        """
        wanted = {name: (item.address, item.port) for name, item in listeners.items() if item.bind_to_port}
        for name in [name for name, address in self._bound.items() if wanted.get(name) != address]:
            del self._bound[name]
            self._acceptors.pop(name).close()
        self.unbound = 0
        for name in wanted.keys() - self._bound.keys():
            try:
                sock = listen(*wanted[name])
            except MeshError as error:
                if not self._serving:
                    raise
                self.unbound += 1
                log.error("listener %s is not served: %s", name, error)
                continue
            self._bound[name] = wanted[name]
            self._accept(name, sock, ListenerServer(self.runtime, name))

    def _intercept(self) -> None:
        """Open the sockets that redirected connections arrive on."""
        ports = frozenset(port for port in (self.options.listen, self.options.inbound_listen) if port)
        interception = Interception(cached(), ports)
        for port in sorted(ports):
            server = ListenerServer(self.runtime, f"redirected_{port}", interception)
            self._accept(f"redirected_{port}", listen("", port), server)

    def _accept_handed_in(self) -> None:
        """Once ready, serve the sockets that whoever started us has opened; until then, what connects there waits."""
        while self._handed_in and not self.waiting_for():
            port, sock = self._handed_in.popitem()
            name = f"handed_in_{port}"
            self._accept(name, sock, ListenerServer(self.runtime, name, port=port))

    def _secret_changed(self, _: str) -> None:
        # Soon, not now: who has obtained the secret finds itself ready only after it has told the store.
        self.runtime.loop.call_soon(self._accept_handed_in)

    def _accept(self, name: str, sock: socket.socket, server: ListenerServer) -> None:
        acceptor = self._acceptors[name] = Acceptor(self.runtime.loop, sock, server.serve)
        acceptor.start()

    async def _open_ports(self, bootstrap: Bootstrap | None) -> None:
        host, port = self.options.admin
        if bootstrap is not None and bootstrap.HasField("admin") and not self.options.admin_given:
            configured = bootstrap.admin.address.socket_address
            host, port = configured.address, configured.port_value
        health = self._app_health
        app_pages = {} if health is None else health.pages()
        patience = CONNECTION_TIMEOUT if health is None else health.patience
        wanted = (
            (host, port, admin_pages(self), CONNECTION_TIMEOUT),
            ("", self.options.metrics_port, metrics_pages(self), CONNECTION_TIMEOUT),
            ("", self.options.readiness_port, readiness_pages(self), CONNECTION_TIMEOUT),
            ("", self.options.status_port, {**metrics_pages(self), **app_pages}, patience),
        )
        for address, number, pages, lasting in wanted:
            if number:
                opened = HttpPort(self.runtime.loop, pages, lasting)
                await opened.listen(listen(address, number))
                self._ports.append(opened)

    # --- Life ---

    def waiting_for(self) -> str:
        """What is missing before traffic should come, as a sentence; empty when ready."""
        if self.runtime.draining:
            return "draining: the proxy is shutting down"
        return "" if self.control is None else self.control.waiting_for

    def addresses(self) -> list[tuple[str, str]]:
        """Name and address of every socket that accepts traffic."""
        found = [(name, item.sock.getsockname()) for name, item in self._acceptors.items()]
        return [(name, f"[{at[0]}]:{at[1]}" if ":" in at[0] else f"{at[0]}:{at[1]}") for name, at in found]

    def update_gauges(self) -> None:
        """Bring what is not counted on the data path into the counters, before somebody reads them."""
        gauges = self.runtime.stats.gauges
        gauges["envoy_server_live"] = ("1 when ready", 0.0 if self.waiting_for() else 1.0)
        gauges["envoy_server_uptime"] = ("Seconds since the start", monotonic() - self.started)
        gauges["pymesh_listener_exhausted"] = (
            "Times that no connection could be accepted for want of file descriptors",
            sum(item.exhausted for item in self._acceptors.values()),
        )
        gauges["pymesh_listener_unbound"] = ("Listeners whose address cannot be listened on", self.unbound)
        gauges["pymesh_access_log_dropped"] = (
            "Lines that no access log file could take",
            self.runtime.access_logs.dropped,
        )
        if self.control is not None:
            stats = self.control.xds.stats
            gauges["envoy_control_plane_connected_state"] = ("1 while connected to pilot", float(stats.connected))
            gauges["pymesh_xds_updates"] = ("xDS responses taken over", stats.updates)
            gauges["pymesh_xds_rejected"] = ("xDS responses refused (NACK)", stats.rejected)
            if self.control.certificates is not None:
                not_after = self.control.certificates.stats.not_after
                gauges["pymesh_certificate_expires"] = ("End of our certificate's life, Unix seconds", not_after)

    def stop(self) -> None:
        """Begin to shut down."""
        self._stop.set()

    async def run(self) -> int:
        """Serve until told to stop, then finish what is in flight; the exit status."""
        self._handle_signals()
        bootstrap = self._bootstrap()
        await self._open_ports(bootstrap)
        if bootstrap is not None:
            self.services.node = bootstrap.node.id
            self.adopt(_apply_bootstrap(self.configuration, bootstrap, self.options))
        if self.options.listen is not None:
            self._intercept()
        self.control = control_plane(self.options, bootstrap, self.secrets, self, self.pace)
        if self.control is not None:
            node = self.control.node
            self.services.node = self.control.introduction.id
            self.runtime.peers.introduce(
                node.peer,
                pod=node.pod,
                node_id=self.control.introduction.id,
                principal=str(node.identity),
                sidecar=node.kind == "sidecar",
            )
        self._introduce(bootstrap)
        self.secrets.subscribe(self._secret_changed)
        self._serving = True
        gc.collect()
        gc.freeze()  # what exists now lives as long as the process: no collection needs to look at it again
        self.runtime.loop_meter.start()
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(self.dns.run()), group.create_task(self.pace.tidy())]
            if self.control is not None:
                background.append(group.create_task(self.control.run()))
            log.info("listening on %s", ", ".join(at for _, at in self.addresses()) or "nothing yet")
            await self._stop.wait()
            await self._drain()
            await self.runtime.reporters.finish(FLUSH_SECONDS)
            for task in background:
                task.cancel()
        await self._close()
        return 0

    def _introduce(self, bootstrap: Bootstrap | None) -> None:
        """Let reports say whose they are."""
        if self.control is not None:
            self.runtime.reporters.node = self.control.introduction
        elif bootstrap is not None:
            self.runtime.reporters.node = bootstrap.node

    def _bootstrap(self) -> Bootstrap | None:
        """The bootstrap to run: the one named, the transparent one, or none where the control plane gives it all."""
        if self.options.config is not None:
            return load_bootstrap(read_text(self.options.config), str(self.options.config))
        if self.options.discovery is not None:
            return None
        return load_bootstrap(Path(__file__).with_name("transparent.yaml").read_text(), "transparent.yaml")

    def _handle_signals(self) -> None:
        loop = self.runtime.loop
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGUSR1, self.runtime.access_logs.reopen)

    async def _drain(self) -> None:
        """Answers say `connection: close`; leave when nothing is in flight, or when the drain time is over."""
        self.runtime.drain()
        begun = monotonic()
        while (spent := monotonic() - begun) < self.options.drain_seconds:
            if not self.runtime.connections and spent >= min(DRAIN_LEAST, self.options.drain_seconds):
                break
            await asyncio.sleep(DRAIN_POLL)
        if left := len(self.runtime.connections):
            log.warning("drain time is over: %d connections are cut", left)

    async def _close(self) -> None:
        for acceptor in self._acceptors.values():
            acceptor.close()
        for port in self._ports:
            port.close()
        await self.services.close()
        await self.runtime.close()


def _configuration(options: Options) -> Configuration:
    """Without any resource yet. Raises ConfigError: a filter of the command line cannot be loaded."""
    return Configuration(EndpointRegistry(), random.random, tuple(map(named_filter, options.filters)))


def _app_health(options: Options) -> "AppHealth | None":
    """What answers for the app; loaded where somebody asks for it."""
    if APP_PROBES_VARIABLE not in os.environ:
        return None
    from pymesh_proxy.app_health import app_health

    return app_health(options, os.environ)


def validate(options: Options) -> None:
    """Compile the bootstrap and throw the result away. Raises MeshError."""
    if options.config is None:
        raise MeshError("nothing to validate: no --config")
    bootstrap = load_bootstrap(read_text(options.config), str(options.config))
    _apply_bootstrap(_configuration(options), bootstrap, options)


def _apply_bootstrap(configuration: Configuration, bootstrap: Bootstrap, options: Options) -> Snapshot:
    """Put the static resources in force; errors say where in the file the field stands."""
    try:
        return configuration.apply_bootstrap(bootstrap)
    except ConfigError as error:
        if options.config is None:
            raise
        raise parse(read_text(options.config), str(options.config)).located(error) from error
