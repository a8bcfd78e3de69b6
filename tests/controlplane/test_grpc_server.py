"""The server behind port 9091, with grpcio's clients: every way in which a call can go.

What callers may not do is in test_grpc_link.py.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from pymesh.grpc.client import ClientConnection
from pymesh.grpc.events import Closing, Ended, Message
from pymesh.grpc.status import Code
from pymesh_controlplane import grpc_link, grpc_server
from pymesh_controlplane.grpc_call import Call
from pymesh_controlplane.grpc_server import GrpcServer
from tests.support.waiting import eventually


class Served:
    """Handlers of every kind that there is, and what became of their calls."""

    def __init__(self) -> None:
        self.begun = self.left = self.written = 0
        self.release = asyncio.Event()
        self.port = 0
        self.server: GrpcServer
        self.task: asyncio.Task[None]

    async def echo(self, message: bytes, call: Call) -> bytes:
        said = dict(call.invocation_metadata())
        return f"{message.decode()} {said.get('who', '')} {call.peer().rpartition(':')[0]}".encode()

    async def refuse(self, _: bytes, call: Call) -> bytes:
        await call.abort(grpc.StatusCode.PERMISSION_DENIED, "not you: ä")
        raise AssertionError("abort returns")

    async def fail(self, _: bytes, __: Call) -> bytes:
        raise ZeroDivisionError("a secret")

    async def hang(self, _: bytes, __: Call) -> bytes:
        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.left += 1
        return b""

    async def slow(self, message: bytes, _: Call) -> bytes:
        self.begun += 1
        await self.release.wait()
        self.left += 1
        return message

    async def late(self, _: object, call: Call) -> bytes:
        await self.release.wait()
        return await self.count(None, call)

    async def flood(self, _: object, call: Call) -> None:
        while True:
            await call.write(bytes(16_384))
            self.written += 16_384

    async def ignore(self, _: object, __: Call) -> None:
        await asyncio.Event().wait()

    async def count(self, _: object, call: Call) -> bytes:
        total = 0
        while isinstance(message := await call.read(), bytes):
            total += len(message)
        assert message is grpc.aio.EOF
        return b"%d" % total

    async def repeat(self, _: object, call: Call) -> None:
        while isinstance(message := await call.read(), bytes):
            await call.write(message)

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        one, into, both = (
            grpc.unary_unary_rpc_method_handler,
            grpc.stream_unary_rpc_method_handler,
            grpc.stream_stream_rpc_method_handler,
        )
        methods = {
            "Echo": one(self.echo), "Refuse": one(self.refuse), "Fail": one(self.fail), "Hang": one(self.hang),
            "Slow": one(self.slow), "Count": into(self.count), "Repeat": both(self.repeat), "Flood": both(self.flood),
            "Ignore": both(self.ignore), "Late": into(self.late),
        }  # fmt: skip
        return [grpc.method_handlers_generic_handler("other", {}), grpc.method_handlers_generic_handler("t", methods)]


@pytest.fixture(autouse=True)
def quick_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """grpcio keeps its connections for a while."""
    monkeypatch.setattr(grpc_server, "FAREWELL", 0.02)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(400) as found:
        yield found


@contextlib.asynccontextmanager
async def serving(max_calls: int) -> AsyncIterator[Served]:
    found = Served()
    listener = socket.create_server(("127.0.0.1", 0))
    found.port = listener.getsockname()[1]
    found.server = GrpcServer(found.handlers(), max_calls)
    async with asyncio.TaskGroup() as tasks:
        found.task = tasks.create_task(found.server.serve(listener))
        try:
            yield found
        finally:
            found.task.cancel()
    callers = found.server.callers
    assert (callers.calls, callers._by_address, found.server.links) == (0, {}, set())
    assert found.left == found.begun, "a handler goes with its call"


@pytest.fixture
async def channel(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as found:
        yield found


def unary(channel: grpc.aio.Channel, method: str) -> "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]":
    return channel.unary_unary(f"/t/{method}")


async def test_a_question_and_its_answer_with_metadata_and_peer(channel: grpc.aio.Channel) -> None:
    assert await unary(channel, "Echo")(b"hello", metadata=[("who", "me")]) == b"hello me ipv4:127.0.0.1"


async def test_hundreds_of_questions_at_once_on_one_connection(channel: grpc.aio.Channel) -> None:
    calls = [unary(channel, "Echo")(b"%d" % number) for number in range(90)]
    answers = await asyncio.gather(*calls)
    assert [answer.split()[0] for answer in answers] == [b"%d" % number for number in range(90)]


@pytest.mark.parametrize(
    ("method", "code", "details"),
    [
        ("Refuse", grpc.StatusCode.PERMISSION_DENIED, "not you: ä"),
        ("Fail", grpc.StatusCode.UNKNOWN, "the handler failed; the service's log says why"),
        ("Other", grpc.StatusCode.UNIMPLEMENTED, "/t/Other is not served here"),
    ],
)
async def test_how_calls_fail(channel: grpc.aio.Channel, method: str, code: grpc.StatusCode, details: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unary(channel, method)(b"")
    assert (caught.value.code(), caught.value.details()) == (code, details)
    assert await unary(channel, "Echo")(b"still there") == b"still there  ipv4:127.0.0.1"


async def test_a_call_without_a_message_and_one_that_is_too_large(channel: grpc.aio.Channel) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        for each in ():
            yield each

    with pytest.raises(grpc.aio.AioRpcError, match="the call has no message"):
        await channel.stream_unary("/t/Echo")(nothing())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unary(channel, "Echo")(bytes(grpc_link.MAX_QUESTION + 1))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_streams_of_messages(channel: grpc.aio.Channel) -> None:
    async def messages() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(200_000)  # more in all than any window

    assert await channel.stream_unary("/t/Count")(messages()) == b"4000000"
    sizes = [len(message) async for message in channel.stream_stream("/t/Repeat")(messages())]
    assert sizes == [200_000] * 20


async def test_a_handler_goes_with_its_client(served: Served, channel: grpc.aio.Channel) -> None:
    call = unary(channel, "Hang")(b"")
    await eventually(lambda: served.begun == 1)
    call.cancel()
    await eventually(lambda: (served.begun, served.left, served.server.callers.calls) == (1, 1, 0))


async def test_who_does_not_speak_http2_is_cut_off(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 3)
    async with asyncio.timeout(5):
        await reader.read()
    writer.close()
    await eventually(lambda: not served.server.links)


async def test_who_gives_no_sign_of_life_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_link, "PING_AFTER", 0.05)
    monkeypatch.setattr(grpc_link, "PING_TIMEOUT", 1.0)
    async with serving(8) as served, grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        hanging = unary(channel, "Hang")(b"")  # grpcio answers pings by itself
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        async with asyncio.timeout(5):
            assert b"pymesh!?" in await reader.read(), "the settings, a ping, and the goodbye"
        writer.close()
        await eventually(lambda: len(served.server.links) == 1)
        assert not hanging.done()


# --- The end ---


class Sidecar:
    """A connection as sidecars have it, and what came of its calls."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection = ClientConnection("policy")
        self.answers: dict[int, bytes] = {}
        self.ended: dict[int, Code] = {}
        self.closing: list[str] = []
        self._reader, self._writer = reader, writer

    def ask(self, method: str, message: bytes, *, finish: bool = True) -> int:
        stream = self.connection.open(f"/t/{method}")
        self.connection.send(stream, message)
        if finish:
            self.connection.finish(stream)
        self.flush()
        return stream

    def flush(self) -> None:
        self._writer.write(self.connection.bytes_to_send())

    async def run(self) -> None:
        """Read until the server closes."""
        self.flush()
        while data := await self._reader.read(65_536):
            for event in self.connection.receive(data):
                match event:
                    case Message(stream, message):
                        self.answers[stream] = message
                    case Ended(stream, status):
                        self.ended[stream] = status.code
                    case Closing(_, reason):
                        self.closing.append(reason)
                    case _:
                        pass
            self.flush()
        self._writer.close()


async def test_calls_under_way_are_answered_at_the_end_and_those_that_still_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rolling restart costs no answer: clients hear that they should go, and are served until they have."""
    monkeypatch.setattr(grpc_server, "FAREWELL", 0.2)
    async with serving(80) as served, asyncio.TaskGroup() as tasks:
        sidecar = Sidecar(*await asyncio.open_connection("127.0.0.1", served.port))
        reading = tasks.create_task(sidecar.run())
        slow, stream = sidecar.ask("Slow", b"late"), sidecar.ask("Repeat", b"held", finish=False)
        await eventually(lambda: served.begun == 1 and sidecar.answers == {stream: b"held"})
        served.task.cancel()
        await eventually(lambda: sidecar.closing)
        assert not sidecar.connection.accepts_calls, "the next call is made on another connection"
        async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
            assert await unary(channel, "Echo")(b"who has not heard") == b"who has not heard  ipv4:127.0.0.1"
        late = Sidecar(*await asyncio.open_connection("127.0.0.1", served.port))
        tasks.create_task(late.run())
        asked = late.ask("Echo", b"nor he")
        await eventually(lambda: late.closing and late.answers.get(asked) == b"nor he  ipv4:127.0.0.1")
        served.release.set()
        await reading
        assert sidecar.answers[slow] == b"late"
        assert sidecar.ended == {slow: Code.OK, stream: Code.UNAVAILABLE}
        await asyncio.wait([served.task])


async def test_the_end_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """For questions whose handlers do not end; streams are not waited for."""
    monkeypatch.setattr(grpc_server, "FAREWELL", 0.01)
    monkeypatch.setattr(grpc_server, "GRACE", 0.01)
    async with serving(80) as served, asyncio.TaskGroup() as tasks:
        sidecar = Sidecar(*await asyncio.open_connection("127.0.0.1", served.port))
        reading = tasks.create_task(sidecar.run())
        hanging = sidecar.ask("Hang", b"")
        await eventually(lambda: served.begun == 1)
        served.task.cancel()
        await reading
        assert sidecar.ended == {hanging: Code.UNAVAILABLE}
