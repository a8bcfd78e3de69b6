"""Nothing that requests and connections leave behind is for the garbage collector, which does not look at all of it.

After a push everything there is is frozen (control/pace.py): what then becomes a cycle of garbage would stay for ever.
"""

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest

from pymesh_proxy.attempts import Attempts
from pymesh_proxy.connection import DownstreamConnection
from pymesh_proxy.errors import ProxyError
from pymesh_proxy.exchange import Exchange
from pymesh_proxy.upstream.connection import UpstreamConnection
from tests.support.inprocess import Running, running, simple
from tests.support.peers import RawUpstream, client

Kind = Callable[[Running, RawUpstream], Awaitable[None]]
KINDS = (DownstreamConnection, UpstreamConnection, Exchange, Attempts, ProxyError)


@pytest.fixture
def collector() -> Iterator[None]:
    """Off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, KINDS))


async def answered(serving: Running, upstream: RawUpstream) -> None:
    async with client(serving.address) as peer:
        peer.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        served = await upstream.accept()
        await served.head()
        served.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        assert (await peer.head()).startswith(b"HTTP/1.1 200")


async def broken(serving: Running, upstream: RawUpstream) -> None:
    async with client(serving.address) as peer:
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx")
        served = await upstream.accept()
        await served.head()
        served.reset()
        assert (await peer.head()).startswith(b"HTTP/1.1 503")


async def refused(serving: Running, upstream: RawUpstream) -> None:
    async with client(serving.address) as peer:
        peer.send(b"GET / HTTP/1.1\r\nhost : a\r\n\r\n")
        assert (await peer.head()).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("kind", [answered, broken, refused])
@pytest.mark.usefixtures("collector")
async def test_a_connection_that_is_over_is_freed_at_once(kind: Kind) -> None:
    async with RawUpstream() as upstream, running(simple(upstream.address)) as serving:
        await kind(serving, upstream)
        await serving.settled()
        await asyncio.sleep(0)
        before = alive()
        for _ in range(10):
            await kind(serving, upstream)
        await serving.settled()
        await asyncio.sleep(0)
        assert not {name: number for name, number in (alive() - before).items() if number > 2}
