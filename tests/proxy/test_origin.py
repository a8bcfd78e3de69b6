"""Which connections that are open would be let in by what listeners say now, and by whom they are served."""

import asyncio
import json

import pytest

from pymesh_proxy.keep_alive import DRAIN_IDLE
from tests.support.certificates import Authority
from tests.support.changing import (
    CALLER,
    NOBODY,
    Identities,
    answered,
    encrypted,
    kept,
    misdirected,
    opaque,
    rbac,
    web,
)
from tests.support.inprocess import Json, running
from tests.support.messages import GET, OK
from tests.support.peers import RawUpstream, client
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("tls"))


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


async def test_a_client_that_was_silent_is_served_by_what_is_in_force_when_it_speaks(
    identities: Identities,
) -> None:
    async with RawUpstream() as app:
        config = json.loads(encrypted(web(app), identities.server()))
        [chain] = config["static_resources"]["listeners"][0]["filter_chains"]
        chain["filter_chain_match"] = {"transport_protocol": "tls"}
        async with running(json.dumps(config)) as proxy, client(proxy.address) as peer:
            await eventually(lambda: proxy.runtime._tasks, what="somebody waits for the client")
            proxy.change(web(app))
            await answered(app, None, peer)


# --- What nobody had to look at when it began ---


async def test_what_nobody_has_looked_at_is_read_as_requests_all_the_same() -> None:
    """By now what a client says tells requests from opaque bytes, which nobody judges."""
    async with RawUpstream() as app:
        before = web(app, traffic_direction="INBOUND")
        changed = json.loads(web(app, NOBODY, traffic_direction="INBOUND"))
        [listener] = changed["static_resources"]["listeners"]
        listener["filter_chains"][0]["filter_chain_match"] = {"application_protocols": ["http/1.1", "http/1.0"]}
        [listener["default_filter_chain"]] = json.loads(opaque(app))["static_resources"]["listeners"][0][
            "filter_chains"
        ]
        kind = "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
        listener["listener_filters"] = [{"name": "http", "typed_config": {"@type": kind}}]
        async with kept(before, app) as (proxy, peer, _):
            proxy.change(json.dumps(changed))
            peer.send(GET)
            assert (await peer.message())[0].startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("match", [{"transport_protocol": "tls"}, {"server_names": ["a.example"]}])
async def test_of_what_nobody_has_looked_at_only_tls_is_known(identities: Identities, match: Json) -> None:
    common = identities.server()
    async with (
        RawUpstream() as app,
        running(encrypted(web(app), common)) as proxy,
        identities.client(proxy) as peer,
    ):
        served, _ = await answered(app, None, peer)
        changed = json.loads(encrypted(web(app), common))
        changed["static_resources"]["listeners"][0]["filter_chains"][0]["filter_chain_match"] = match
        proxy.change(json.dumps(changed))
        if "server_names" in match:
            await misdirected(proxy, peer, app)
        else:
            await answered(app, served, peer)


async def test_a_listener_of_the_other_direction_is_another_one() -> None:
    async with RawUpstream() as app, kept(web(app), app) as (proxy, peer, _):
        proxy.change(web(app, traffic_direction="INBOUND"))
        await misdirected(proxy, peer, app)
