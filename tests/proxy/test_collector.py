"""Nothing that requests and connections leave behind is for the garbage collector, which does not look at all of it.

After a push everything there is is frozen (control/pace.py): what then becomes a cycle of garbage stays until
there is a time without traffic.
"""

import asyncio
import gc
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

import pytest

from pymesh_proxy.attempts import Attempts
from pymesh_proxy.connection import DownstreamConnection
from pymesh_proxy.errors import ProxyError
from pymesh_proxy.exchange import Exchange
from pymesh_proxy.relay import Relay
from pymesh_proxy.transport.first_bytes import FirstBytes
from pymesh_proxy.transport.half import Half
from pymesh_proxy.transport.tls_stream import TlsStream
from pymesh_proxy.upstream.connection import UpstreamConnection
from tests.support.certificates import Authority
from tests.support.inprocess import Json, Running, bootstrap, cluster, http_listener, route, running, tcp_listener
from tests.support.peers import Peer, RawUpstream, client

KINDS = (
    DownstreamConnection, UpstreamConnection, Exchange, Attempts, ProxyError, Relay, Half, TlsStream, FirstBytes,
)  # fmt: skip
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."


class Tls(NamedTuple):
    """An authority's certificate for everybody, and contexts with it; `stranger` trusts nobody that we know."""

    root: str
    chain: str
    key: str
    server: ssl.SSLContext
    client: ssl.SSLContext
    stranger: ssl.SSLContext

    def downstream(self, listener: Json) -> Json:
        """`listener`, with TLS."""
        own = {"certificate_chain": {"inline_string": self.chain}, "private_key": {"inline_string": self.key}}
        config = {"@type": f"{TLS}DownstreamTlsContext", "common_tls_context": {"tls_certificates": [own]}}
        [chain] = listener["filter_chains"]
        return {**listener, "filter_chains": [{**chain, "transport_socket": {"name": "tls", "typed_config": config}}]}

    def upstream(self, root: str) -> Json:
        """The transport socket of a cluster that trusts `root`."""
        common = {"validation_context": {"trusted_ca": {"inline_string": root}}}
        config = {"@type": f"{TLS}UpstreamTlsContext", "common_tls_context": common, "sni": "localhost"}
        return {"transport_socket": {"name": "tls", "typed_config": config}}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    authority = Authority()
    issued = authority.issue(dns=("localhost",))
    file: Path = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(issued.chain + b"\n" + issued.key)
    root = authority.root.decode()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.create_default_context(cadata=root)
    stranger = ssl.create_default_context(cadata=Authority("another").root.decode())
    return Tls(root, issued.chain.decode(), issued.key.decode(), server, client, stranger)


@pytest.fixture
def collector() -> Iterator[None]:
    """Off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, KINDS))


class World(NamedTuple):
    """A proxy that serves, its upstream, and how to be its client."""

    serving: Running
    upstream: RawUpstream
    client: Callable[[], AbstractAsyncContextManager[Peer]]


async def answered(world: World) -> None:
    async with world.client() as peer:
        peer.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        served = await world.upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        assert (await peer.head()).startswith(b"HTTP/1.1 200")
        served.close()


async def broken(world: World) -> None:
    async with world.client() as peer:
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx")
        served = await world.upstream.accept()
        await served.head()
        served.reset()
        assert (await peer.head()).startswith(b"HTTP/1.1 503")


async def refused(world: World) -> None:
    async with world.client() as peer:
        peer.send(b"GET / HTTP/1.1\r\nhost : a\r\n\r\n")
        assert (await peer.head()).startswith(b"HTTP/1.1 400")


async def unreachable(world: World) -> None:
    async with world.client() as peer:
        peer.send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert (await peer.head()).startswith(b"HTTP/1.1 503")


async def relayed(world: World) -> None:
    async with world.client() as peer:
        peer.send(b"hello")
        served = await world.upstream.accept()
        assert await served.exactly(5) == b"hello"
        served.send(b"welcome")
        assert await peer.exactly(7) == b"welcome"
        served.close()
        assert await peer.rest() == b""


async def cut(world: World) -> None:
    async with world.client() as peer:
        peer.send(b"hello")
        served = await world.upstream.accept()
        assert await served.exactly(5) == b"hello"
        served.reset()
        assert await peer.ended()


async def not_relayed(world: World) -> None:
    async with world.client() as peer:
        peer.send(b"hello")
        assert await peer.ended()


async def not_trusted(world: World) -> None:
    """The client refuses our certificate."""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with world.client():
            pass


async def not_tls(world: World) -> None:
    """The client speaks something else."""
    async with client(world.serving.address) as peer:
        peer.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert await peer.ended()


BOTH = ("plain", "TLS")
HTTP = [
    *((answered, below, above) for below in BOTH for above in BOTH),
    *((broken, both, both) for both in BOTH),
    *((refused, below, "plain") for below in BOTH),
    *((unreachable, "plain", above) for above in ("untrusted", "gone")),
    (not_trusted, "TLS", "plain"),
    (not_tls, "TLS", "plain"),
]
TCP = [
    *((relayed, below, above) for below in BOTH for above in BOTH),
    *((cut, both, both) for both in BOTH),
    *((not_relayed, "plain", above) for above in ("untrusted", "gone")),
    (not_trusted, "TLS", "plain"),
]


@pytest.mark.parametrize(
    ("listener", "kind", "below", "above"),
    [
        pytest.param(listener, *case, id=f"{name}-{case[0].__name__}-{case[1]}-{case[2]}")
        for name, listener, cases in (("HTTP", http_listener([route()]), HTTP), ("TCP", tcp_listener(), TCP))
        for case in cases
    ],
)
@pytest.mark.usefixtures("collector")
async def test_a_connection_that_is_over_is_freed_at_once(
    listener: Json, kind: Callable[[World], Awaitable[None]], below: str, above: str, tls: Tls
) -> None:
    async with RawUpstream(tls=None if above == "plain" else tls.server) as upstream:
        root = {"plain": None, "untrusted": Authority("another").root.decode()}.get(above, tls.root)
        service = cluster("service", upstream.address, **({} if root is None else tls.upstream(root)))
        config = bootstrap([listener if below == "plain" else tls.downstream(listener)], [service])
        trusted = {not_trusted: tls.stranger}.get(kind, tls.client)
        async with running(config) as serving:
            if above == "gone":
                upstream.close()
            context = None if below == "plain" else trusted
            world = World(serving, upstream, lambda: client(serving.address, tls=context))
            await several(world, kind, 1)
            before = alive()
            await several(world, kind, 5)
            left = alive() - before
            assert not {name: number for name, number in left.items() if number > 2}


async def several(world: World, kind: Callable[[World], Awaitable[None]], times: int) -> None:
    """Until nothing is in flight any more."""
    for _ in range(times):
        await kind(world)
    await world.serving.settled()
    await asyncio.sleep(0.01)  # what is over is told to those who wait for it, in a turn or two
