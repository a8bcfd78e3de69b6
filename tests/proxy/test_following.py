"""Connections that are open when listeners change: by what their next request is judged, and who is let in no more."""

import asyncio
import json
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pymesh_proxy.config.model import HttpManager
from pymesh_proxy.errors import Flag
from pymesh_proxy.keep_alive import DRAIN_IDLE
from tests.support.certificates import Authority
from tests.support.inprocess import Json, Running, bootstrap, cluster, http_listener, route, running, tcp_listener
from tests.support.messages import GET, OK
from tests.support.peers import Peer, RawUpstream, client
from tests.support.waiting import eventually

POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"
CALLER = "spiffe://cluster.local/ns/default/sa/caller"
_TYPE = "type.googleapis.com/envoy.extensions."
ROUTER = {"name": "router", "typed_config": {"@type": f"{_TYPE}filters.http.router.v3.Router"}}


def rbac(kind: str, **policies: Json) -> Json:
    """Access rules that let in what `policies` say."""
    rules = {"action": "ALLOW", "policies": policies}
    prefix = {"stat_prefix": "tcp"} if kind == "network" else {}
    return {"name": "rbac", "typed_config": {"@type": f"{_TYPE}filters.{kind}.rbac.v3.RBAC", "rules": rules, **prefix}}


ANYBODY = {"permissions": [{"any": True}], "principals": [{"any": True}]}
NOBODY = rbac("http")


def web(app: RawUpstream, *filters: Json, **listener: object) -> str:
    """HTTP to `app`."""
    found = http_listener([route("app")], http_filters=[*filters, ROUTER])
    return bootstrap([{**found, **listener}], [cluster("app", app.address)])


def opaque(app: RawUpstream, *filters: Json, **proxy: object) -> str:
    """Bytes to `app`, of a listener that has the name of the one for HTTP."""
    [listener] = [tcp_listener("app", **proxy)]
    listener["filter_chains"][0]["filters"][:0] = filters
    return bootstrap([{**listener, "name": "http"}], [cluster("app", app.address)])


async def answered(app: RawUpstream, served: Peer | None, peer: Peer, request: bytes = GET) -> tuple[Peer, bytes]:
    """One request through the proxy; the connection that it came to the app on, and the head of the answer."""
    peer.send(request)
    served = served or await app.accept()
    await served.head()
    served.send(OK)
    return served, (await peer.message())[0]


@asynccontextmanager
async def kept(config: str, app: RawUpstream) -> AsyncIterator[tuple[Running, Peer, Peer]]:
    """A proxy, a client whose connection has carried a request and waits for the next, and the app's end."""
    async with running(config) as proxy, client(proxy.address) as peer:
        served, head = await answered(app, None, peer)
        assert b"connection:" not in head
        yield proxy, peer, served


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


# --- Connections that would not be let in any more ---


def encrypted(config: str, common: Json, **more: object) -> str:
    """The listener of `config`, with TLS."""
    found = json.loads(config)
    context = {"@type": f"{_TYPE}transport_sockets.tls.v3.DownstreamTlsContext", "common_tls_context": common, **more}
    for chain in found["static_resources"]["listeners"][0]["filter_chains"]:
        chain["transport_socket"] = {"name": "tls", "typed_config": context}
    return json.dumps(found)


class Identities:
    """A caller's certificate, and what a server says of itself and of whom it lets in."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.folder = Authority(), folder
        issued = self.authority.issue(uri=CALLER)
        self.caller = folder / "caller.pem"
        self.caller.write_bytes(issued.chain + b"\n" + issued.key)

    def server(self, *names: str, trusts: Authority | None = None, **more: object) -> Json:
        """`common_tls_context` with a certificate of its own; callers have to be one of `names`."""
        own = self.authority.issue(dns=("a.example", "b.example"))
        chain, key = {"inline_string": own.chain.decode()}, {"inline_string": own.key.decode()}
        matchers = [{"san_type": "URI", "matcher": {"exact": name}} for name in names]
        roots = {"trusted_ca": {"inline_string": (trusts or self.authority).root.decode()}}
        if matchers:
            roots["match_typed_subject_alt_names"] = matchers
        ours = [{"certificate_chain": chain, "private_key": key}]
        return {"tls_certificates": ours, "validation_context": roots, **more}

    @asynccontextmanager
    async def client(self, proxy: Running, name: str = "a.example", *, proves: bool = True) -> AsyncIterator[Peer]:
        context = ssl.create_default_context(cadata=self.authority.root.decode())
        if proves:
            context.load_cert_chain(self.caller)
        peer = Peer(*await asyncio.open_connection(*proxy.address, ssl=context, server_hostname=name))
        try:
            yield peer
        finally:
            peer.writer.transport.abort()
            await asyncio.sleep(0)


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("tls"))


async def misdirected(proxy: Running, peer: Peer, app: RawUpstream) -> None:
    """Its next request is told to come again on another connection, and has reached nobody."""
    before = len(proxy.runtime.recent)
    peer.send(POST + b"ab")
    head, _ = await peer.message()
    assert head.startswith(b"HTTP/1.1 421 ")
    assert b"connection: close\r\n" in head
    assert b'\r\nproxy-status: pymesh; error=destination_not_found; details="NR filter_chain_not_found"\r\n' in head
    assert await peer.ended()
    record = (await proxy.records(before + 1))[-1]
    assert (record.flag, record.details, record.attempts) == (Flag.NO_ROUTE, "filter_chain_not_found", 0)


async def test_in_the_clear_no_request_is_served_once_tls_is_demanded(identities: Identities) -> None:
    async with (
        RawUpstream() as app,
        kept(web(app), app) as (proxy, peer, _),
        client(proxy.address) as half,
        client(proxy.address) as idle,
    ):
        half.send(GET[:9])
        await eventually(lambda: any(each._buffer for each in proxy.runtime.connections), what="half a head")
        await eventually(lambda: len(proxy.runtime.connections) == 3, what="three connections")
        proxy.change(encrypted(web(app), identities.server()))
        proxy.follow()
        await misdirected(proxy, peer, app)
        half.send(GET[9:])
        assert (await half.message())[0].startswith(b"HTTP/1.1 421 ")
        [connection] = await eventually(lambda: [each for each in proxy.runtime.connections if not each.requests])
        until = connection.serving.over_since + DRAIN_IDLE
        for now, over in ((until - 0.1, False), (until, True)):
            connection.on_deadline(now)
            assert (connection._ending is not None) is over
        assert await idle.ended()


async def test_nothing_is_served_by_a_listener_that_is_gone(identities: Identities) -> None:
    async with RawUpstream() as app, kept(web(app), app) as (proxy, peer, _):
        config = json.loads(web(app))
        address = proxy.address
        config["static_resources"]["listeners"] = []
        proxy.change(json.dumps(config))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        await misdirected(proxy, peer, app)


async def test_a_request_under_way_is_answered_by_a_listener_that_is_gone() -> None:
    async with RawUpstream() as app, kept(web(app), app) as (proxy, peer, served):
        peer.send(GET)
        await served.head()
        config = json.loads(web(app))
        config["static_resources"]["listeners"] = []
        proxy.change(json.dumps(config))
        proxy.follow()
        served.send(OK)
        assert (await peer.message())[1] == b"ok"
        [connection] = proxy.runtime.connections
        await eventually(lambda: connection.serving.last, what="the connection is to end")
        connection.on_deadline(connection.serving.over_since + DRAIN_IDLE)
        assert await peer.ended()


@pytest.mark.parametrize(
    ("names", "demands", "proves", "goes_on"),
    [
        ((), {}, False, True),
        ((), {"require_client_certificate": True}, True, True),
        ((), {"require_client_certificate": True}, False, False),
        ((CALLER,), {}, True, True),
        ((CALLER,), {}, False, False),
        ((CALLER + "s", CALLER + "x"), {}, True, False),
    ],
)
async def test_what_a_handshake_has_proved_is_held_against_what_it_would_have_to(
    identities: Identities, names: tuple[str, ...], demands: Json, proves: bool, goes_on: bool
) -> None:
    """What it has proved to the client, our certificate, is no matter: here it is another one each time."""
    async with (
        RawUpstream() as app,
        running(encrypted(web(app), identities.server())) as proxy,
        identities.client(proxy, proves=proves) as peer,
    ):
        served, _ = await answered(app, None, peer)
        proxy.change(encrypted(web(app), identities.server(*names), **demands))
        if goes_on:
            await answered(app, served, peer)
        else:
            await misdirected(proxy, peer, app)


@pytest.mark.parametrize("how", ["roots", "version", "in the clear"])
async def test_another_handshake_is_needed_for(identities: Identities, how: str) -> None:
    changed = {
        "roots": identities.server(trusts=Authority("another")),
        "version": identities.server(tls_params={"tls_minimum_protocol_version": "TLSv1_3"}),
    }
    async with (
        RawUpstream() as app,
        running(encrypted(web(app), identities.server())) as proxy,
        identities.client(proxy) as peer,
    ):
        await answered(app, None, peer)
        proxy.change(encrypted(web(app), changed[how]) if how in changed else web(app))
        await misdirected(proxy, peer, app)


def by_name(app: RawUpstream, identities: Identities, **chains: tuple[Json, ...]) -> str:
    """A filter chain for each server name `<key>.example`, with these filters."""
    config = json.loads(encrypted(web(app), identities.server()))
    [listener] = config["static_resources"]["listeners"]
    [chain] = listener["filter_chains"]
    listener["filter_chains"] = []
    for name, filters in chains.items():
        [found] = json.loads(web(app, *filters))["static_resources"]["listeners"][0]["filter_chains"]
        found["transport_socket"] = chain["transport_socket"]
        found["filter_chain_match"] = {"server_names": [f"{name}.example"], "transport_protocol": "tls"}
        listener["filter_chains"].append(found)
    return json.dumps(config)


async def test_each_connection_follows_the_chain_of_its_server_name(identities: Identities) -> None:
    async with (
        RawUpstream() as app,
        running(by_name(app, identities, a=(), b=())) as proxy,
        identities.client(proxy, "a.example") as one,
        identities.client(proxy, "b.example") as other,
    ):
        served, _ = await answered(app, None, one)
        await answered(app, served, other)
        proxy.change(by_name(app, identities, a=(), b=(NOBODY,)))
        await answered(app, served, one)
        other.send(GET)
        assert (await other.message())[0].startswith(b"HTTP/1.1 403 ")
        proxy.change(by_name(app, identities, b=()))
        await misdirected(proxy, one, app)
        await answered(app, served, other)


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


# --- Connections that came in while it changed ---


@pytest.mark.parametrize("what", ["requests", "bytes"])
async def test_a_handshake_that_a_change_overtakes_leads_to_what_is_in_force(identities: Identities, what: str) -> None:
    common = identities.server()
    one, other = (web, "http") if what == "requests" else (opaque, "network")
    async with RawUpstream() as app, running(encrypted(one(app), common)) as proxy:
        shaking = proxy.runtime.tls.server

        def late(tls):  # the handshake begins, and has its chain
            found = shaking(tls)
            proxy.change(encrypted(one(app, rbac(other)), common))
            proxy.follow()
            return found

        proxy.runtime.tls.server = late
        async with identities.client(proxy) as peer:
            peer.send(GET)
            if what == "requests":
                assert (await peer.message())[0].startswith(b"HTTP/1.1 403 ")
            else:
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
