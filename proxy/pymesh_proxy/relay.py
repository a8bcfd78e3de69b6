"""Opaque TCP: two halves, each with back-pressure and half-close, and one record when both are over.

    half_open     the client is there, and is not read yet: its identity, access rules
      └ _join     an endpoint that takes the connection, unless `listen_first` has one already; the halves are joined
    half_lost     one side is gone: the other ends behind it, in order or cut as that was
    _complete     record, counters, log: when both are gone, exactly once

What one side sends is written to the other as it comes (`transport/half.py`). When a side does not take more, the other
is not read; when a side ends its half, the other is told (`shutdown(SHUT_WR)`), and goes on sending for as long as it
likes.
"""

import asyncio
from collections.abc import Awaitable
from time import monotonic, time
from typing import Final

from pymesh_proxy.config.hash_policy import hash_of_source
from pymesh_proxy.config.model import Cluster, Direction, TcpProxy
from pymesh_proxy.errors import Flag, ProxyError, failure
from pymesh_proxy.origin import NO_CHAIN, Identify, Origin
from pymesh_proxy.runtime import Runtime
from pymesh_proxy.telemetry.metrics import TcpStats
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.timers import NEVER
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.transport.half import Half
from pymesh_proxy.transport.reset import reset, unsent
from pymesh_proxy.transport.tls_records import TooManyRecords
from pymesh_proxy.upstream.balancer import choose_weighted
from pymesh_proxy.upstream.cluster import ClusterState
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.pool import WRITE_HIGH_WATER, socket_text

# A side that was cut may have left bytes that the other has not taken yet: it is cut as well once it has them, or after
# this many seconds without taking any.
CUT_GRACE: Final = 5.0
CUT_LOOK: Final = 0.02  # seconds between two looks at whether it has


class Relay:
    """One opaque connection, downstream and upstream."""

    __slots__ = (
        "_counted", "_cut_by", "_cutting", "_done", "_endpoint", "_identify", "_idle", "_open", "_origin", "_runtime",
        "_seen", "_spoke", "_state", "_unsent", "_upstream_lost", "deadline", "downstream", "proxy", "record", "stats",
        "timer_slot", "upstream",
    )  # fmt: skip

    def __init__(self, runtime: Runtime, proxy: TcpProxy, facts: Facts, origin: Origin) -> None:
        """`origin` tells who serves the connection once it is not `proxy` any more."""
        self._runtime = runtime
        self.proxy = proxy
        self._origin = origin
        self._identify: Identify | None = None
        self.record = RequestRecord(facts, time(), monotonic())
        self.record.protocol = "TCP"
        self.stats = runtime.stats.tcp.setdefault(proxy.stat_prefix, TcpStats())
        self.downstream = Half()
        self.upstream = Half()
        self.deadline = NEVER
        self.timer_slot = 0
        self._open = 0  # sides that are connected
        self._state: ClusterState | None = None  # of the cluster in which it has a place
        self._endpoint: Endpoint | None = None  # which counts it as active
        self._spoke: asyncio.Event | None = None  # the upstream has said something, where that is waited for
        self._upstream_lost = False  # before it was joined to the client
        self._idle = proxy.idle_timeout
        self._seen = 0  # bytes of both sides when the idle timeout last began
        self._counted = (0, 0)  # bytes of each side that the statistics have
        self._cutting: asyncio.Transport | None = None  # to be reset once it has sent everything
        self._cut_by = 0.0  # or then
        self._unsent = 0  # what it had left at the last look
        self._done = False

    # --- The client ---

    def on_accept(self, identify: Identify) -> Half:
        """The downstream protocol; `identify` tells the facts once a TLS handshake is through."""
        self._identify = identify
        return self.downstream.owned(self)

    def half_open(self, half: Half) -> None:
        """A side is connected."""
        self._open += 1
        assert half.transport is not None
        half.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        if half is self.downstream:
            self._admit(half.transport)

    def _admit(self, client: asyncio.Transport) -> None:
        """Serve the client, unless its identity or rules keep it out. It is not read before it is joined."""
        assert self._identify is not None
        facts = self._identify(client)
        self.stats.cx_total += 1
        self.stats.cx_active += 1
        self.downstream.pause()
        if facts is None:
            client.abort()
            return
        self.record.facts = facts
        self._runtime.peers.accept(self.record)
        self._runtime.connections.add(self)
        current = self._origin.generation == self._runtime.generation  # unless its handshake took too long
        if (current or self._caught_up(client)) and not self._kept_out():
            self._runtime.spawn(self._join())
            return
        client.abort()
        if self.upstream.transport is not None:  # asked already, since the client was silent
            self.upstream.transport.abort()
            self.upstream.bytes = 0  # what it has said goes nowhere

    def _kept_out(self) -> bool:
        """Whether access rules keep the connection out; the record says by which."""
        for rules in self.proxy.rules:
            if denied := rules.denies(self.record):
                self.record.details = denied
                return True
        return False

    def follow(self) -> None:
        """See runtime.Following: what the listeners in force would not let in is cut, whatever is on its way.

        While the proxy drains it ends when its ends do, or when the drain time is over.
        """
        client, before = self.downstream.transport, self.proxy
        if client is None or client.is_closing() or self._origin.generation == self._runtime.generation:
            return
        if self._caught_up(client) and (self.proxy is before or not self._kept_out()):
            return
        for transport in (client, self.upstream.transport):
            if transport is not None:
                reset(transport)

    def _caught_up(self, client: asyncio.Transport) -> bool:
        """Whether the listeners in force take the connection; it then goes on as they say.

        Where requests are read by now there are rules about them, which what began as opaque must not evade on its way
        to our app. Anywhere else it may go on as it is.
        """
        facts = self.record.facts
        proxy = self._origin.handler(facts, client, requests=False)
        self._origin.generation = self._runtime.generation
        if isinstance(proxy, TcpProxy):
            if proxy is not self.proxy:
                self._serve_by(proxy)
            return True
        if proxy is not None and facts.direction != Direction.INBOUND.value:
            return True
        self.record.flag, self.record.details = Flag.NO_ROUTE, NO_CHAIN
        return False

    def _serve_by(self, proxy: TcpProxy) -> None:
        self.record.facts.decided.clear()  # by rules that are not in force any more
        self.proxy, self._idle = proxy, proxy.idle_timeout
        if self.downstream.peer is not None and self._cutting is None:
            self.set_idle()

    # --- A server that speaks first, perhaps ---

    async def listen_first(self, client_speaks: Awaitable[None]) -> bool:
        """Connect upstream while the client is silent, and wait for whoever speaks first; True if it is the upstream.

        For protocols in which the server begins (SMTP, MySQL, SSH). After False the caller either goes on with this
        relay, or calls `abandon`.
        """
        self._spoke = asyncio.Event()
        client = asyncio.ensure_future(client_speaks)  # noqa: TID251 - awaited or cancelled below
        server = asyncio.ensure_future(self._spoke.wait())  # noqa: TID251 - awaited or cancelled below
        try:
            await self._connect()
            if self.record.flag is Flag.NONE:
                await asyncio.wait((client, server), return_when=asyncio.FIRST_COMPLETED)
            return not client.done()
        finally:
            client.cancel()
            server.cancel()
            await asyncio.gather(client, server, return_exceptions=True)

    def abandon(self) -> None:
        """The client is not to be served by this: the upstream was asked too early, or in vain."""
        if self._done:
            return
        self._done = True
        if self._endpoint is not None:
            self._endpoint.active -= 1
        if self.upstream.transport is not None:
            self.upstream.transport.abort()

    def upstream_spoke(self) -> None:
        """The upstream sent something, or ended, before it was joined to the client."""
        if self._spoke is not None:
            self._spoke.set()

    # --- The upstream ---

    async def _join(self) -> None:
        """Connect upstream, if that has not happened yet, and let the bytes flow."""
        if not self.record.attempts:
            await self._connect()
        downstream, upstream = self.downstream.transport, self.upstream.transport
        if self._done or self.record.flag is not Flag.NONE or upstream is None or self._upstream_lost:
            if upstream is not None:
                upstream.abort()
            if downstream is not None and not self._done:
                reset(downstream)
            return
        self._runtime.istio.opened(self)
        self._runtime.stats.flows.add(self)
        self.downstream.join(self.upstream)
        self.upstream.join(self.downstream)
        self.downstream.resume()
        self.set_idle()

    async def _connect(self) -> None:
        """Connect upstream; what keeps it from that is in the record."""
        record = self.record
        try:
            name = choose_weighted(self.proxy.clusters, self._runtime.random)
            record.cluster = name
            cluster = self._runtime.snapshot.clusters.get(name)
            if cluster is None:
                raise failure(Flag.NO_CLUSTER, "cluster_not_found", f"no cluster {name}")
            record.service = cluster.service
            await self._reach_any(cluster)
        except ProxyError as error:
            self.stats.cx_failed += 1
            record.flag, record.details = error.flag, error.details
            if error.reason:
                record.notes["reason"] = error.reason

    async def _reach_any(self, cluster: Cluster) -> None:
        """Connect, to another endpoint each time, as often as the configuration allows."""
        upstreams, record = self._runtime.upstreams, self.record
        tried: list[Endpoint] = []
        key = hash_of_source(record.facts) if self.proxy.hash_source else None
        while True:
            endpoint = upstreams.state(cluster).pick(record.facts.original_destination, tried, key)
            try:
                await self._reach(cluster, endpoint)
                return
            except ProxyError as error:
                # A peer that was reached, and is not who it should be, is no matter of luck.
                reached = error.flag is not Flag.UPSTREAM_CONNECTION_FAILURE or self.upstream.transport is not None
                if endpoint is None or reached or self._done or record.attempts >= self.proxy.max_connect_attempts:
                    raise
                tried.append(endpoint)

    async def _reach(self, cluster: Cluster, endpoint: Endpoint | None) -> None:
        """Connect to this endpoint, within the cluster's limits."""
        upstreams, record = self._runtime.upstreams, self.record
        if endpoint is None:
            raise failure(Flag.NO_HEALTHY_UPSTREAM, "no_healthy_upstream", f"cluster {cluster.name} has no endpoint")
        record.goes_to(endpoint)
        if not upstreams.reserve(cluster):
            raise failure(Flag.UPSTREAM_OVERFLOW, "upstream_reset_before_response_started{overflow}")
        state = self._state = upstreams.state(cluster)
        try:
            record.upstream_peer = await upstreams.connect(cluster, endpoint, lambda: self.upstream.owned(self))
        except ProxyError:
            if state.outlier is not None:
                state.outlier.failed(endpoint, monotonic())
            raise
        if state.outlier is not None:
            state.outlier.relayed(endpoint, monotonic())
        if self.upstream.transport is not None:
            record.upstream_local = socket_text(self.upstream.transport.get_extra_info("sockname"))
        if not self._done:  # the client may have gone meanwhile
            self._endpoint = endpoint
            endpoint.active += 1
        record.t_connected = monotonic()

    # --- The ends ---

    def half_lost(self, half: Half, exc: Exception | None) -> None:
        """A side is gone: the other ends once it has what is on its way, or at once after an error."""
        self._open -= 1
        other = self.upstream if half is self.downstream else self.downstream
        if half is self.upstream and half.peer is None:
            self._upstream_lost = True  # before it was joined: `_join` tells the client
            self.upstream_spoke()
        elif other.transport is not None:
            if exc is not None:
                if isinstance(exc, TooManyRecords):
                    self._accuse(half)
                self._cut(other)
            else:
                other.half_close()
                if half is self.downstream or other.over:
                    other.transport.close()
        if self._state is not None and half is self.upstream:
            self._keep_session()
            self._runtime.upstreams.free(self._state)
        if self._open == 0 and self.downstream.transport is not None:
            self._complete()

    def _accuse(self, half: Half) -> None:
        """It was cut for what this side did."""
        if self.record.flag is Flag.NONE:
            down = half is self.downstream
            self.record.flag = Flag.DOWNSTREAM_PROTOCOL_ERROR if down else Flag.UPSTREAM_PROTOCOL_ERROR
            self.record.details = "too_many_tls_records_without_data"

    def _keep_session(self) -> None:
        """The next connection to the same endpoint is to resume the TLS session: its tickets have come by now."""
        state, endpoint, transport = self._state, self._endpoint, self.upstream.transport
        if state is not None and endpoint is not None and transport is not None:
            self._runtime.upstreams.keep_session(state, endpoint, transport)

    def _cut(self, half: Half) -> None:
        """Reset a side whose other side was cut, but not before it has what that one sent (a reset overtakes data)."""
        transport = half.transport
        assert transport is not None
        self._unsent = unsent(transport)
        if not self._unsent:
            reset(transport)
            return
        half.pause()
        self._cutting, self._cut_by = transport, monotonic() + CUT_GRACE
        self._look_soon()

    def _look_soon(self) -> None:
        self.deadline = monotonic() + CUT_LOOK
        self._runtime.timers.watch(self)

    def _cut_on(self, transport: asyncio.Transport, now: float) -> None:
        left = unsent(transport)
        if left < self._unsent:
            self._unsent, self._cut_by = left, now + CUT_GRACE
        if left and now < self._cut_by:
            self._look_soon()
        else:
            reset(transport)

    # --- Idle for too long ---

    def set_idle(self) -> None:
        """Start the idle timeout, or start it anew."""
        self.deadline = NEVER if self._idle is None else monotonic() + self._idle
        self._runtime.timers.watch(self)

    def on_deadline(self, now: float) -> None:
        """See timers.Timed: close if nothing moved since the last look."""
        if self._cutting is not None:
            self._cut_on(self._cutting, now)
            return
        moved = self.downstream.bytes + self.upstream.bytes
        if moved != self._seen:
            self._seen = moved
            self.set_idle()
            return
        if not (self.downstream.over or self.upstream.over):
            self.record.flag, self.record.details = Flag.STREAM_IDLE_TIMEOUT, "tcp_session_idle_timeout"
        for half in (self.downstream, self.upstream):
            if half.transport is None:
                continue
            if half.transport.get_write_buffer_size():  # and nobody takes it: closing in order would wait for that
                half.transport.abort()
            else:
                half.transport.close()

    # --- Counting ---

    def moved(self) -> tuple[int, int]:
        """See istio_metrics.Flow."""
        return self.downstream.bytes, self.upstream.bytes

    def catch_up(self) -> None:
        """See metrics.Flow: an opaque connection may last for days, and is counted while it does."""
        received, sent = self.moved()
        more, more_sent = received - self._counted[0], sent - self._counted[1]
        self._counted = self.record.bytes_received, self.record.bytes_sent = received, sent
        self.stats.bytes_received += more
        self.stats.bytes_sent += more_sent
        if self._state is not None:
            self._state.stats.bytes_sent += more
            self._state.stats.bytes_received += more_sent

    # --- When both sides are gone ---

    def _complete(self) -> None:
        """Always, exactly once: the record is finished, counted and shown."""
        if self._done:
            return
        self._done = True
        runtime, record = self._runtime, self.record
        runtime.timers.forget(self)
        runtime.connections.discard(self)
        if self._endpoint is not None:
            self._endpoint.active -= 1
        record.t_end = monotonic()
        self.catch_up()
        runtime.stats.flows.discard(self)
        self.stats.cx_active -= 1
        runtime.istio.closed(self)
        runtime.completed(record, runtime.writers(self.proxy.access_logs))
