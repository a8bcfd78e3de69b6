"""Which connection a request gets, in memory: reuse, limits, who waits, and what a new configuration changes."""

from dataclasses import replace
from time import monotonic

import pytest

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.config.model import CircuitLimits, Cluster, Discovery, TlsClient
from pymesh_proxy.errors import Flag, ProxyError
from pymesh_proxy.upstream import cluster as module
from pymesh_proxy.upstream.cluster import MAX_ORIGINAL_DESTINATIONS, ClusterState
from pymesh_proxy.upstream.connection import UpstreamConnection
from pymesh_proxy.upstream.endpoint import Endpoint
from tests.support.memory import MemoryProxy, turn


class Asker:
    """A waiter that keeps what it was told."""

    def __init__(self) -> None:
        self.connection: UpstreamConnection | None = None
        self.error: ProxyError | None = None

    def upstream_ready(self, connection: UpstreamConnection) -> None:
        """See pool.Waiter."""
        self.connection = connection

    def connect_failed(self, error: ProxyError) -> None:
        """See pool.Waiter."""
        self.error = error


class Pool:
    """The pool of a MemoryProxy, for one cluster."""

    def __init__(self, **cluster: object) -> None:
        self.proxy = MemoryProxy(endpoints=2)
        self.cluster: Cluster = replace(self.proxy.cluster, **cluster)
        self.upstreams = self.proxy.runtime.upstreams
        self.adopt(self.cluster)
        self.state: ClusterState = self.upstreams.state(self.cluster)
        self.endpoint, self.other = self.proxy.endpoints

    async def get(self, endpoint: Endpoint | None = None, cluster: Cluster | None = None) -> UpstreamConnection | Asker:
        """A connection, or whoever waits for one."""
        asker = Asker()
        found = self.upstreams.acquire(cluster or self.cluster, self.state, endpoint or self.endpoint, asker)
        await turn()
        return found or asker.connection or asker

    async def connection(self, endpoint: Endpoint | None = None) -> UpstreamConnection:
        """A connection."""
        found = await self.get(endpoint)
        assert isinstance(found, UpstreamConnection)
        return found

    def adopt(self, *clusters: Cluster) -> None:
        """These are in force from now on."""
        self.upstreams.follow({cluster.name: cluster for cluster in clusters})

    def release(self, connection: UpstreamConnection) -> None:
        """Give it back."""
        self.upstreams.release(self.cluster, self.state, connection, monotonic())


async def test_the_most_recently_used_goes_out_first() -> None:
    pool = Pool()
    one, two = await pool.connection(), await pool.connection()
    pool.release(one)
    pool.release(two)
    assert await pool.connection() is two
    assert await pool.connection() is one
    assert pool.state.connections == 2


@pytest.mark.parametrize("why", ["not persistent", "left over", "closing", "blocked", "retired", "used up"])
async def test_what_cannot_serve_again_is_closed(why: str) -> None:
    pool = Pool(max_requests_per_connection=1 if why == "used up" else None)
    connection = await pool.connection()
    match why:
        case "not persistent":
            connection.persistent = False
        case "left over":
            connection.begin(_Sink(), b"GET", b"request")
            connection.transport.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nabc")
        case "closing":
            connection.transport.close()
        case "blocked":
            connection.pause_writing()
        case "retired":
            pool.endpoint.retire()
        case _:
            connection.requests = 1
    pool.release(connection)
    await turn()
    assert pool.endpoint.idle == []
    assert (pool.state.connections, pool.state.stats.cx_active, pool.state.stats.cx_destroyed) == (0, 0, 1)


async def test_an_idle_connection_that_the_peer_closes_is_forgotten() -> None:
    pool = Pool()
    connection = await pool.connection()
    pool.release(connection)
    connection.transport.receive_eof()
    assert await pool.connection() is not connection
    await turn()
    assert (pool.state.connections, pool.endpoint.idle) == (1, [])


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    pool = Pool(idle_timeout=10.0)
    connection = await pool.connection()
    pool.release(connection)
    assert connection.timer_slot
    connection.on_deadline(connection.deadline)
    await turn()
    assert (pool.state.connections, pool.endpoint.idle) == (0, [])


async def test_a_connection_in_use_has_no_idle_time() -> None:
    pool = Pool(idle_timeout=10.0)
    connection = await pool.connection()
    pool.release(connection)
    assert await pool.connection() is connection
    connection.begin(_Sink(), b"GET", b"x")
    connection.on_deadline(connection.deadline)
    assert not connection.transport.is_closing()


class _Sink:
    """Takes any response."""

    def response_head(self, head: Head, framing: int | None, body: bytes) -> bool:
        """See connection.ResponseSink."""
        return True

    def response_end(self) -> None:
        """See connection.ResponseSink."""


async def test_those_who_wait_are_served_in_order() -> None:
    pool = Pool(limits=CircuitLimits(max_connections=1, max_pending_requests=2))
    connection = await pool.connection()
    first, second = await pool.get(), await pool.get()
    assert isinstance(first, Asker)
    assert isinstance(second, Asker)
    with pytest.raises(ProxyError) as refused:
        await pool.get()
    assert refused.value.flag is Flag.UPSTREAM_OVERFLOW
    pool.release(connection)
    assert first.connection is connection
    connection.persistent = False
    pool.release(connection)
    await turn()
    assert second.connection is not None
    assert second.connection is not connection
    assert pool.state.connections == 1


async def test_who_waits_for_another_endpoint_gets_the_place() -> None:
    pool = Pool(limits=CircuitLimits(max_connections=1))
    connection = await pool.connection()
    waiting = await pool.get(pool.other)
    assert isinstance(waiting, Asker)
    pool.release(connection)
    await turn()
    assert waiting.connection is not None
    assert waiting.connection.endpoint is pool.other
    assert pool.state.connections == 1


async def test_a_place_that_idles_elsewhere_is_given_up() -> None:
    pool = Pool(limits=CircuitLimits(max_connections=1))
    pool.release(await pool.connection())
    assert (await pool.connection(pool.other)).endpoint is pool.other
    await turn()
    assert (pool.state.connections, pool.endpoint.idle) == (1, [])


async def test_a_failed_connect_frees_its_place_for_the_next() -> None:
    pool = Pool(limits=CircuitLimits(max_connections=1))
    pool.proxy.loop.refuse = 1
    asker, waiting = Asker(), Asker()
    assert pool.upstreams.acquire(pool.cluster, pool.state, pool.endpoint, asker) is None
    assert pool.upstreams.acquire(pool.cluster, pool.state, pool.endpoint, waiting) is None
    await turn(10)
    assert asker.error is not None
    assert asker.error.flag is Flag.UPSTREAM_CONNECTION_FAILURE
    assert "refused" in asker.error.reason
    assert waiting.connection is not None
    assert pool.state.connections == 1


# --- A new configuration ---

OLD, NEW = TlsClient(sni="old"), TlsClient(sni="new")


async def test_a_connection_is_not_used_under_other_transport_settings() -> None:
    pool = Pool()
    encrypted = await pool.connection()
    encrypted.tls, encrypted.fits = OLD, replace(pool.cluster, tls=OLD)
    pool.endpoint.idle.append(encrypted)
    plain = await pool.connection()
    assert plain is not encrypted
    assert plain.tls is None
    assert encrypted.transport.is_closing()


async def test_a_request_of_the_old_configuration_leaves_the_new_one_alone() -> None:
    """It asks with the cluster it began with; what it gets must not be remembered for the others."""
    pool = Pool()
    old, new = replace(pool.cluster, tls=OLD), replace(pool.cluster, tls=NEW, endpoints=(pool.other,))
    pool.adopt(old)
    balancer = pool.upstreams.state(old).balancer
    pool.adopt(new)
    state = pool.upstreams.state(new)
    assert state.balancer is not balancer
    balancer = state.balancer
    assert pool.upstreams.state(old) is state
    assert pool.upstreams.state(old).pick(None) is pool.other, "it goes where everybody goes now"
    assert state.transport(old, pool.endpoint) is OLD
    assert state.transport(new, pool.endpoint) is NEW
    assert state.transport(old, pool.endpoint) is OLD
    pool.upstreams.reserve(old)
    pool.upstreams.endpoints(old)
    assert state.cluster is new
    assert state.balancer is balancer


async def test_who_waits_under_new_settings_gets_no_connection_of_the_old() -> None:
    pool = Pool(limits=CircuitLimits(max_connections=1))
    connection = await pool.connection()
    changed = replace(pool.cluster, tls=NEW)
    pool.adopt(changed)
    pool.upstreams.state(changed)
    waiting = await pool.get(cluster=changed)
    assert isinstance(waiting, Asker)
    pool.upstreams.release(changed, pool.state, connection, monotonic())
    assert waiting.connection is None
    assert connection.transport.is_closing()


# --- Original destinations ---


async def test_original_destinations_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ORIGINAL_DESTINATIONS >= 256
    monkeypatch.setattr(module, "MAX_ORIGINAL_DESTINATIONS", 3)
    pool = Pool()
    cluster = replace(pool.cluster, discovery=Discovery.ORIGINAL_DST, endpoints=())
    pool.adopt(cluster)
    state = pool.upstreams.state(cluster)
    assert state.pick(None) is None
    first = state.pick(("10.0.0.1", 80))
    assert first is not None
    assert state.pick(("10.0.0.1", 80)) is first
    first.active = 1
    for number in range(2, 9):
        state.pick((f"10.0.0.{number}", 80))
    assert [endpoint.host for endpoint in state.originals.values()] == ["10.0.0.1", "10.0.0.7", "10.0.0.8"]


# --- Clusters that go ---


def known(pool: Pool) -> bool:
    """Whether the cluster, or a counter of it, is still remembered."""
    states, counters = pool.upstreams._states, pool.proxy.runtime.stats.clusters
    assert states.keys() == counters.keys()
    return pool.cluster.name in states


async def test_a_cluster_that_is_gone_is_forgotten_with_its_last_connection() -> None:
    pool = Pool()
    one, two = await pool.connection(), await pool.connection()
    pool.release(one)
    pool.adopt()
    assert known(pool), "the configuration is in force before what it lacks is retired"
    pool.endpoint.retire()
    await turn()
    assert known(pool)
    pool.release(two)
    await turn()
    assert two.transport.is_closing()
    assert not known(pool)


async def test_a_cluster_that_comes_back_is_the_same() -> None:
    pool = Pool()
    connection = await pool.connection()
    pool.adopt()
    pool.adopt(pool.cluster)
    pool.release(connection)
    connection.close()
    await turn()
    assert known(pool)
    assert pool.upstreams.state(pool.cluster) is pool.state


@pytest.mark.parametrize("what", ["gone", "of another kind"])
async def test_connections_to_original_destinations_are_closed_with_their_cluster(what: str) -> None:
    pool = Pool()
    cluster = replace(pool.cluster, discovery=Discovery.ORIGINAL_DST, endpoints=())
    pool.adopt(cluster)
    state = pool.upstreams.state(cluster)
    endpoint = state.pick(("10.0.0.1", 80))
    idle, used = await pool.connection(endpoint), await pool.connection(endpoint)
    pool.release(idle)
    pool.adopt(*([] if what == "gone" else [pool.cluster]))
    pool.upstreams.state(pool.cluster)
    await turn()
    assert idle.transport.is_closing()
    assert not used.transport.is_closing()
    assert not state.originals
    pool.release(used)
    await turn()
    assert used.transport.is_closing()
    assert known(pool) == (what != "gone")
