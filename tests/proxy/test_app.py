"""The process: how it starts, what keeps it from starting, how it ends; and sockets that follow the configuration."""

import asyncio
import json
import os
import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener

from pymesh.steps import whole
from pymesh.xds import types
from pymesh.xds.decode import load_bootstrap
from pymesh_proxy.app import Proxy
from pymesh_proxy.config.model import HttpManager, Snapshot
from pymesh_proxy.filters.base import HttpFilter, Later
from tests.support.configuration import apply
from tests.support.inprocess import Json, bootstrap, cluster, http_listener, options, route, running, simple
from tests.support.memory import MemoryProxy
from tests.support.peers import RawUpstream, client
from tests.support.proxy_process import ProxyProcess, free_port, run_to_its_end
from tests.support.waiting import eventually
from tests.support.xds import message

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def listening(config: str, port: int) -> str:
    """`config` with its only listener on `port`."""
    loaded: Json = json.loads(config)
    [listener] = loaded["static_resources"]["listeners"]
    listener["address"]["socket_address"]["port_value"] = port
    return json.dumps(loaded)


async def test_filters_of_the_command_line_are_in_every_http_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "tests.proxy.config.test_python_filter"
    names = [f"{module}:Good", f"{module}:WithoutConfiguration"]
    monkeypatch.setenv("PYMESH_FILTERS", names[0])
    proxy = Proxy(options("--filter", names[1]), asyncio.get_running_loop())
    snapshot = proxy.configuration.apply_bootstrap(load_bootstrap(simple(("127.0.0.1", 1)), "test"))
    [listener] = snapshot.listeners.values()
    [handler] = [chain.handler for chain in listener.all_chains()]
    assert isinstance(handler, HttpManager)
    assert [found.name for found in handler.filters] == names
    await proxy.runtime.close()


# --- Starts that fail: one sentence, status 1 ---

UNKNOWN_FIELD = simple(("127.0.0.1", 1)).replace('"connect_timeout"', '"conect_timeout"')
UNSUPPORTED = json.dumps({"static_resources": {"clusters": [{**cluster("a"), "lb_policy": "MAGLEV"}]}})


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read"),
        ("static_resources: [", ":2:1: not YAML"),
        ("static_resources:\n  listeners: {a: 1}\n", "static_resources.listeners"),
        (UNKNOWN_FIELD, "conect_timeout"),
        (UNSUPPORTED, "static_resources.clusters[0].lb_policy"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
    ids=["missing", "no YAML", "wrong type", "unknown field", "unsupported", "binary"],
)
def test_a_bootstrap_that_cannot_be_run(tmp_path: Path, text: str | bytes | None, words: str) -> None:
    path = tmp_path / "bootstrap.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = run_to_its_end("--config", str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pymesh-proxy: ")
    assert "Traceback" not in done.stderr
    assert str(path) in done.stderr
    assert words in done.stderr


@pytest.mark.e2e
def test_ports_in_use(tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.json"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path.write_text(listening(simple(), port))
        for arguments in (
            ["--config", str(path), "--admin", "127.0.0.1:0", "--metrics-port", "0", "--readiness-port", "0"],
            ["--listen", "0", "--admin", f"127.0.0.1:{port}"],
        ):
            done = run_to_its_end(*arguments)
            assert done.returncode == 1
            assert f"port 127.0.0.1:{port} is in use: stop what listens there" in done.stderr
            assert "Traceback" not in done.stderr


@pytest.mark.e2e
def test_help_and_validate(tmp_path: Path) -> None:
    done = run_to_its_end("--help")
    assert done.returncode == 0
    assert "pymesh-proxy --listen 15001" in done.stdout
    path = tmp_path / "bootstrap.json"
    path.write_text(simple())
    done = run_to_its_end("--config", str(path), "--validate")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path} is valid\n", "")


# --- The end ---


@pytest.mark.e2e
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "/quitquitquit"])
async def test_what_is_in_flight_finishes_and_the_exit_is_clean(tmp_path: Path, how: str) -> None:
    port, path = free_port(), tmp_path / "bootstrap.json"
    async with RawUpstream() as upstream:
        path.write_text(listening(simple(upstream.address), port))
        with ProxyProcess("--config", str(path), "--drain-time", "10") as proxy:
            async with client(("127.0.0.1", port)) as busy, client(("127.0.0.1", port)) as idle:
                busy.send(GET)
                served = await upstream.accept()
                await served.head()
                idle.send(GET)
                other = await upstream.accept()
                await other.head()
                other.send(OK)
                await idle.message()
                await eventually(lambda: proxy.counter("pymesh_loop_delay_seconds_count"), what="the loop's meter")
                if how.startswith("/"):
                    assert proxy.get(how, "POST").status == 200
                else:
                    os.kill(proxy.process.pid, signal.Signals[how])
                assert await idle.ended()
                async with client(("127.0.0.1", port)) as late:  # who has not heard of the end yet is served
                    late.send(GET)
                    await other.head()  # over the connection that `idle` has left to the pool
                    other.send(OK)
                    assert b"connection: close\r\n" in (await late.message())[0]
                served.send(OK)
                head, body = await busy.message()
                assert b"connection: close\r\n" in head
                assert body == b"ok"
                assert await busy.ended()
                assert await asyncio.to_thread(proxy.wait) == 0
                assert not proxy.logged("Traceback")


@pytest.mark.e2e
async def test_what_does_not_finish_is_cut_when_the_drain_time_is_over(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "bootstrap.json"
    async with RawUpstream() as upstream:
        path.write_text(listening(simple(upstream.address), port))
        with ProxyProcess("--config", str(path), "--drain-time", "0.6") as proxy:
            async with client(("127.0.0.1", port)) as busy:
                busy.send(GET)
                await (await upstream.accept()).head()
                proxy.terminate()
                assert await asyncio.to_thread(proxy.wait) == 0
                assert proxy.logged("drain time is over: 1 connections are cut")


# --- Sockets follow the configuration ---


def at(name: str, port: int) -> Json:
    """An HTTP listener that answers by itself."""
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": name}}}
    listener = http_listener([answer])
    listener["name"] = name
    listener["address"]["socket_address"]["port_value"] = port
    return listener


async def says(port: int) -> bytes:
    """What the listener on `port` says."""
    async with client(("127.0.0.1", port)) as peer:
        peer.send(GET)
        return (await peer.message())[1]


def adopt(proxy: Proxy, *listeners: Json) -> None:
    """Put these listeners in force."""
    proxy.adopt(proxy.configuration.apply_bootstrap(load_bootstrap(bootstrap(listeners, []), "test")))


async def test_listeners_come_move_and_go() -> None:
    one, two = free_port(), free_port()
    async with running(bootstrap([at("a", one)], [])) as serving:
        proxy = serving.proxy
        assert await says(one) == b"a"
        adopt(proxy, at("a", two))
        assert await says(two) == b"a"
        with pytest.raises(ConnectionRefusedError):
            await says(one)
        accepting = proxy._acceptors["a"]
        adopt(proxy, at("a", two), at("b", one))
        assert proxy._acceptors["a"] is accepting, "who is in its queue is not lost to a push"
        assert (await says(one), await says(two)) == (b"b", b"a")
        adopt(proxy)
        with pytest.raises(ConnectionRefusedError):
            await says(two)


async def test_a_pushed_listener_whose_port_is_taken_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    one = free_port()
    async with running(bootstrap([at("a", one)], [])) as serving:
        proxy = serving.proxy
        proxy._serving = True
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            port = taken.getsockname()[1]
            adopt(proxy, at("a", one), at("b", port))
            assert await says(one) == b"a"
            assert f"listener b is not served: port 127.0.0.1:{port} is in use" in caplog.text
            assert proxy.unbound == 1
        adopt(proxy, at("a", one), at("b", port))
        assert await says(port) == b"b"
        assert proxy.unbound == 0


def named(name: str, port: int) -> Json:
    """A cluster by a name."""
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "app.example", "port_value": port}}}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return cluster(name, type="STRICT_DNS", load_assignment=assignment)


async def test_addresses_bring_nothing_into_force_that_is_staged() -> None:
    async with running(bootstrap([], [])) as serving:
        proxy, runtime = serving.proxy, serving.runtime

        def stage(*clusters: Json) -> None:
            messages = load_bootstrap(bootstrap([], clusters), "test").static_resources.clusters
            encoded = {message.name: message.SerializeToString() for message in messages}
            whole(proxy.apply(types.CLUSTER, encoded, set(), "1"))

        def resolve(name: str, *addresses: str) -> None:
            proxy._publish_addresses(name, {"app.example": addresses})

        def endpoints(name: str) -> list[str]:
            return [endpoint.address for endpoint in runtime.snapshot.clusters[name].endpoints]

        stage(named("a", 80))
        resolve("a", "192.0.2.1")
        assert not runtime.snapshot.clusters
        whole(proxy.publish())
        assert endpoints("a") == ["192.0.2.1:80"]
        resolve("a", "192.0.2.2")
        assert endpoints("a") == ["192.0.2.2:80"]
        stage(cluster("b"))
        resolve("a", "192.0.2.3")
        assert (endpoints("a"), set(runtime.snapshot.clusters)) == (["192.0.2.3:80"], {"a"})
        stage(named("a", 81))
        resolve("a", "192.0.2.4")
        assert endpoints("a") == ["192.0.2.4:80"]
        whole(proxy.publish())
        assert (endpoints("a"), set(runtime.snapshot.clusters)) == (["192.0.2.4:81"], {"a", "b"})


async def test_what_is_not_in_force_any_more_is_let_go_of() -> None:
    async with RawUpstream() as upstream, running(bootstrap([], [])) as serving:
        proxy, remains = serving.proxy, serving.proxy.configuration.remains

        def push(*hosts: str, timeout: int) -> None:
            compiled = cluster("a", *((host, upstream.address[1]) for host in hosts), connect_timeout=f"{timeout}s")
            encoded = message(Cluster, json.dumps(compiled)).SerializeToString()
            assert not whole(proxy.apply(types.CLUSTER, {"a": encoded}, set(), "1"))
            whole(proxy.publish())

        push("127.0.0.1", "127.0.0.2", timeout=1)
        first, second = serving.runtime.snapshot.clusters["a"].endpoints
        push("127.0.0.1", timeout=1)
        assert (first.retired, second.retired) == (False, True)
        for timeout in (2, 3):
            held = serving.runtime.snapshot
            push("127.0.0.1", timeout=timeout)
            assert len(remains) == 1, "a request may be at it"
            del held
            await eventually(lambda: not len(remains), what="the old cluster is freed")


async def test_connections_follow_what_is_published_though_they_ask_for_nothing() -> None:
    async with running(bootstrap([], [cluster("service")])) as serving:
        proxy = serving.proxy

        def push(name: str) -> None:
            listener = message(Listener, json.dumps(http_listener([route()], server_name=name)))
            assert not whole(proxy.apply(types.LISTENER, {"http": listener.SerializeToString()}, set(), "1"))
            whole(proxy.publish())

        push("one")
        async with client(serving.address):
            [connection] = await eventually(lambda: serving.runtime.connections)
            push("other")
            assert connection.manager.server_name == "other"


async def test_long_work_knows_of_traffic_and_is_seen_by_the_meter() -> None:
    async with running(bootstrap([at("a", 0)], [])) as serving:
        proxy, meter = serving.proxy, serving.runtime.loop_meter
        for pace in (proxy.pace, proxy.scrapes):
            before = meter._slices.sum
            await pace.take(proxy.configuration.clearing())
            assert meter._slices.sum > before
            assert not pace._busy()
        async with client(serving.address):
            await eventually(proxy.pace._busy, what="a connection")
            assert proxy.scrapes._busy()
            await eventually(lambda: not proxy.pace._busy(), what="a connection that only is open is no traffic")
            assert serving.runtime.connections
            assert not meter._busy()


async def test_clearing_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(bootstrap([], [])) as serving:
        proxy, runs = serving.proxy, []

        async def take(steps: object) -> None:
            runs.append(steps)
            raise ValueError("an endpoint that cannot be retired")

        monkeypatch.setattr(proxy.pace, "take", take)
        told: list[object] = []
        proxy.runtime.loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        for times in (1, 2):
            proxy._clear()
            await eventually(lambda times=times: len(told) == times, what="the failure is told")
        assert len(runs) == 2


async def test_a_cluster_that_is_gone_is_forgotten_once_nothing_is_in_flight_there() -> None:
    async with RawUpstream() as upstream, running(bootstrap([], [])) as serving:
        proxy, upstreams = serving.proxy, serving.runtime.upstreams
        configuration = proxy.configuration
        found = apply(configuration, types.CLUSTER, {"a": message(Cluster, json.dumps(cluster("a", upstream.address)))})
        proxy.adopt(found)
        used = found.clusters["a"]
        assert upstreams.reserve(used)
        proxy.adopt(apply(configuration, types.CLUSTER, {}, ["a"]))
        assert "a" in serving.runtime.stats.clusters, "a connection is open"
        upstreams.release_place(used)
        await eventually(lambda: "a" not in serving.runtime.stats.clusters, what="it is forgotten at once")
        assert "a" not in upstreams._states


async def test_the_admin_port_of_the_bootstrap_is_opened(tmp_path: Path) -> None:
    port = free_port()
    config = json.loads(bootstrap([], []))
    config["admin"] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
    text = json.dumps(config)
    path = tmp_path / "bootstrap.json"
    path.write_text(text)
    from pymesh_proxy.options import parse

    given = parse(["--config", str(path), "--metrics-port", "0", "--readiness-port", "0"])
    proxy = Proxy(given, asyncio.get_running_loop())
    try:
        await proxy._open_ports(load_bootstrap(text, "test"))
        async with client(("127.0.0.1", port)) as peer:
            peer.send(b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await peer.message())[1] == b"LIVE\n"
    finally:
        await proxy._close()


async def test_a_request_that_waits_for_a_filter_goes_on_with_its_snapshot() -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def ask() -> None:
        asked.set()
        await answered.wait()

    proxy = MemoryProxy(filters=[HttpFilter("asks", lambda _: Later(ask))])
    peer = proxy.client()
    peer.receive(GET)
    await asked.wait()
    proxy.runtime.adopt(Snapshot(2, {}, {}, {}))
    answered.set()
    upstream = await proxy.upstream()
    upstream.receive(OK)
    assert peer.take().startswith(b"HTTP/1.1 200 ")


async def test_a_request_keeps_the_snapshot_that_it_began_with() -> None:
    async with (
        RawUpstream() as before,
        RawUpstream() as after,
        running(simple(before.address)) as serving,
        client(serving.address) as peer,
    ):
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na")
        served = await before.accept()
        await served.head()
        config = simple(after.address).replace('"port_value": 0', f'"port_value": {serving.address[1]}')
        serving.proxy.adopt(serving.proxy.configuration.apply_bootstrap(load_bootstrap(config, "test")))
        peer.send(b"b")
        assert await served.exactly(2) == b"ab"
        served.send(OK)
        head, body = await peer.message()
        assert b"connection:" not in head
        assert body == b"ok"
        peer.send(GET)  # what holds now holds for the next one
        served = await after.accept()
        await served.head()
        served.send(OK)
        assert (await peer.message())[1] == b"ok"
        assert [record.status for record in await serving.records(2)] == [200, 200]
