"""Upstream connections of this proxy: which endpoint, within which limits, over a pooled connection or a new one.

An exchange asks with `acquire` and either has a connection at once or is called back. Idle connections hang on their
endpoint, so they survive a new snapshot; the most recently used goes out first, so that the rest grow old and close.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any, Final

from pymesh.steps import Steps
from pymesh_proxy.config.model import Cluster, Discovery, TlsClient
from pymesh_proxy.control.pace import Pace
from pymesh_proxy.errors import Flag, ProxyError, failure
from pymesh_proxy.telemetry.metrics import ClusterStats, Stats
from pymesh_proxy.telemetry.upstream_metrics import ClusterHealth
from pymesh_proxy.timers import TimerWheel
from pymesh_proxy.transport.tls import TlsContexts, TlsError, failure_reason, verify_san
from pymesh_proxy.transport.tls_connections import connect_tls
from pymesh_proxy.upstream.balancers import Balancers
from pymesh_proxy.upstream.cluster import ClusterState, Waiter, transport_of
from pymesh_proxy.upstream.connection import UpstreamConnection
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.guards import Guards

# Bytes queued towards one peer before the other side is paused; Envoy's per_connection_buffer_limit is 1 MiB, and two
# of these per request are held, so it is kept nearer to what a socket buffer takes.
WRITE_HIGH_WATER: Final = 256 * 1024
# An opaque connection that is over is closed once the peer has taken everything, or after this many seconds.
CLOSE_GRACE: Final = 60.0


class Upstreams:
    """All upstream connections of one proxy."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tls: TlsContexts,
        stats: Stats,
        random: Callable[[], float],
        timers: TimerWheel,
    ) -> None:
        self._loop = loop
        self._tls = tls
        self._stats = stats
        self._timers = timers
        self._in_force: Mapping[str, Cluster] = {}
        self._states: dict[str, ClusterState] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        pace = Pace()
        self._balancers = Balancers(random, lambda steps: self._spawn(pace.take(steps)))
        self.guards = Guards(timers, self._dial, self._spawn, random)

    # --- Choosing ---

    def follow(self, clusters: Mapping[str, Cluster]) -> None:
        """These clusters are in force: watch the health of their endpoints as they say.

        Those that are gone are forgotten, and their counters with them, as in Envoy, once nothing is in flight there
        and the last connection is closed.
        """
        self._in_force = clusters
        self.guards.follow(clusters, self._used)
        for name, state in list(self._states.items()):
            state.outlier = self.guards.detector(name)
            if name not in clusters:
                state.retire_originals()
                self._forget_unused(name)

    def _forget_unused(self, name: str) -> None:
        """Forget the cluster called `name` if it is gone, and nobody uses it any more."""
        state = self._states.get(name)
        if state is not None and name not in self._in_force and not state.in_use:
            del self._states[name], self._stats.clusters[name]

    def _used(self, cluster: str) -> bool:
        """Whether the cluster has had a connection yet."""
        return cluster in self._stats.clusters and self._stats.clusters[cluster].cx_total > 0

    def state(self, cluster: Cluster) -> ClusterState:
        """The state of `cluster`, its balancer made for what is in force by that name.

        So is the answer to who began under another configuration: where it goes now is where everybody goes. Only of
        what is not in force any more, or not yet, `cluster` itself has a say, and only the first time.
        """
        state = self._states.get(cluster.name)
        if state is None:
            stats = self._stats.clusters.setdefault(cluster.name, ClusterStats())
            state = self._states[cluster.name] = ClusterState(stats)
            state.outlier = self.guards.detector(cluster.name)
        if state.cluster is not cluster:
            wanted = self._in_force.get(cluster.name) or state.cluster or cluster
            if state.cluster is not wanted:
                self._make(state, wanted)
        return state

    def _make(self, state: ClusterState, cluster: Cluster) -> None:
        """Let `state` choose as `cluster` says."""
        state.cluster = cluster
        if cluster.discovery is Discovery.ORIGINAL_DST:
            state.balancer = None
        else:
            state.balancer = self._balancers.make(cluster, state.balancer)
            state.retire_originals()
        state.transports = {}

    def preparing(self, clusters: Mapping[str, Cluster]) -> Steps[None]:
        """Make what takes long for clusters that are to be in force, before they are: see Balancers."""
        return self._balancers.preparing(clusters, self._states.get)

    def _counts(self, cluster: Cluster) -> ClusterState:
        """The state of `cluster` for who only counts: it stays as it was made for the configuration in force."""
        return self._states.get(cluster.name) or self.state(cluster)

    def endpoints(self, cluster: Cluster) -> tuple[Endpoint, ...]:
        """The endpoints of `cluster` that are known: configured, or original destinations seen so far."""
        return (*cluster.endpoints, *self._counts(cluster).originals.values())

    def health(self, clusters: Mapping[str, Cluster]) -> Iterator[ClusterHealth]:
        """What there is to say of the endpoints of these clusters, for metrics."""
        for name, cluster in clusters.items():
            detector, checker = self.guards.detector(name), self.guards.checkers.get(name)
            yield ClusterHealth(
                name,
                cluster.endpoints,
                None if detector is None else detector.stats,
                0 if detector is None else detector.ejected,
                None if checker is None else checker.stats,
            )

    # --- Connections for requests ---

    def acquire(
        self, cluster: Cluster, state: ClusterState, endpoint: Endpoint, waiter: Waiter
    ) -> UpstreamConnection | None:
        """A connection to `endpoint`, now; or None, and `waiter` is called when there is one.

        Raises:
            ProxyError: a limit of the cluster is reached (flag UO), or it is not for requests (flag NC).
        """
        idle: list[UpstreamConnection] = endpoint.idle  # type: ignore[assignment]  # nobody else puts any there
        while idle:
            connection = idle.pop()
            # As `reusable`, which would be a call for each request.
            if connection.persistent and not connection.blocked and not connection.transport.is_closing():
                if connection.fits is cluster:
                    return connection
                if connection.tls is state.transport(cluster, endpoint):  # also by a new configuration of the cluster
                    connection.fits = cluster
                    return connection
            connection.close()
        if cluster.http2:
            why = f"cluster {cluster.name} speaks HTTP/2, which only gRPC clients of this proxy itself do"
            raise failure(Flag.NO_CLUSTER, "http2_upstream_not_supported", why)
        if not self.reserve(cluster):
            if len(state.waiting) >= cluster.limits.max_pending_requests:
                state.stats.rq_pending_overflow += 1
                raise failure(Flag.UPSTREAM_OVERFLOW, "upstream_reset_before_response_started{overflow}")
            state.waiting.append((cluster, endpoint, waiter))
            return None
        self._spawn(self._connect_for(cluster, endpoint, waiter))
        return None

    def release(self, cluster: Cluster, state: ClusterState, connection: UpstreamConnection, now: float) -> None:
        """Take back a connection whose response is complete; it is kept if it can serve again."""
        connection.detach()
        endpoint, limit = connection.endpoint, cluster.max_requests_per_connection
        if connection.requests == 1 and connection.tls is not None and not connection.transport.is_closing():
            # TLS 1.3 sends its tickets after the handshake: by now they are here.
            self._tls.keep_session(connection.tls, endpoint.address, _ssl_object(connection.transport))
        if (
            not connection.persistent
            or connection.blocked
            or endpoint.retired
            or (limit is not None and connection.requests >= limit)
        ):
            connection.close()
            return
        if state.waiting:
            wanted, where, _ = state.waiting[0]
            if where is endpoint and connection.reusable and connection.tls is state.transport(wanted, endpoint):
                state.waiting.popleft()[2].upstream_ready(connection)
            else:
                connection.close()  # makes room for the one that waits: see `_lost`
            return
        if cluster.idle_timeout is not None:
            connection.deadline = now + cluster.idle_timeout
            if not connection.timer_slot:
                self._timers.watch(connection)
        endpoint.idle.append(connection)

    def keep_session(self, state: ClusterState, endpoint: Endpoint, transport: asyncio.BaseTransport) -> None:
        """Remember the TLS session of a connection that was not the pool's, if it has one: see TlsContexts."""
        tls = None if state.cluster is None else state.transport(state.cluster, endpoint)
        if tls is not None:
            self._tls.keep_session(tls, endpoint.address, _ssl_object(transport))

    def end(self, connection: UpstreamConnection) -> None:
        """Close a connection in order: what was sent still arrives."""
        connection.detach()
        connection.transport.close()
        connection.deadline = monotonic() + CLOSE_GRACE
        self._timers.watch(connection)

    def forget(self, state: ClusterState, waiter: Waiter) -> None:
        """`waiter` no longer wants a connection."""
        state.waiting = deque(entry for entry in state.waiting if entry[2] is not waiter)

    async def _connect_for(self, cluster: Cluster, endpoint: Endpoint, waiter: Waiter) -> None:
        try:
            connection = await self.connect_http(cluster, endpoint)
        except ProxyError as error:
            waiter.connect_failed(error)
            return
        waiter.upstream_ready(connection)

    async def connect_http(self, cluster: Cluster, endpoint: Endpoint) -> UpstreamConnection:
        """A new connection for requests, whose place is reserved. Raises ProxyError (flag UF) if there can be none."""
        state = self._counts(cluster)

        def lost(connection: UpstreamConnection) -> None:
            self._timers.forget(connection)
            if connection in endpoint.idle:
                endpoint.idle.remove(connection)
            self.free(state)

        connection = UpstreamConnection(endpoint, state.transport(cluster, endpoint), lost)
        connection.fits = cluster
        connection.peer = await self.connect(cluster, endpoint, lambda: connection)
        connection.local = socket_text(connection.transport.get_extra_info("sockname"))
        return connection

    def reserve(self, cluster: Cluster) -> bool:
        """Take a place for one more connection of `cluster`; False if its limit is reached. `free` gives it back."""
        state = self._counts(cluster)
        if state.connections >= cluster.limits.max_connections and not self._make_room(cluster):
            state.stats.cx_overflow += 1
            return False
        state.connections += 1
        state.stats.cx_active += 1
        return True

    def _make_room(self, cluster: Cluster) -> bool:
        """Close a connection that idles at some endpoint of `cluster`: nobody is to wait for a place that is not used.

        Its own place comes free in a moment (`free`); until then there is one connection too many.
        """
        for endpoint in self.endpoints(cluster):
            if endpoint.idle:
                endpoint.idle.pop(0).close()
                return True
        return False

    def free(self, state: ClusterState) -> None:
        """Give a place back, to the first who waits for one."""
        state.connections -= 1
        state.stats.cx_active -= 1
        state.stats.cx_destroyed += 1
        if state.waiting:
            cluster, endpoint, waiter = state.waiting.popleft()
            if self.reserve(cluster):
                self._spawn(self._connect_for(cluster, endpoint, waiter))
            else:
                state.waiting.appendleft((cluster, endpoint, waiter))
        elif state.cluster is not None and state.cluster.name not in self._in_force and not state.connections:
            # Soon, not now: whose connection could not be made hears of it in a moment, and is in flight until then.
            self._loop.call_soon(self._forget_unused, state.cluster.name)

    def release_place(self, cluster: Cluster) -> None:
        """Give back a place of `cluster`, for who keeps no state."""
        self.free(self._counts(cluster))

    async def connect(
        self,
        cluster: Cluster,
        endpoint: Endpoint,
        factory: Callable[[], asyncio.BaseProtocol],
        alpn: tuple[str, ...] | None = None,
    ) -> str:
        """Connect `factory`'s protocol to `endpoint` in a reserved place; the peer's identity, empty on plaintext.

        The place is given back here if there will be no connection; otherwise when the protocol is lost, by its maker.
        `alpn` is offered in the TLS handshake instead of what the cluster says.

        Raises:
            ProxyError: refused, unreachable, too slow, or TLS failed (flag UF).
        """
        state = self._counts(cluster)
        tls = state.transport(cluster, endpoint)
        if tls is not None and alpn is not None:
            tls = replace(tls, alpn=alpn)
        state.stats.cx_total += 1
        made = False
        try:
            async with asyncio.timeout(cluster.connect_timeout):
                transport = await self._open(cluster, endpoint, tls, factory, endpoint.port)
            made = True
            transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
            if tls is None:
                return ""
            return verify_san(_ssl_object(transport), tls.validation)
        except TimeoutError as error:
            state.stats.cx_connect_fail += 1
            raise failure(
                Flag.UPSTREAM_CONNECTION_FAILURE,
                "upstream_reset_before_response_started{connection_timeout}",
                f"no connection to {endpoint.address} within {cluster.connect_timeout:g} s",
            ) from error
        except (OSError, TlsError) as error:
            state.stats.cx_connect_fail += 1
            if made:
                transport.abort()
            raise failure(
                Flag.UPSTREAM_CONNECTION_FAILURE,
                "upstream_reset_before_response_started{remote_connection_failure}",
                failure_reason(error) or f"{endpoint.address}: {error}",
            ) from error
        finally:
            if not made:
                self.free(state)

    async def _open(
        self,
        cluster: Cluster,
        endpoint: Endpoint,
        tls: TlsClient | None,
        factory: Callable[[], asyncio.BaseProtocol],
        port: int,
    ) -> asyncio.Transport:
        address, source = (endpoint.host, port), _source(cluster, endpoint)
        if tls is not None:
            return await connect_tls(self._loop, self._tls.client(tls, endpoint.address), factory, address, source)
        transport, _ = await self._loop.create_connection(factory, *address, local_addr=source)
        return transport

    async def _dial(
        self, cluster: Cluster, endpoint: Endpoint, factory: Callable[[], asyncio.BaseProtocol], port: int
    ) -> asyncio.Transport:
        """See checker.Dial: a connection that counts towards no limit."""
        tls = transport_of(cluster, endpoint)
        transport = await self._open(cluster, endpoint, tls, factory, port or endpoint.port)
        if tls is not None:
            try:
                verify_san(_ssl_object(transport), tls.validation)
            except TlsError:
                transport.abort()
                raise
        return transport

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a task of the upstream side failed", "exception": error})

    def close(self) -> None:
        """Close every idle connection; those in use end with their requests."""
        self.guards.close()
        for task in self._tasks:
            task.cancel()
        for state in self._states.values():
            found = {*state.originals.values(), *(state.cluster.endpoints if state.cluster else ())}
            for endpoint in found:
                for connection in tuple(endpoint.idle):
                    connection.close()


def _source(cluster: Cluster, endpoint: Endpoint) -> tuple[str, int] | None:
    """The local address to connect from. One of the wrong family is left to fail: any other could lead in a circle."""
    if not cluster.bind_address:
        return None
    extra = cluster.extra_bind_address
    return (extra if extra and (":" in extra) == (":" in endpoint.host) else cluster.bind_address), 0


def _ssl_object(transport: asyncio.BaseTransport) -> ssl.SSLObject:
    found = transport.get_extra_info("ssl_object")
    assert isinstance(found, ssl.SSLObject)
    return found


def socket_text(name: object) -> str:
    """`ip:port` of a socket name; empty for what has none (a Unix socket)."""
    if not isinstance(name, tuple):
        return ""
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
