"""One connection to a `grpc_server`, and the calls on it."""

import asyncio
import logging
import math
from typing import Final, Protocol

from pymesh.grpc.connection import window_for
from pymesh.grpc.events import Ended, HalfClosed, Message, Request, ServerEvent
from pymesh.grpc.server import ServerConnection
from pymesh.grpc.status import Code, RpcError, Status
from pymesh.http2.connection import Connection
from pymesh.http2.errors import ConnectionBrokenError
from pymesh_controlplane.grpc_call import Call, Methods
from pymesh_controlplane.grpc_callers import Caller, Callers

log = logging.getLogger("pymesh.grpc")

# Calls of one connection: a sidecar asks for every request it has, at once.
MAX_STREAMS: Final = 1000
# Bytes of a message on a stream. Proxies send log entries in batches of 16 KiB, and of a request its head.
MAX_MESSAGE: Final = 1024 * 1024
# Bytes of the message of a call that has one: a request's head, which has 60 KiB at most, with its claims and its
# certificate, some of it told twice.
MAX_QUESTION: Final = 256 * 1024
# Bytes of metadata, as HTTP/2 counts them: callers show certificates, not tokens.
MAX_METADATA: Final = 16 * 1024
# Bytes that all calls of a connection may send before any is dealt with: two windows of a stream.
CONNECTION_WINDOW: Final = 2 * window_for(MAX_MESSAGE)
# Bytes of one call that may wait for a client that does not take them, before the handler waits, too.
MAX_UNSENT: Final = 64 * 1024
# Seconds for a message to become whole, and for an answer to be taken. A message of a stream has up to twice as long.
MESSAGE_TIMEOUT: Final = 10.0
# Seconds: calls are looked at no more often than that.
TICK: Final = 0.02
# Seconds of silence after which a peer is asked for a sign of life, and for it to give one: a pod may have vanished.
PING_AFTER: Final = 30.0
PING_TIMEOUT: Final = 10.0
_PING: Final = b"pymesh!?"


class Server(Protocol):
    """What a connection needs of the server.

    Attributes:
        ending: whether clients are to go elsewhere.
    """

    methods: Methods
    callers: Callers
    links: "set[Link]"
    ending: bool

    def over(self) -> None:
        """A call or a connection is over."""


class Link(asyncio.Protocol):
    """One connection, and the calls on it."""

    def __init__(self, server: Server, tasks: asyncio.TaskGroup) -> None:
        self._server = server
        engine = Connection(
            client=False,
            window=window_for(MAX_MESSAGE),
            connection_window=CONNECTION_WINDOW,
            streams=MAX_STREAMS,
            header_bytes=MAX_METADATA,
        )
        self.connection = ServerConnection(limit=MAX_MESSAGE, engine=engine, limit_of=self._limit_of)
        self.peer = ""
        self._tasks = tasks
        self._caller = Caller("")
        self._held = 0  # as the caller's account knows it
        self._calls: dict[int, Call] = {}
        self._answered: set[Call] = set()  # those of them of which the client has yet to take the last
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._flushing = False  # there are answers to be written in a moment
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._heard = self._pinged = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._next_look = math.inf

    @property
    def answers(self) -> bool:
        """Whether there are calls that end by themselves."""
        return any(not call.streams for call in self._calls.values())

    async def room(self, stream_id: int) -> None:
        """Wait until the client takes what was sent before."""
        while self._transport is not None and (self._paused or self.connection.unsent(stream_id) > MAX_UNSENT):
            self._room.clear()
            await self._room.wait()

    def flush(self) -> None:
        """Write what the connection has to send."""
        self._count()
        if self._transport is not None and (data := self.connection.bytes_to_send()):
            self._transport.write(data)

    def take_leave(self) -> None:
        """Tell the client to go elsewhere."""
        self.connection.retire()
        self.flush()

    def end_calls(self, status: Status) -> None:
        """End all calls, and tell the client."""
        for call in tuple(self._calls.values()):
            self._fail(call, status)

    def close(self) -> None:
        """End the calls and the connection."""
        if self._transport is not None:
            self.connection.close()
            self.flush()
            if self._paused:
                self._transport.abort()  # which does not wait for who takes nothing
            else:
                self._transport.close()
        self.connection_lost(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        # uvloop's transports are no asyncio.Transport to isinstance, but have all of its methods.
        self._transport = transport  # type: ignore[assignment]
        host, port = transport.get_extra_info("peername")[:2]
        self.peer = f"ipv4:{host}:{port}"
        self._caller = self._server.callers.arrived(self.peer)
        self._server.links.add(self)
        self._heard = self._loop.time()
        self._look_at(self._heard + PING_AFTER)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        self._heard = self._loop.time()
        try:
            events = self.connection.receive(data)
        except ConnectionBrokenError as error:
            log.warning("%s breaks HTTP/2: %s", self.peer, error)
            self.close()
            return
        for event in events:
            self._handle(event)
        for call in [call for call in self._answered if not self.connection.unsent(call.stream_id)]:
            self._forget(call.stream_id)
        self._relieve()
        self.flush()
        self._room.set()

    def pause_writing(self) -> None:
        """The client does not read: neither do we, or its questions would fill our memory with answers."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._paused = False
        self._room.set()
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._transport = None
        self._room.set()
        if self._timer is not None:
            self._timer.cancel()
        self.connection.abort(str(exc or "the client has closed the connection"))
        for stream_id in tuple(self._calls):
            self._drop(stream_id)
        self._count()
        if self in self._server.links:
            self._server.links.remove(self)
            self._server.callers.left(self._caller)
            self._server.over()

    # --- Calls ---

    def _limit_of(self, method: str) -> int:
        found = self._server.methods.find(method)
        return MAX_MESSAGE if found is not None and found[1] else MAX_QUESTION

    def _handle(self, event: ServerEvent) -> None:
        match event:
            case Request():
                self._begin(event)
            case Message(stream_id, message):
                if (call := self._calls.get(stream_id)) is not None:
                    call.deliver(message)
            case HalfClosed(stream_id):
                if (call := self._calls.get(stream_id)) is not None:
                    call.close()
                    if not call.streams:
                        self._start(call, call.first())
            case Ended(stream_id):
                self._drop(stream_id)
            case _:
                pass  # it will take its leave when its calls are over; a sign of life is one, whatever it says

    def _begin(self, request: Request) -> None:
        found = self._server.methods.find(request.method)
        if found is None:
            status = Status(Code.UNIMPLEMENTED, f"{request.method} is not served here")
            self.connection.end(request.stream_id, status)
        elif refusal := self._server.callers.refusal(self._caller):
            self.connection.end(request.stream_id, Status(Code.RESOURCE_EXHAUSTED, refusal))
        else:
            behaviour, streams = found
            deadline = math.inf if request.timeout is None else self._heard + request.timeout
            call = Call(self, request, behaviour, streams=streams, deadline=deadline)
            self._calls[request.stream_id] = call
            self._server.callers.count(self._caller, +1)
            self._give_time(call, self._heard)
            if self._server.ending:  # not before: who is told so at once makes its call nowhere
                self.connection.retire()
            if streams:
                self._start(call, None)

    def _start(self, call: Call, message: bytes | None) -> None:
        if message is None and not call.streams:
            self._end(call, Status(Code.INTERNAL, "the call has no message"))
        else:
            call.task = self._tasks.create_task(self._run(call, message))

    async def _run(self, call: Call, message: bytes | None) -> None:
        status = Status(Code.OK)
        try:
            answer = await call.behaviour(message, call)
            if answer is not None:
                self.connection.send(call.stream_id, answer)
        except RpcError as error:
            status = error.status
        except Exception:
            log.exception("a call of %s failed", self.peer)
            status = Status(Code.UNKNOWN, "the handler failed; the service's log says why")
        self._end(call, status)
        if not self.answers:
            self.flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_answers)

    def _flush_answers(self) -> None:
        """What has become ready in a turn of the event loop: one write, and one record of TLS."""
        self._flushing = False
        self.flush()

    def _end(self, call: Call, status: Status) -> None:
        """From our side."""
        if call.answered or call.stream_id not in self._calls:
            return
        self.connection.end(call.stream_id, status)
        if not self.connection.unsent(call.stream_id):
            self._forget(call.stream_id)
            return
        call.answered, call.deadline = True, math.inf
        self._answered.add(call)
        self._give_time(call, self._loop.time())

    def _fail(self, call: Call, status: Status) -> None:
        """From our side, whatever its handler is at."""
        self._end(call, status)
        call.end()

    def _drop(self, stream_id: int) -> None:
        """From the client's."""
        if (call := self._forget(stream_id)) is not None:
            call.end()

    def _forget(self, stream_id: int) -> Call | None:
        call = self._calls.pop(stream_id, None)
        if call is not None:
            self._answered.discard(call)
            self._server.callers.count(self._caller, -1)
            self._server.over()
        return call

    # --- Memory ---

    def _count(self) -> None:
        held = self.connection.held
        self._caller.held += held - self._held
        self._held = held

    def _relieve(self) -> None:
        """Refuse calls while the address has too much here; the largest first, and only if this connection has more."""
        before = self._held
        self._count()
        while self._held > before and (excess := self._caller.excess):
            largest = max(self._calls.values(), key=lambda call: self.connection.held_by(call.stream_id))
            self._fail(largest, Status(Code.RESOURCE_EXHAUSTED, excess))
            self._count()

    # --- Time ---

    def _give_time(self, call: Call, now: float) -> None:
        """To become whole, or to be taken."""
        call.due = math.ceil(min(call.deadline, now + MESSAGE_TIMEOUT) / TICK) * TICK
        if call.due < self._next_look:
            self._look_at(call.due)

    def _look_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_look = due
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        """What has taken too long, and whether somebody is still there."""
        now = self._loop.time()
        for call in [call for call in self._calls.values() if call.due <= now]:
            self._hurry(call, now)
        silent = now - self._heard
        if silent >= PING_AFTER + PING_TIMEOUT:
            log.info("%s gives no sign of life", self.peer)
            self.close()
            return
        if silent >= PING_AFTER and self._pinged <= self._heard:
            self._pinged = now
            self.connection.ping(_PING)
        self.flush()
        patience = PING_AFTER if silent < PING_AFTER else PING_AFTER + PING_TIMEOUT
        dues = (call.due for call in self._calls.values())
        self._look_at(min(self._heard + patience, min(dues, default=math.inf)))

    def _hurry(self, call: Call, now: float) -> None:
        if call.answered:
            self.connection.give_up(call.stream_id)
            self._forget(call.stream_id)
        elif call.deadline <= now:
            self._fail(call, Status(Code.DEADLINE_EXCEEDED, "the call has taken longer than its client wants to wait"))
        elif call.stuck(unfinished=self.connection.unfinished(call.stream_id)):
            text = f"no whole message within {MESSAGE_TIMEOUT:g} s"
            self._fail(call, Status(Code.DEADLINE_EXCEEDED, text))
        elif call.streams:
            self._give_time(call, now)
        else:
            call.due = call.deadline
