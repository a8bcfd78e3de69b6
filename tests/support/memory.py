"""The data path between transports in memory: the test says when a side takes no more, ends, or is lost.

    proxy = MemoryProxy()
    client = proxy.client()
    client.receive(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    upstream = await proxy.upstream()

Connection, exchange, pool and timers are the real ones; only sockets and the loop's `create_connection` are not.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from pymesh_proxy.config.model import (
    CircuitLimits,
    Cluster,
    Direction,
    Discovery,
    HttpManager,
    Listener,
    Snapshot,
    TcpProxy,
)
from pymesh_proxy.connection import DownstreamConnection
from pymesh_proxy.control.secrets import SecretStore
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.origin import Origin
from pymesh_proxy.relay import Relay
from pymesh_proxy.routing import Forward, Route, RouteTable, VirtualHost
from pymesh_proxy.runtime import Runtime
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.transport.half import Half
from pymesh_proxy.upstream.endpoint import Endpoint
from tests.support.peers import DEADLINE


class MemoryTransport(asyncio.Transport):
    """A transport whose other end is the test.

    Attributes:
        written: what the protocol wrote and the test has not taken; in so many `writes` since the beginning.
        reading: whether the protocol wants to be fed.
        ended: the protocol said its last (`write_eof`).
        closed, aborted: it closed, in order or at once; then `connection_lost` follows, as from a loop.
    """

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = bytearray()
        self.reading = True
        self.ended = self.closed = self.aborted = self.lost = False
        self.full = False
        self.writes = 0

    def connect(self) -> None:
        """Make the connection."""
        self.protocol.connection_made(self)

    # --- What the test does ---

    def receive(self, data: bytes, *, late: bool = False) -> None:
        """The other end sent `data`; it must be wanted, unless it is `late`: on its way when reading was paused."""
        assert self.reading or late, "fed while it does not read"
        if not self.is_closing():
            self.protocol.data_received(data)

    def receive_eof(self) -> None:
        """The other end said its last."""
        if not self.protocol.eof_received():
            self.close()

    def reset(self) -> None:
        """The other end broke off."""
        self._lose(ConnectionResetError("reset"))

    def fill(self) -> None:
        """The other end takes no more."""
        self.full = True
        self.protocol.pause_writing()

    def drain(self) -> None:
        """The other end takes more again."""
        self.full = False
        self.protocol.resume_writing()

    def take(self) -> bytes:
        """What was written since the last time."""
        data, self.written = bytes(self.written), bytearray()
        return data

    # --- asyncio.Transport ---

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.WriteTransport."""
        if not self.is_closing():
            assert not self.ended, "written after its end"
            self.written += data
            self.writes += 1

    def writelines(self, list_of_data: Any) -> None:
        """See asyncio.WriteTransport."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """See asyncio.WriteTransport."""
        self.ended = True

    def can_write_eof(self) -> bool:
        """See asyncio.WriteTransport."""
        return True

    def get_write_buffer_size(self) -> int:
        """See asyncio.WriteTransport."""
        return len(self.written) if self.full else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio.WriteTransport."""

    def pause_reading(self) -> None:
        """See asyncio.ReadTransport."""
        self.reading = False

    def resume_reading(self) -> None:
        """See asyncio.ReadTransport."""
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.BaseTransport."""
        return {"sockname": ("192.0.2.1", 1), "peername": ("192.0.2.2", 2)}.get(name, default)

    def is_closing(self) -> bool:
        """See asyncio.BaseTransport."""
        return self.closed or self.aborted or self.lost

    def close(self) -> None:
        """See asyncio.BaseTransport."""
        if not self.is_closing():
            self.closed = True
            if not self.full:
                asyncio.get_running_loop().call_soon(self._lose, None)

    def abort(self) -> None:
        """See asyncio.WriteTransport."""
        if not self.aborted and not self.lost:
            self.aborted = True
            asyncio.get_running_loop().call_soon(self._lose, None)

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connection_lost(error)


class _Loop:
    """The running loop, with connections in memory."""

    def __init__(self, connected: Callable[[MemoryTransport], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._connected = connected
        self.refuse = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], *_: object, **__: object
    ) -> tuple[MemoryTransport, asyncio.Protocol]:
        """See asyncio.AbstractEventLoop."""
        if self.refuse:
            self.refuse -= 1
            raise ConnectionRefusedError(111, "Connection refused")
        protocol = factory()
        transport = MemoryTransport(protocol)
        transport.connect()
        self._connected(transport)
        return transport, protocol


class MemoryProxy:
    """A runtime with one cluster and one route to it."""

    def __init__(
        self,
        action: Forward | None = None,
        *,
        endpoints: int = 1,
        limits: CircuitLimits | None = None,
        filters: Sequence[HttpFilter] = (),
        **manager: Any,
    ) -> None:
        self._upstreams: asyncio.Queue[MemoryTransport] = asyncio.Queue()
        self.loop = _Loop(self._upstreams.put_nowait)
        self.runtime = Runtime(cast("asyncio.AbstractEventLoop", self.loop), lambda: 0.0, SecretStore())
        self.endpoints = tuple(Endpoint("192.0.2.9", 80 + number) for number in range(endpoints))
        self.cluster = Cluster("service", Discovery.STATIC, endpoints=self.endpoints, limits=limits or CircuitLimits())
        chosen = Route("route", "all", "", lambda _: True, action or Forward((("service", 1),)))
        table = RouteTable("table", [VirtualHost("all", ("*",), (chosen,))])
        self.manager = HttpManager("memory", table, "", filters=tuple(filters), **manager)
        self.runtime.snapshot = Snapshot(1, {}, {}, {"service": self.cluster})
        self.runtime.upstreams.follow(self.runtime.snapshot.clusters)

    @property
    def state(self) -> Any:
        """The cluster's state."""
        return self.runtime.upstreams.state(self.cluster)

    def client(self) -> MemoryTransport:
        """A new downstream connection."""
        facts = Facts("outbound", "10.0.0.1:1", "10.0.0.2:2")
        origin = Origin(self, self.runtime.generation, Direction.OUTBOUND, ("10.0.0.3", 80))
        transport = MemoryTransport(DownstreamConnection(self.runtime, self.manager, lambda _: facts, origin))
        transport.connect()
        return transport

    def listener(self, direction: Direction) -> Listener | None:
        """See origin.Entrance: the only one, if there is any."""
        return next(iter(self.runtime.snapshot.listeners.values()), None)

    def opaque(self, proxy: TcpProxy, facts: Facts, origin: Origin) -> Half:
        """See origin.Entrance."""
        return Relay(self.runtime, proxy, facts, origin).on_accept(lambda _: facts)

    async def upstream(self) -> MemoryTransport:
        """The next upstream connection that is made."""
        async with asyncio.timeout(DEADLINE):
            transport = await self._upstreams.get()
        await turn()  # let it be handed to who asked for it
        return transport

    @property
    def connections(self) -> int:
        """Upstream connections made and not taken by `upstream`."""
        return self._upstreams.qsize()

    def settled(self) -> None:
        """Nothing is in flight by any count."""
        state, stats = self.state, self.runtime.stats.http["memory"]
        assert (state.requests, len(state.waiting), stats.rq_active, state.stats.rq_active) == (0, 0, 0, 0)
        assert [endpoint.active for endpoint in self.endpoints] == [0] * len(self.endpoints)
        idle = sum(len(endpoint.idle) for endpoint in self.endpoints)
        assert state.connections == state.stats.cx_active == idle
        assert stats.cx_active == len(self.runtime.connections)


async def turn(times: int = 5) -> None:
    """Let what is scheduled happen."""
    for _ in range(times):
        await asyncio.sleep(0)
