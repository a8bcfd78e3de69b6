"""What the configuration bounds of attempts: how many, how long, and to whom they go."""

from random import Random

import pytest

from pymesh_proxy.config.model import CircuitLimits, Cluster, Discovery
from pymesh_proxy.errors import Flag
from pymesh_proxy.routing import Forward, RetryPolicy
from pymesh_proxy.upstream.balancer import Balance, Policy
from pymesh_proxy.upstream.endpoint import Endpoint, Health
from tests.support.inprocess import bootstrap, cluster, http_listener, limits, route, running, tcp_listener
from tests.support.memory import MemoryProxy, turn
from tests.support.messages import GET, OK, UNAVAILABLE
from tests.support.peers import RawUpstream, client


@pytest.mark.parametrize(("budget", "least", "tried"), [(0.0, 0, 1), (0.0, 1, 2), (1.0, 0, 2)])
async def test_a_budget_bounds_the_retries(budget: float, least: int, tried: int) -> None:
    policy = RetryPolicy(frozenset({"5xx"}), attempts=1)
    limits = CircuitLimits(max_retries=0, retry_budget=budget, min_retries=least)
    proxy = MemoryProxy(Forward((("service", 1),), retry=policy), limits=limits)
    peer = proxy.client()
    peer.receive(GET)
    for _ in range(tried):
        (await proxy.upstream()).receive(UNAVAILABLE)
        await turn()
    assert b" 503 " in peer.take()
    proxy.settled()


@pytest.mark.parametrize("opaque", [False, True], ids=["http", "tcp"])
async def test_a_connection_that_is_not_made_in_time_is_given_up(opaque: bool) -> None:
    """The upstream takes it, but never answers the TLS handshake."""
    tls = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"}
    socket = {"transport_socket": {"name": "tls", "typed_config": tls}}
    async with RawUpstream() as upstream:
        config = bootstrap(
            [tcp_listener() if opaque else http_listener([route()])],
            [cluster("service", upstream.address, connect_timeout="0.05s", **socket)],
        )
        async with running(config) as proxy, client(proxy.address) as peer:
            peer.send(GET)
            assert await peer.ended() if opaque else b" 503 " in await peer.head()
            record = await proxy.record()
            assert record.flag is Flag.UPSTREAM_CONNECTION_FAILURE
            assert "connection_timeout" in record.details
            assert "within 0.05 s" in record.notes["reason"]


@pytest.mark.parametrize("policy", [None, RetryPolicy(frozenset({"5xx"}), attempts=2)], ids=["stale", "policy"])
async def test_an_answer_that_has_begun_is_not_asked_for_again(policy: RetryPolicy | None) -> None:
    proxy = MemoryProxy(Forward((("service", 1),), retry=policy))
    peer = proxy.client()
    peer.receive(GET)
    upstream = await proxy.upstream()
    upstream.receive(OK)
    peer.take()
    peer.receive(GET)
    upstream.receive(OK[:-1])  # over a connection of the pool, which would do for another attempt
    upstream.reset()
    await turn()
    assert proxy.connections == 0
    assert peer.closed, "which is how the client learns that something is missing"
    proxy.settled()


async def test_where_one_pooled_connection_is_stale_those_that_idled_for_longer_are_too() -> None:
    proxy = MemoryProxy()
    one, two = proxy.client(), proxy.client()
    pooled = []
    for peer in (one, two):
        peer.receive(GET)
        pooled.append(await proxy.upstream())
    for peer, upstream in zip((one, two), pooled, strict=True):
        upstream.receive(OK)
        peer.take()
    one.receive(GET)
    pooled[1].reset()
    await turn()
    assert pooled[0].aborted, "it was used earlier, and its peer would not take the request either"
    (await proxy.upstream()).receive(OK)
    assert one.take().startswith(b"HTTP/1.1 200 ")
    proxy.settled()


async def test_an_endpoint_has_one_pooled_connection_that_turns_out_stale_forgiven() -> None:
    proxy = MemoryProxy()
    one, two = proxy.client(), proxy.client()
    pooled = []
    for peer in (one, two):
        peer.receive(GET)
        pooled.append(await proxy.upstream())
    pooled[0].receive(OK)
    one.take()
    one.receive(GET)
    pooled[0].reset()
    pooled[1].receive(OK)  # in time to be pooled, and taken for the other attempt
    await turn()
    assert pooled[1].take().count(b"GET ") == 2
    pooled[1].reset()
    await turn()
    assert one.take().startswith(b"HTTP/1.1 503 ")
    proxy.settled()


async def test_another_attempt_goes_to_another_endpoint() -> None:
    async with RawUpstream() as bad, RawUpstream() as good:
        # The dice of these tests always fall on the first: only that it was tried already leads to the second.
        service = cluster("service", bad.address, good.address, lb_policy="RANDOM")
        action = route(retry_policy={"retry_on": "5xx", "num_retries": 1})
        async with running(bootstrap([http_listener([action])], [service])) as proxy, client(proxy.address) as peer:
            peer.send(GET)
            for upstream, answer in ((bad, UNAVAILABLE), (good, OK)):
                served = await upstream.accept()
                await served.head()
                served.send(answer)
            assert (await peer.message())[1] == b"ok"


async def test_another_attempt_waits_and_goes_with_its_client() -> None:
    policy = RetryPolicy(frozenset({"5xx"}), attempts=2, base_interval=3600.0, max_interval=3600.0)
    proxy = MemoryProxy(Forward((("service", 1),), retry=policy))
    proxy.runtime.random = lambda: 0.5
    peer = proxy.client()
    peer.receive(GET)
    (await proxy.upstream()).receive(UNAVAILABLE)
    await turn()
    assert (proxy.connections, peer.take()) == (0, b"")
    [waiting] = proxy.runtime._tasks
    peer.reset()
    await turn()
    assert waiting.cancelled()
    proxy.settled()


async def test_who_waits_for_a_connection_and_goes_leaves_its_place() -> None:
    proxy = MemoryProxy(limits=CircuitLimits(max_connections=1, max_pending_requests=1))
    one, two, three = (proxy.client() for _ in range(3))
    one.receive(GET)
    upstream = await proxy.upstream()
    two.receive(GET)
    two.reset()
    assert not proxy.state.waiting
    three.receive(GET)
    assert three.take() == b"", "it waits in the other's place"
    upstream.receive(OK)
    upstream.receive(OK)
    assert (b" 200 " in one.take(), b" 200 " in three.take()) == (True, True)
    proxy.settled()


@pytest.mark.parametrize(("most", "tries", "overflow"), [(0, 1, 1), (1, 3, 0)])
async def test_so_many_requests_of_a_cluster_are_retried_at_once(most: int, tries: int, overflow: int) -> None:
    policy = RetryPolicy(frozenset({"5xx"}), attempts=2)
    proxy = MemoryProxy(Forward((("service", 1),), retry=policy), limits=CircuitLimits(max_retries=most))
    peer = proxy.client()
    peer.receive(GET)
    for _ in range(tries):
        (await proxy.upstream()).receive(UNAVAILABLE)
        await turn()
    assert b" 503 " in peer.take()
    assert (proxy.state.retries, proxy.state.stats.rq_retry_overflow) == (0, overflow)
    proxy.settled()


@pytest.mark.parametrize(("attempts", "arrives"), [(1, False), (2, True)])
async def test_an_opaque_connection_is_tried_elsewhere_as_often_as_allowed(attempts: int, arrives: bool) -> None:
    async with RawUpstream() as dead, RawUpstream() as upstream:
        dead.close()
        # The dice of these tests always fall on the first: only that it was tried already leads to the second.
        service = cluster("service", dead.address, upstream.address, lb_policy="RANDOM")
        config = bootstrap([tcp_listener(max_connect_attempts=attempts)], [service])
        async with running(config) as proxy, client(proxy.address) as peer:
            if arrives:
                peer.send(b"hello")
                assert await (await upstream.accept()).exactly(5) == b"hello"
                peer.reset()
            else:
                assert await peer.ended()
            record = await proxy.record()
            assert record.attempts == attempts
            assert (record.flag is Flag.NONE) is arrives


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize(("threshold", "used"), [(0.0, 1), (0.3, 1), (0.5, 3)])
async def test_health_is_believed_as_far_as_the_cluster_says(policy: Policy, threshold: float, used: int) -> None:
    endpoints = tuple(Endpoint("192.0.2.1", port) for port in (1, 2, 3))
    for endpoint in endpoints[1:]:
        endpoint.mark(Health.FAILED_EDS_HEALTH, on=True)
    few = Cluster("few", Discovery.STATIC, Balance(policy, panic=threshold), endpoints)
    proxy = MemoryProxy()
    proxy.runtime.upstreams._balancers._random = Random(1).random
    state = proxy.runtime.upstreams.state(few)
    assert len({state.pick(None) for _ in range(100)}) == used


async def test_a_full_cluster_is_not_asked_again() -> None:
    async with RawUpstream() as upstream:
        full = cluster("service", upstream.address, **limits(max_connections=0))
        config = bootstrap([tcp_listener(max_connect_attempts=3)], [full])
        async with running(config) as proxy, client(proxy.address) as peer:
            assert await peer.ended()
            record = await proxy.record()
            assert (record.attempts, record.flag) == (1, Flag.UPSTREAM_OVERFLOW)
