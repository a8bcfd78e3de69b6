"""Upstream connections of this proxy: which endpoint, within which limits, over a pooled connection or a new one.

An exchange asks with `acquire` and either has a connection at once or is called back. Idle connections hang on their
endpoint, so they survive a new snapshot; the most recently used goes out first, so that the rest grow old and close.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import replace
from time import monotonic
from typing import Final, Protocol

from pymesh_proxy.config.model import Cluster, Discovery, TlsClient
from pymesh_proxy.errors import Flag, ProxyError, failure
from pymesh_proxy.telemetry.metrics import ClusterStats, Stats
from pymesh_proxy.timers import TimerWheel
from pymesh_proxy.transport.tls import TlsContexts, TlsError, failure_reason, verify_san
from pymesh_proxy.transport.tls_stream import connect_tls
from pymesh_proxy.upstream.balancer import Balancer
from pymesh_proxy.upstream.connection import UpstreamConnection
from pymesh_proxy.upstream.endpoint import Endpoint

# Destinations of ORIGINAL_DST clusters that are remembered with their idle connections; the oldest unused go first.
MAX_ORIGINAL_DESTINATIONS: Final = 1024
# Bytes queued towards one peer before the other side is paused; Envoy's per_connection_buffer_limit is 1 MiB, and two
# of these per request are held, so it is kept nearer to what a socket buffer takes.
WRITE_HIGH_WATER: Final = 256 * 1024
# An opaque connection that is over is closed once the peer has taken everything, or after this many seconds.
CLOSE_GRACE: Final = 60.0


class Waiter(Protocol):
    """Who asked for a connection that was not there at once."""

    def upstream_ready(self, connection: UpstreamConnection) -> None:
        """Here it is. The waiter owns it now."""

    def connect_failed(self, error: ProxyError) -> None:
        """There will be none."""


class ClusterState:
    """What lives on from snapshot to snapshot for one cluster: counts in flight and who waits.

    `balancer` and `transports` belong to `cluster`, the compiled object they were made for; ORIGINAL_DST has no
    balancer, the connection's original destination is its endpoint.
    """

    __slots__ = (
        "balancer", "cluster", "connections", "originals", "requests", "retries", "stats", "transports", "waiting",
    )  # fmt: skip

    def __init__(self, stats: ClusterStats) -> None:
        self.cluster: Cluster | None = None
        self.balancer: Balancer | None = None
        self.transports: dict[Endpoint, TlsClient | None] = {}
        self.originals: dict[tuple[str, int], Endpoint] = {}
        self.connections = 0
        self.requests = 0
        self.retries = 0  # requests that are being tried again
        self.waiting: deque[tuple[Cluster, Endpoint, Waiter]] = deque()
        self.stats = stats

    def pick(
        self,
        original_destination: tuple[str, int] | None,
        tried: Collection[Endpoint] = (),
        hash_key: int | None = None,
    ) -> Endpoint | None:
        """The endpoint for the next attempt; None if there is none. `hash_key` is that of the route's hash policy."""
        if self.balancer is None:
            return None if original_destination is None else _original(self, original_destination)
        return self.balancer.pick(tried, hash_key)

    def transport(self, cluster: Cluster, endpoint: Endpoint) -> TlsClient | None:
        """TLS settings for `endpoint`: the first transport match that its metadata satisfies, else the cluster's.

        A request that began under another configuration asks with that one's cluster, and gets that one's answer.
        """
        if cluster is not self.cluster:
            return _transport(cluster, endpoint)
        transports = self.transports
        if endpoint not in transports:
            transports[endpoint] = _transport(cluster, endpoint)
        return transports[endpoint]


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
        self._random = random
        self._timers = timers
        self._states: dict[str, ClusterState] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- Choosing ---

    def state(self, cluster: Cluster) -> ClusterState:
        """The state of `cluster`, its balancer made for exactly this compiled object."""
        state = self._states.get(cluster.name)
        if state is None:
            stats = self._stats.clusters.setdefault(cluster.name, ClusterStats())
            state = self._states[cluster.name] = ClusterState(stats)
        if state.cluster is not cluster:
            state.cluster = cluster
            original = cluster.discovery is Discovery.ORIGINAL_DST
            state.balancer = None if original else Balancer(cluster.endpoints, cluster.balance, self._random)
            state.transports = {}
        return state

    def _counts(self, cluster: Cluster) -> ClusterState:
        """The state of `cluster` for who only counts: it stays as it was made for the configuration in force."""
        return self._states.get(cluster.name) or self.state(cluster)

    def endpoints(self, cluster: Cluster) -> tuple[Endpoint, ...]:
        """The endpoints of `cluster` that are known: configured, or original destinations seen so far."""
        return (*cluster.endpoints, *self._counts(cluster).originals.values())

    # --- Connections for requests ---

    def acquire(
        self, cluster: Cluster, state: ClusterState, endpoint: Endpoint, waiter: Waiter
    ) -> UpstreamConnection | None:
        """A connection to `endpoint`, now; or None, and `waiter` is called when there is one.

        Raises:
            ProxyError: a limit of the cluster is reached (flag UO), or it is not for requests (flag NC).
        """
        idle = endpoint.idle
        while idle:
            connection = idle.pop()
            assert isinstance(connection, UpstreamConnection)
            if connection.reusable and connection.tls is state.transport(cluster, endpoint):
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

    def release(self, cluster: Cluster, state: ClusterState, connection: UpstreamConnection) -> None:
        """Take back a connection whose response is complete; it is kept if it can serve again."""
        connection.detach()
        limit = cluster.max_requests_per_connection
        endpoint = connection.endpoint
        if connection.requests == 1 and connection.tls is not None and not connection.transport.is_closing():
            # TLS 1.3 sends its tickets after the handshake: by now they are here.
            self._tls.keep_session(connection.tls, endpoint.address, _ssl_object(connection.transport))
        if not connection.reusable or endpoint.retired or (limit is not None and connection.requests >= limit):
            connection.close()
            return
        if state.waiting:
            wanted, where, _ = state.waiting[0]
            if where is endpoint and connection.tls is state.transport(wanted, endpoint):
                state.waiting.popleft()[2].upstream_ready(connection)
            else:
                connection.close()  # makes room for the one that waits: see `_lost`
            return
        if cluster.idle_timeout is not None:
            connection.deadline = monotonic() + cluster.idle_timeout
            if not connection.timer_slot:
                self._timers.watch(connection)
        endpoint.idle.append(connection)

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

    def release_place(self, cluster: Cluster) -> None:
        """Give back a place of `cluster`, for who keeps no state."""
        self.free(self._counts(cluster))

    async def connect(
        self,
        cluster: Cluster,
        endpoint: Endpoint,
        factory: Callable[[], asyncio.Protocol],
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
            address, source = (endpoint.host, endpoint.port), _source(cluster, endpoint)
            transport: asyncio.Transport
            async with asyncio.timeout(cluster.connect_timeout):
                if tls is None:
                    transport, _ = await self._loop.create_connection(factory, *address, local_addr=source)
                else:
                    context = self._tls.client(tls, endpoint.address)
                    transport = await connect_tls(self._loop, context, factory, address, source)
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

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Close every idle connection; those in use end with their requests."""
        for task in self._tasks:
            task.cancel()
        for state in self._states.values():
            found = {*state.originals.values(), *(state.cluster.endpoints if state.cluster else ())}
            for endpoint in found:
                for connection in tuple(endpoint.idle):
                    connection.close()


def _transport(cluster: Cluster, endpoint: Endpoint) -> TlsClient | None:
    for match in cluster.transport_matches:
        if all(endpoint.metadata.get(key) == value for key, value in match.metadata.items()):
            return match.tls
    return cluster.tls


def _original(state: ClusterState, address: tuple[str, int]) -> Endpoint:
    """The endpoint that stands for an original destination; kept, within bounds, so that its connections are."""
    originals = state.originals
    endpoint = originals.get(address)
    if endpoint is None:
        if len(originals) >= MAX_ORIGINAL_DESTINATIONS:
            for key, old in list(originals.items()):
                if not old.active:
                    for connection in tuple(old.idle):
                        connection.close()
                    del originals[key]
                    break
        endpoint = originals[address] = Endpoint(*address)
    return endpoint


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
