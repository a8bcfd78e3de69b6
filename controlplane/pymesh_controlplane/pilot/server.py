"""pilot's server: the Aggregated Discovery Service, state of the world and delta, on grpc.aio.

Two loops run beside the streams: one takes new worlds from the source and waits until a burst of changes is over, the
other has one proxy after the other translated for. A stream reads what its proxy says and writes what its `Session`
wants said; neither ever waits for another proxy.

Translating is done in a thread: the first proxy of a new world may take a while (0.3 s for a thousand services that
nobody has seen before), and there is no good place to cut that into slices. The translation is pure and its inputs are
immutable, so nothing is shared with the event loop, which has its turn every few milliseconds meanwhile.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import grpc
import grpc.aio
from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from google.protobuf.message import DecodeError

from pymesh.errors import MeshError
from pymesh.grpc.framing import MAX_MESSAGE_BYTES
from pymesh.identity import Identity
from pymesh.xds import types
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.pilot import wire
from pymesh_controlplane.pilot.away import Away, still_away
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node, node_of
from pymesh_controlplane.pilot.push import Debounce, PushQueue
from pymesh_controlplane.pilot.session import PUSH_ORDER, RequestError, Session, Snapshot
from pymesh_controlplane.sources.base import Source
from pymesh_controlplane.tasks import until_first_ends

log = logging.getLogger("pymesh.pilot")

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"

# Requests of one stream: a burst (an Envoy that starts with thousands of clusters), then a rate per second. A proxy
# answers each of our responses once and asks for names as listeners and clusters come; more than this is a flood.
REQUEST_BURST: Final = 2_000
REQUEST_RATE: Final = 200
# Names of resources that are remembered as logged to be too large; beyond it they may be logged again.
MAX_TOLD: Final = 1_000
# Seconds for a stream to say its first word.
FIRST_REQUEST_TIMEOUT: Final = 30.0

ServerContext: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
# What a proxy is to know of a world. Called in a thread, for one proxy at a time.
Translate: TypeAlias = Callable[[Node, World], Snapshot]


class Origin(NamedTuple):
    """Where a stream comes from, and who the caller has proved to be; None where no proof is asked for (15010)."""

    address: str
    identity: Identity | None = None


# Tells the origin of a stream; raises StreamError for a caller that should have proved something and has not.
Authenticate: TypeAlias = Callable[[ServerContext], Awaitable[Origin]]


class StreamError(MeshError):
    """A stream that is refused or cut off: the gRPC status, the sentence, and the word it is counted under."""

    def __init__(self, code: grpc.StatusCode, sentence: str, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(sentence)


@dataclass(slots=True, eq=False)
class Connection:
    """A proxy that is connected. Times are seconds of the server's clock.

    Attributes:
        revision: of the world that the session's newest resources are of; empty before the first.
    """

    number: int
    node: Node
    origin: Origin
    session: Session
    since: float
    revision: str = ""
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class DiscoveryServer:
    """Serves the worlds of a source to the proxies that connect.

    Attributes:
        world: the newest one, None until the source has told the first.
        away: services that are away in it (`pilot/away.py`), and since when, by the server's clock.
        connections: by number, in the order in which they came.
    """

    def __init__(self, translate: Translate, metrics: Metrics, clock: Callable[[], float]) -> None:
        self.world: World | None = None
        self.away: dict[Away, float] = {}
        self.connections: dict[int, Connection] = {}
        self._translate = translate
        self._metrics = metrics
        self._clock = clock
        self._numbers = itertools.count(1)
        self._debounce = Debounce()
        self._changed = asyncio.Event()
        self._queue = PushQueue()
        self._queued = asyncio.Event()
        self._told: set[tuple[str, str]] = set()  # type and name of what was logged to be too large

    async def run(self, source: Source) -> None:
        """Follow `source` and push, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(source))
            tasks.create_task(self._announce())
            tasks.create_task(self._push())

    def handler(self, authenticate: Authenticate) -> grpc.GenericRpcHandler:
        """The gRPC service for one listener, whose callers `authenticate` tells."""

        async def sotw(_: object, context: ServerContext) -> None:
            await self._stream(context, authenticate, delta=False)

        async def delta(_: object, context: ServerContext) -> None:
            await self._stream(context, authenticate, delta=True)

        # Messages stay bytes here: what cannot be decoded is then ours to refuse, with a sentence and a count.
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(sotw),
                "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(delta),
            },
        )

    async def _follow(self, source: Source) -> None:
        async for world in source.watch():
            self._metrics.count("pilot_push_triggers")
            known = set() if self.world is None else set(self.world.problems)
            for problem in world.problems:
                if problem not in known:
                    log.warning("%s", problem)
            self.world = world
            self.away = still_away(self.away, world, self._clock())
            self._debounce.changed(self._clock())
            self._changed.set()

    async def _announce(self) -> None:
        """Queue every proxy once a burst of changes is over."""
        while True:
            await self._changed.wait()
            due = self._debounce.due()
            if due is not None:
                await asyncio.sleep(max(0.0, due - self._clock()))
            if (changed_at := self._debounce.take(self._clock())) is not None:
                self._changed.clear()
                self._enqueue(list(self.connections), changed_at)

    def _enqueue(self, proxies: list[int], changed_at: float) -> None:
        self._queue.add(proxies, changed_at)
        self._queued.set()

    async def _push(self) -> None:
        """Have one proxy at a time translated for."""
        while True:
            await self._queued.wait()
            entry = self._queue.pop()
            if entry is None:
                self._queued.clear()
                continue
            number, changed_at = entry
            if (connection := self.connections.get(number)) is not None and self.world is not None:
                await self._refresh(connection, self.world, changed_at)

    async def _refresh(self, connection: Connection, world: World, changed_at: float) -> None:
        try:
            snapshot = await asyncio.to_thread(self._translate, connection.node, world)
        except Exception:  # whatever is wrong with one proxy's translation must not stop the others'
            self._metrics.count("pilot_translate_errors")
            log.exception("%s: translation failed; what it has stays in force", connection.node.id)
            return
        if connection.origin.identity is None:  # who has proved nothing gets nobody's keys
            snapshot = {kind: resources for kind, resources in snapshot.items() if kind != types.SECRET}
        before = connection.session.left_out
        connection.session.update(snapshot, changed_at)
        self._tell_left_out(connection, before)
        connection.revision = world.revision
        connection.wake.set()

    def _tell_left_out(self, connection: Connection, before: Mapping[str, frozenset[str]]) -> None:
        """Count what one more proxy is not sent, and log it once for all of them."""
        for kind, names in connection.session.left_out.items():
            new = names - before.get(kind, frozenset())
            self._metrics.count("pilot_xds_too_large", short_name(kind), by=len(new))
            for name in sorted(new):
                if (kind, name) in self._told:
                    continue
                if len(self._told) >= MAX_TOLD:
                    self._told.clear()
                self._told.add((kind, name))
                log.error(
                    "%s %s is not sent to %s and maybe others: with it a message is larger than the %d bytes that a "
                    "proxy takes. What they have of it stays in force; make the configuration behind it smaller",
                    short_name(kind), name, connection.node.id, MAX_MESSAGE_BYTES,
                )  # fmt: skip

    async def _stream(self, context: ServerContext, authenticate: Authenticate, *, delta: bool) -> None:
        address = context.peer()
        try:
            origin = await authenticate(context)
            address = origin.address
            first = await self._first(context, delta=delta)
            if first is not None:
                await self._connected(context, _node(wire.node_in(first), origin.identity), origin, first, delta=delta)
        except StreamError as error:
            self._metrics.count("pilot_xds_refused", error.reason)
            log.warning("stream of %s refused: %s", address, error)
            await context.abort(error.code, str(error))

    async def _first(self, context: ServerContext, *, delta: bool) -> wire.RequestMessage | None:
        try:
            async with asyncio.timeout(FIRST_REQUEST_TIMEOUT):
                return await _receive(context, delta=delta)
        except TimeoutError as error:
            raise StreamError(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no request within {FIRST_REQUEST_TIMEOUT:g} s", "silent"
            ) from error

    async def _connected(
        self, context: ServerContext, node: Node, origin: Origin, first: wire.RequestMessage, *, delta: bool
    ) -> None:
        now = self._clock()
        connection = Connection(next(self._numbers), node, origin, Session(delta), now)
        self.connections[connection.number] = connection
        self._metrics.set("pilot_xds", len(self.connections))
        log.info("%s connected (%s, %.64r)", node.id, "delta" if delta else "state of the world", node.user_agent)
        try:
            self._enqueue([connection.number], now)
            await until_first_ends(self._read(context, connection, first), self._write(context, connection))
        finally:
            del self.connections[connection.number]
            self._queue.remove(connection.number)
            self._metrics.set("pilot_xds", len(self.connections))
            log.info("%s disconnected", node.id)

    async def _read(self, context: ServerContext, connection: Connection, first: wire.RequestMessage) -> None:
        budget = RequestBudget(self._clock())
        message: wire.RequestMessage | None = first
        while message is not None:
            now = self._clock()
            if not budget.take(now):
                raise StreamError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {REQUEST_RATE} requests a second", "flood"
                )
            if message.type_url in PUSH_ORDER:
                self._take(connection, message, now)
            else:
                self._metrics.count("pilot_xds_unknown_types")
                log.debug("%s asks for %.200r, which pilot does not serve", connection.node.id, message.type_url)
            message = await _receive(context, delta=connection.session.delta)

    def _take(self, connection: Connection, message: wire.RequestMessage, now: float) -> None:
        session = connection.session
        expired, refusals = session.expired, session.refusals
        try:
            session.request(wire.request_of(message), now)
        except RequestError as error:
            raise StreamError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), "names") from error
        kind = short_name(message.type_url)
        if session.expired > expired:
            self._metrics.count("pilot_xds_expired_nonce", kind)
        if session.refusals > refusals:
            self._metrics.count("pilot_total_xds_rejects")
            self._metrics.count("pilot_xds_rejects", kind)
            reason = session.subscriptions[message.type_url].error
            log.warning("%s refused %s: %r", connection.node.id, kind, reason)
        connection.wake.set()

    async def _write(self, context: ServerContext, connection: Connection) -> None:
        session = connection.session
        while True:
            connection.wake.clear()
            now = self._clock()
            for response in session.responses(now):
                self._metrics.count("pilot_xds_pushes", short_name(response.type_url))
                await context.write(wire.encode_response(response, delta=session.delta))
            if (seconds := session.converged(self._clock())) is not None:
                self._metrics.converged(seconds)
            deadline = session.deadline(now)
            try:
                async with asyncio.timeout(None if deadline is None else max(0.0, deadline - self._clock())):
                    await connection.wake.wait()
            except TimeoutError:
                log.info("%s has not taken its clusters; the rest is sent without waiting", connection.node.id)


class RequestBudget:
    """A token bucket for the requests of one stream."""

    def __init__(self, now: float, burst: float = REQUEST_BURST, rate: float = REQUEST_RATE) -> None:
        self._burst = self._left = burst
        self._rate = rate
        self._at = now

    def take(self, now: float) -> bool:
        """Spend one request at `now`; False if none is left."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def short_name(type_url: str) -> str:
    """`cds`, `eds`, `lds`, `rds` or `sds`: what Istio's metrics and tables call the types."""
    return _SHORT[type_url]


_SHORT: Final = dict(zip(PUSH_ORDER, ("cds", "eds", "lds", "rds", "sds"), strict=True))


async def _receive(context: ServerContext, *, delta: bool) -> wire.RequestMessage | None:
    """The next request, None when the proxy has said all it will."""
    data: object = await context.read()
    if not isinstance(data, bytes):  # grpc.aio.EOF
        return None
    try:
        return wire.decode_request(data, delta=delta)
    except DecodeError as error:
        raise StreamError(
            grpc.StatusCode.INVALID_ARGUMENT, "a message on the stream is no discovery request", "garbage"
        ) from error


def _node(message: NodeMessage | None, identity: Identity | None) -> Node:
    """Who connects; where an identity was proved, it must be the node's."""
    if message is None:
        raise StreamError(grpc.StatusCode.INVALID_ARGUMENT, "the first request of a stream needs a node", "node")
    try:
        node = node_of(message)
    except ValueError as error:
        raise StreamError(grpc.StatusCode.INVALID_ARGUMENT, str(error), "node") from error
    if identity is not None and (node.namespace, node.service_account) != (
        identity.namespace,
        identity.service_account,
    ):
        raise StreamError(
            grpc.StatusCode.PERMISSION_DENIED,
            f"the node says namespace {node.namespace!r} and service account {node.service_account!r}, "
            f"and the caller has proved to be {identity}",
            "identity",
        )
    return node
