"""Checks and detectors at work in a whole proxy: what they send, how they end, what requests see of them."""

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pymesh_proxy.config.model import Cluster
from pymesh_proxy.upstream.endpoint import Endpoint
from tests.support.certificates import Authority
from tests.support.inprocess import (
    Json,
    Running,
    bootstrap,
    cluster,
    http_listener,
    route,
    running,
    simple,
    tcp_listener,
)
from tests.support.messages import OK
from tests.support.peers import Address, RawUpstream, client
from tests.support.tls_upstream import TlsUpstream, socket_of, trusting
from tests.support.waiting import eventually

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
NOT_YET = b"HTTP/1.1 503 Not Yet\r\ncontent-length: 0\r\n\r\n"
FAILED = "/failed_active_hc"
HTTP: Json = {"http_health_check": {"path": "/healthz"}}
TCP: Json = {"tcp_health_check": {}}


def checks(what: Json, **more: object) -> Json:
    """Health checks every 20 ms, which decide at the second time."""
    often = {"timeout": "1s", "interval": "0.02s", "no_traffic_interval": "0.02s"}
    return {"health_checks": [{**often, "unhealthy_threshold": 2, "healthy_threshold": 2, **what, **more}]}


def checked(address: Address, what: Json, **more: object) -> str:
    return bootstrap([http_listener([route()])], [cluster("service", address, **checks(what, **more))])


def service(proxy: Running) -> tuple[Cluster, Endpoint]:
    compiled = proxy.runtime.snapshot.clusters["service"]
    return compiled, compiled.endpoints[0]


async def becomes(endpoint: Endpoint, flags: str) -> None:
    await eventually(lambda: endpoint.health_flags == flags, what=f"{flags}, not {endpoint.health_flags}")


async def test_an_endpoint_is_unhealthy_until_the_first_check_and_then_as_checks_say() -> None:
    async with RawUpstream() as upstream, running(checked(upstream.address, HTTP)) as proxy:
        _, endpoint = service(proxy)
        assert endpoint.health_flags == FAILED
        line = await upstream.accept()
        assert await line.head() == b"GET /healthz HTTP/1.1\r\nhost: service\r\nuser-agent: Envoy/HC\r\n\r\n"
        assert endpoint.health_flags == FAILED
        line.send(OK)
        await becomes(endpoint, "healthy")
        await line.head()
        line.send(NOT_YET)  # an answer that says no needs no second one
        await becomes(endpoint, FAILED)
        for _ in range(2):
            await line.head()
            assert endpoint.health_flags == FAILED
            line.send(OK)
        await becomes(endpoint, "healthy")
        assert upstream.connections == 1, "one connection for all checks"
        assert proxy.counter("envoy_cluster_health_check_success_total") == 3
        assert proxy.counter("envoy_cluster_health_check_failure_total") == 1
        assert not proxy.runtime.stats.clusters, "it is none of the requests' connections"


async def test_a_connection_for_each_check_where_that_is_asked_for() -> None:
    async with RawUpstream() as upstream, running(checked(upstream.address, HTTP, reuse_connection=False)) as proxy:
        for _ in range(2):
            line = await upstream.accept()
            await line.head()
            line.send(OK)
            assert await line.ended()
        await becomes(service(proxy)[1], "healthy")


async def test_a_connection_that_the_endpoint_closed_is_made_anew() -> None:
    async with RawUpstream() as upstream, running(checked(upstream.address, HTTP)) as proxy:
        for _ in range(2):
            line = await upstream.accept()
            await line.head()
            line.send(OK)
            line.close()
        await becomes(service(proxy)[1], "healthy")
        assert proxy.counter("envoy_cluster_health_check_failure_total") == 0


async def test_no_answer_is_a_timeout_and_the_connection_is_given_up() -> None:
    async with RawUpstream() as upstream, running(checked(upstream.address, HTTP, timeout="0.05s")) as proxy:
        line = await upstream.accept()
        await line.head()
        await becomes(service(proxy)[1], f"{FAILED}/active_hc_timeout")
        assert await line.ended()
        assert proxy.counter("envoy_cluster_health_check_network_failure_total") >= 1


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 20", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"]
)
async def test_what_breaks_off_is_a_failure(answer: bytes) -> None:
    async with RawUpstream() as upstream, running(checked(upstream.address, HTTP)) as proxy:
        for _ in range(2):
            line = await upstream.accept()
            await line.head()
            line.send(answer)
            line.close()
        await eventually(lambda: proxy.counter("envoy_cluster_health_check_network_failure_total") >= 2)
        assert service(proxy)[1].health_flags == FAILED


async def test_a_body_and_interim_answers_are_read_over() -> None:
    async with RawUpstream() as upstream, running(checked(upstream.address, HTTP)) as proxy:
        line = await upstream.accept()
        for _ in range(2):
            await line.head()
            line.send(
                b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"
            )
            line.send(b"0\r\n\r\n")
        await becomes(service(proxy)[1], "healthy")
        assert upstream.connections == 1


async def test_a_degraded_endpoint_says_so_of_itself() -> None:
    async with RawUpstream() as upstream, running(checked(upstream.address, HTTP)) as proxy:
        line = await upstream.accept()
        await line.head()
        line.send(b"HTTP/1.1 200 OK\r\nx-envoy-degraded: true\r\ncontent-length: 0\r\n\r\n")
        await becomes(service(proxy)[1], "/degraded_active_hc")


async def test_what_tcp_checks_send_and_wait_for() -> None:
    what = {"tcp_health_check": {"send": {"text": "50494e47"}, "receive": [{"text": "50"}, {"text": "4e47"}]}}
    async with RawUpstream() as upstream, running(checked(upstream.address, what, healthy_threshold=1)) as proxy:
        line = await upstream.accept()
        assert await line.exactly(4) == b"PING"
        line.send(b"NGxPO")
        line.close()
        line = await upstream.accept()
        stats = proxy.runtime.upstreams.guards.checkers["service"].stats
        assert (stats.attempt, stats.failure) == (1, 1), "not all of it had come, and not in this order"
        assert service(proxy)[1].health_flags == FAILED
        assert await line.exactly(4) == b"PING"
        line.send(b"xPO")
        line.send(b"NG")
        await becomes(service(proxy)[1], "healthy")
        assert await line.ended()


async def test_another_port_and_name_for_checks() -> None:
    async with RawUpstream() as traffic, RawUpstream() as health:
        config = cluster("service", traffic.address, **checks(HTTP))
        (endpoint,) = config["load_assignment"]["endpoints"][0]["lb_endpoints"]
        endpoint["endpoint"]["health_check_config"] = {"port_value": health.address[1], "hostname": "me.test"}
        async with running(bootstrap([http_listener([route()])], [config])) as proxy:
            line = await health.accept()
            assert b"host: me.test\r\n" in await line.head()
            line.send(OK)
            await becomes(service(proxy)[1], "healthy")
            assert traffic.connections == 0


async def test_an_endpoint_that_is_not_to_be_checked_is_healthy() -> None:
    async with RawUpstream() as upstream:
        config = cluster("service", upstream.address, **checks(TCP))
        (endpoint,) = config["load_assignment"]["endpoints"][0]["lb_endpoints"]
        endpoint["endpoint"]["health_check_config"] = {"disable_active_health_check": True}
        async with running(bootstrap([http_listener([route()])], [config])) as proxy:
            assert service(proxy)[1].healthy
            assert not proxy.runtime.upstreams.guards.checkers["service"]._tasks


@pytest.mark.parametrize(("name", "flags"), [("a.example", "healthy"), ("b.example", FAILED)])
async def test_checks_go_through_the_clusters_tls(name: str, flags: str, tmp_path: Path) -> None:
    authority, upstream = Authority(), TlsUpstream(OK)
    issued = authority.issue(dns=("a.example",))
    common: dict[str, Any] = trusting(authority)
    common["validation_context"]["match_typed_subject_alt_names"] = [{"san_type": "DNS", "matcher": {"exact": name}}]
    async with upstream.listening(tmp_path, issued, ssl.TLSVersion.TLSv1_3) as address:
        tls = socket_of("UpstreamTlsContext", sni="a.example", common_tls_context=common)
        config = bootstrap([http_listener([route()])], [cluster("service", address, **tls, **checks(HTTP))])
        async with running(config) as proxy:
            await eventually(lambda: proxy.counter("envoy_cluster_health_check_attempt_total") > 1)
            assert service(proxy)[1].health_flags == flags


async def test_checks_end_with_the_configuration_that_asks_for_them() -> None:
    async with RawUpstream() as upstream, running(checked(upstream.address, HTTP)) as proxy:
        line = await upstream.accept()
        await line.head()
        compiled, endpoint = service(proxy)
        checker = proxy.runtime.upstreams.guards.checkers["service"]
        (task,) = checker._tasks.values()
        proxy.runtime.upstreams.follow({"service": replace(compiled, endpoints=())})
        assert await line.ended(), "nobody waits for the answer any more"
        await asyncio.wait([task])
        assert (task.cancelled(), checker._tasks) == (True, {})
        proxy.runtime.upstreams.follow({"service": compiled})
        line = await upstream.accept()
        await line.head()
        line.send(OK)
        await becomes(endpoint, "healthy")
        (task,) = checker._tasks.values()
        proxy.runtime.upstreams.follow({"service": replace(compiled, health_check=None)})
        assert await line.ended()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not proxy.runtime.upstreams.guards.checkers


async def test_only_so_many_checks_are_under_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymesh_proxy.upstream.guards.MAX_CHECKS", 1)
    async with RawUpstream() as one, RawUpstream() as other:
        config = cluster("service", one.address, other.address, **checks(HTTP))
        async with running(bootstrap([http_listener([route()])], [config])):
            accepted = [asyncio.ensure_future(upstream.accept()) for upstream in (one, other)]  # noqa: TID251 - awaited
            done, pending = await asyncio.wait(accepted, return_when=asyncio.FIRST_COMPLETED)
            (first,), (second,) = done, pending
            await first.result().head()
            assert one.connections + other.connections == 1
            first.result().send(OK)
            await (await second).head()


# --- Outlier detection, as requests have it ------------------------------------------------------------------------


def watched(*addresses: Address, listener: Json | None = None, **settings: object) -> str:
    outliers = {"outlier_detection": {"interval": "10s", "max_ejection_percent": 100, **settings}}
    return bootstrap([listener or http_listener([route()])], [cluster("service", *addresses, **outliers)])


async def ask(proxy: Running) -> bytes:
    async with client(proxy.address) as peer:
        peer.send(GET)
        return (await peer.message())[0].split(b" ", 2)[1]


async def test_whoever_cannot_be_reached_is_left_out() -> None:
    async with RawUpstream() as gone, RawUpstream() as there:
        gone.close()
        async with running(watched(gone.address, there.address, consecutive_5xx=2)) as proxy:

            async def answering() -> None:
                line = await there.accept()
                while True:
                    await line.head()
                    line.send(OK)

            task = asyncio.ensure_future(answering())  # noqa: TID251 - cancelled below
            try:
                found = [await ask(proxy) for _ in range(8)]
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert sorted(found) == [b"200"] * 6 + [b"503"] * 2
            assert proxy.counter("envoy_cluster_outlier_detection_ejections_enforced_consecutive_5xx_total") == 1
            assert proxy.counter("envoy_cluster_membership_healthy") == 1


async def test_opaque_connections_count_too() -> None:
    async with RawUpstream() as gone:
        gone.close()
        async with running(watched(gone.address, listener=tcp_listener(), consecutive_5xx=2)) as proxy:
            endpoint = service(proxy)[1]
            for flags in ("healthy", "/failed_outlier_check"):
                async with client(proxy.address) as peer:
                    assert await peer.ended()
                await becomes(endpoint, flags)


async def test_an_ejected_endpoint_comes_back_when_nobody_watches_any_more() -> None:
    async with RawUpstream() as gone:
        gone.close()
        async with running(watched(gone.address, consecutive_5xx=1)) as proxy:
            compiled, endpoint = service(proxy)
            await ask(proxy)
            assert endpoint.health_flags == "/failed_outlier_check"
            unwatched = {"service": replace(compiled, outlier=None)}
            proxy.runtime.upstreams.follow(unwatched)
            assert endpoint.healthy
            assert proxy.runtime.upstreams.state(compiled).outlier is None
            await ask(proxy)
            assert endpoint.healthy


async def test_where_nothing_is_configured_nobody_watches() -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as proxy:
        compiled, _ = service(proxy)
        assert proxy.runtime.upstreams.state(compiled).outlier is None
        assert not list(proxy.runtime.upstreams.guards.detectors())
        assert not proxy.runtime.upstreams.guards.checkers
