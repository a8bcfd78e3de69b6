"""Connections that are open when listeners change: by what the next request is judged, what is cut, what is let go."""

import asyncio
import json
import weakref

import pytest

from pymesh_proxy.config.model import HttpManager
from pymesh_proxy.connection import DownstreamConnection
from pymesh_proxy.errors import Flag
from tests.support.changing import (
    ANYBODY,
    NOBODY,
    POST,
    Identities,
    answered,
    encrypted,
    kept,
    opaque,
    rbac,
    web,
)
from tests.support.inprocess import bootstrap, cluster, http_listener, route, running
from tests.support.messages import GET, OK
from tests.support.peers import RawUpstream, client
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("tls"))


# --- Requests are judged by what is in force when their heads have come ---


async def test_who_loses_and_gets_access_finds_it_out_with_the_next_request_and_keeps_the_connection() -> None:
    async with RawUpstream() as app, kept(web(app), app) as (proxy, peer, served):
        for _ in range(2):
            proxy.change(web(app, NOBODY))
            peer.send(GET)
            head, body = await peer.message()
            assert (head[:12], body) == (b"HTTP/1.1 403", b"RBAC: access denied")
            assert b"connection:" not in head
            proxy.change(web(app, rbac("http", readers=ANYBODY)))
            _, head = await answered(app, served, peer)
            assert (head[:12], b"connection:" in head) == (b"HTTP/1.1 200", False)
        assert (app.connections, len(proxy.runtime.connections)) == (1, 1)
        assert [record.status for record in await proxy.records(5)] == [200, 403, 200, 403, 200]


async def test_what_the_rules_of_before_have_decided_of_a_connection_is_forgotten() -> None:
    """Answers of a connection are kept with it (`Facts.decided`), by rules that may be gone."""
    local = {"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}}
    config = [rbac("http", here={**ANYBODY, "principals": [each]}) for each in (local, {"not_id": local})]
    async with RawUpstream() as app, kept(web(app, config[0]), app) as (proxy, peer, _):
        [connection] = proxy.runtime.connections
        assert len(connection.facts.decided) == 1
        proxy.change(web(app, config[1]))
        peer.send(GET)
        assert (await peer.message())[0].startswith(b"HTTP/1.1 403 ")
        assert len(connection.facts.decided) == 1


async def test_a_request_under_way_goes_on_and_the_one_behind_it_is_judged_anew() -> None:
    async with RawUpstream() as app, kept(web(app), app) as (proxy, peer, served):
        peer.send(POST + b"a")
        await served.head()
        proxy.change(web(app, NOBODY))
        proxy.follow()
        peer.send(b"b" + GET + GET[:9])
        assert await served.exactly(2) == b"ab"
        served.send(OK)
        head, body = await peer.message()
        assert (head[:12], body, b"connection:" in head) == (b"HTTP/1.1 200", b"ok", False)
        assert (await peer.message())[0].startswith(b"HTTP/1.1 403 ")
        proxy.change(web(app))
        peer.send(GET[9:])
        await served.head()
        served.send(OK)
        assert (await peer.message())[0].startswith(b"HTTP/1.1 200 ")


async def test_limits_of_requests_and_connections_hold_from_the_next_request_on() -> None:
    small = http_listener([route("app")], max_request_headers_kb=1)
    long = GET.replace(b"host", b"x: " + b"y" * 2000 + b"\r\nhost")
    async with RawUpstream() as app, kept(web(app), app) as (proxy, peer, served):
        await answered(app, served, peer, long)
        limits = {"max_requests_per_connection": 3, "idle_timeout": "1000s"}
        config = http_listener([route("app")], stat_prefix="other", common_http_protocol_options=limits)
        proxy.change(bootstrap([config], [cluster("app", app.address)]))
        [connection] = proxy.runtime.connections
        proxy.follow()
        assert connection.deadline < asyncio.get_running_loop().time() + 1001
        stats = proxy.runtime.stats.http
        assert (stats["http"].cx_active, stats["other"].cx_active) == (0, 1)
        _, head = await answered(app, served, peer)
        assert b"connection: close\r\n" in head
        assert await peer.ended()
        assert stats["other"].rq_total == 1
        proxy.change(web(app))
        async with client(proxy.address) as another:
            await answered(app, served, another, long)
            proxy.change(bootstrap([small], [cluster("app", app.address)]))
            another.send(long)
            assert (await another.message())[0].startswith(b"HTTP/1.1 431 ")


async def test_a_chain_that_fits_better_takes_over_though_the_one_of_before_is_still_there() -> None:
    async with RawUpstream() as app:
        config = json.loads(web(app))
        [listener] = config["static_resources"]["listeners"]
        async with kept(json.dumps(config), app) as (proxy, peer, _):
            [chain] = json.loads(web(app, NOBODY))["static_resources"]["listeners"][0]["filter_chains"]
            chain["filter_chain_match"] = {"destination_port": proxy.address[1]}
            listener["filter_chains"].append(chain)
            proxy.change(json.dumps(config))
            peer.send(GET)
            assert (await peer.message())[0].startswith(b"HTTP/1.1 403 ")


# --- What becomes opaque, and what was ---


async def test_a_port_that_becomes_opaque_passes_the_next_request_on_unread() -> None:
    async with RawUpstream() as app, kept(web(app), app) as (proxy, peer, _), client(proxy.address) as half:
        half.send(GET[:9])
        await eventually(lambda: any(each._buffer for each in proxy.runtime.connections), what="half a head")
        proxy.change(opaque(app))
        peer.send(b"\x00\x01")
        opened = await app.accept()
        assert await opened.exactly(2) == b"\x00\x01"
        proxy.follow()
        half.send(GET[9:])
        another = await app.accept()
        assert await another.head() == GET
        another.send(OK)
        assert (await half.message())[1] == b"ok"
        for each in (opened, another):
            each.close()
        assert await half.rest() == b""
        assert await peer.rest() == b""


async def test_within_tls_too(identities: Identities) -> None:
    common = identities.server()
    async with (
        RawUpstream() as app,
        running(encrypted(web(app), common)) as proxy,
        identities.client(proxy) as peer,
    ):
        served, _ = await answered(app, None, peer)
        proxy.change(encrypted(opaque(app), common))
        peer.send(GET)
        opened = await app.accept()
        assert await opened.head() == GET
        opened.send(b"x" * 1_000_000)
        assert await peer.exactly(1_000_000) == b"x" * 1_000_000
        peer.close()
        opened.close()
        served.close()


async def test_opaque_bytes_go_on_as_long_as_they_would_be_let_in() -> None:
    async with RawUpstream() as app, running(opaque(app)) as proxy, client(proxy.address) as peer:
        peer.send(b"\x00")
        served = await app.accept()
        await served.exactly(1)
        [relay] = proxy.runtime.connections
        proxy.change(opaque(app, rbac("network", all=ANYBODY), idle_timeout="100s"))
        proxy.follow()
        peer.send(b"\x01")
        assert await served.exactly(1) == b"\x01"
        assert relay.deadline < asyncio.get_running_loop().time() + 101
        proxy.change(opaque(app, rbac("network")))
        proxy.follow()
        for each in (peer, served):
            with pytest.raises(ConnectionResetError):
                await each.rest()
        assert (await proxy.record()).details == "rbac_access_denied_matched_policy[none]"


@pytest.mark.parametrize("direction", ["INBOUND", "OUTBOUND"])
async def test_where_requests_are_read_by_now_opaque_bytes_do_not_get_around_that_into_the_app(direction: str) -> None:
    def towards(config: str) -> str:
        return config.replace('"filter_chains"', f'"traffic_direction": "{direction}", "filter_chains"')

    async with RawUpstream() as app, running(towards(opaque(app))) as proxy, client(proxy.address) as peer:
        peer.send(b"\x00")
        served = await app.accept()
        await served.exactly(1)
        proxy.change(towards(web(app, NOBODY)))
        proxy.follow()
        if direction == "INBOUND":
            with pytest.raises(ConnectionResetError):
                await served.rest()
            record = await proxy.record()
            assert (record.flag, record.details) == (Flag.NO_ROUTE, "filter_chain_not_found")
        else:
            peer.send(b"\x01")
            assert await served.exactly(1) == b"\x01"
            peer.close()
            served.close()


async def test_opaque_bytes_in_the_clear_end_once_tls_is_demanded(identities: Identities) -> None:
    async with RawUpstream() as app, running(opaque(app)) as proxy, client(proxy.address) as peer:
        peer.send(b"\x00")
        await (await app.accept()).exactly(1)
        proxy.change(encrypted(opaque(app), identities.server()))
        proxy.follow()
        with pytest.raises(ConnectionResetError):
            await peer.rest()


async def test_what_is_cut_while_its_upstream_is_connected_to_leaves_no_connection_there(
    identities: Identities,
) -> None:
    async with RawUpstream() as app, running(opaque(app)) as proxy:
        upstreams = proxy.runtime.upstreams
        connect = upstreams.connect

        def overtaken(*args):
            proxy.change(encrypted(opaque(app), identities.server()))
            proxy.follow()
            return connect(*args)

        upstreams.connect = overtaken
        async with client(proxy.address) as peer:
            assert await (await app.accept()).ended()
            assert await peer.ended()
        record = await proxy.record()
        assert (record.flag, record.details) == (Flag.NO_ROUTE, "filter_chain_not_found")


async def test_a_client_that_does_not_take_its_answer_is_passed_on_once_it_has() -> None:
    """Whoever has the connection then would not hear that it is to write no more."""
    async with RawUpstream() as app, kept(web(app), app) as (proxy, peer, _):
        [connection] = proxy.runtime.connections
        answer = bytes(32 << 20)  # more than the kernel and the client's reader hold
        connection.transport.write(answer)
        await eventually(lambda: connection._blocked, what="the client takes no more")
        proxy.change(opaque(app))
        proxy.follow()
        assert proxy.runtime.connections == {connection}
        assert await peer.exactly(len(answer)) == answer
        opened = await app.accept()
        peer.send(b"\x00\x01")
        assert await opened.exactly(2) == b"\x00\x01"
        opened.close()
        assert await peer.rest() == b""


# --- What is over follows nothing ---


@pytest.mark.parametrize("becomes", ["requests", "bytes"])
async def test_what_is_lost_between_two_steps_is_left_alone(becomes: str) -> None:
    async with (
        RawUpstream() as app,
        running(web(app)) as proxy,
        client(proxy.address) as one,
        client(proxy.address) as other,
    ):
        served, _ = await answered(app, None, one)
        await answered(app, served, other)
        config = http_listener([route("app")], stat_prefix="other")
        requests = becomes == "requests"
        proxy.change(bootstrap([config], [cluster("app", app.address)]) if requests else opaque(app))
        steps = proxy.runtime.following()
        next(steps)
        [behind] = [
            each
            for each in proxy.runtime.connections
            if isinstance(each, DownstreamConnection) and each.serving.outdated
        ]
        next(peer for peer in (one, other) if peer.local == behind.facts.remote).close()
        await eventually(lambda: behind not in proxy.runtime.connections, what="it is lost")
        assert len(list(steps)) == 1
        assert len(proxy.runtime.connections) == 1
        if requests:
            stats = proxy.runtime.stats.http
            assert (stats["http"].cx_active, stats["other"].cx_active) == (0, 1)
        else:
            (await app.accept()).close()
        assert behind.timer_slot == 0, "nobody is to look at it again"


async def test_what_still_comes_after_a_refusal_is_not_passed_on() -> None:
    async with RawUpstream() as app, running(web(app)) as proxy, client(proxy.address) as peer:
        peer.send(b"no request\r\n\r\n")
        assert (await peer.message())[0].startswith(b"HTTP/1.1 400 ")
        [connection] = proxy.runtime.connections
        proxy.change(opaque(app))
        proxy.follow()
        assert proxy.runtime.connections == {connection}
        peer.send(b"\x00\x01")
        connection.on_deadline(connection._ending.due)
        assert await peer.ended()
        assert app.connections == 0


# --- What was in force is let go ---


@pytest.mark.parametrize("over", ["plain", "tls"])
async def test_nothing_of_before_is_kept_by_connections_that_wait(identities: Identities, over: str) -> None:
    """By those without a request when it changed, and by those whose request ended later."""
    common = identities.server()

    def config(app: RawUpstream) -> str:
        return encrypted(web(app, rbac("http", all=ANYBODY)), common) if over == "tls" else web(app)

    async with RawUpstream() as app, running(config(app)) as proxy:
        proxy.change(config(app))  # `running` keeps what is in force at first
        connect = (lambda: identities.client(proxy)) if over == "tls" else (lambda: client(proxy.address))
        async with connect() as idle, connect() as silent, connect() as busy:
            served, _ = await answered(app, None, idle)
            busy.send(GET)
            await served.head()
            await eventually(lambda: len(proxy.runtime.connections) == 3, what="three connections")
            left = weakref.ref(proxy.runtime.snapshot.listeners["http"])
            manager = proxy.runtime.snapshot.listeners["http"].chains[0].handler
            assert isinstance(manager, HttpManager)
            table = weakref.ref(manager.routes)
            del manager
            proxy.change(config(app))
            proxy.follow()
            assert table() is not None, "the request that is under way needs it"
            served.send(OK)
            assert (await busy.message())[1] == b"ok"
            assert (left(), table()) == (None, None)
            silent.send(GET)
            await served.head()
            served.send(OK)
            assert (await silent.message())[1] == b"ok"


async def test_nothing_of_before_is_kept_by_opaque_connections() -> None:
    async with RawUpstream() as app, running(opaque(app)) as proxy:
        proxy.change(opaque(app, rbac("network", all=ANYBODY)))
        async with client(proxy.address) as peer:
            peer.send(b"\x00")
            served = await app.accept()
            await served.exactly(1)
            [rules] = proxy.runtime.snapshot.listeners["http"].chains[0].handler.rules
            before = weakref.ref(rules)
            del rules
            proxy.change(opaque(app, rbac("network", all=ANYBODY)))
            proxy.follow()
            assert before() is None
            served.close()
            assert await peer.rest() == b""


async def test_connections_follow_one_a_step() -> None:
    async with (
        RawUpstream() as app,
        running(web(app)) as proxy,
        client(proxy.address) as one,
        client(proxy.address) as other,
    ):
        served, _ = await answered(app, None, one)
        await answered(app, served, other)
        proxy.change(web(app))
        steps = proxy.runtime.following()
        for behind in (1, 0):
            next(steps)
            assert sum(each.serving.outdated for each in proxy.runtime.connections) == behind
        assert list(steps) == list(proxy.runtime.following()) == []
        proxy.runtime.adopt(proxy.runtime.snapshot)
        assert list(proxy.runtime.following()) == [], "no listener is another one"
