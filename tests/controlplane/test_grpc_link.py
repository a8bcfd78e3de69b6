"""What one client can do to the server behind port 9091, and to others: a bare HTTP/2 client without manners."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest

from pymesh.grpc.framing import encode_frame
from pymesh_controlplane import grpc_callers, grpc_link
from pymesh_controlplane.grpc_link import CONNECTION_WINDOW, MAX_MESSAGE, MAX_QUESTION, MAX_UNSENT
from tests.controlplane.test_grpc_server import Served, serving
from tests.support.waiting import eventually

OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 4, 8
TOO_LONG = "no whole message within 0.1 s"


class Raw:
    """A client that sends what it is told to.

    Attributes:
        ended: how calls ended: grpc-status and grpc-message.
        reset: streams that the server has reset, and why.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.h2 = h2.connection.H2Connection()
        self.ended: dict[int, tuple[int, str]] = {}
        self.reset: dict[int, int] = {}
        self.gone = False
        self.reader, self.writer = reader, writer

    def begin(self, method: str, *more: tuple[str, str]) -> int:
        stream = self.h2.get_next_available_stream_id()
        head = [
            (":method", "POST"), (":scheme", "http"), (":path", f"/t/{method}"), (":authority", "policy"),
            ("content-type", "application/grpc"), ("te", "trailers"), *more,
        ]  # fmt: skip
        self.h2.send_headers(stream, head)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> int:
        """As much of it as the server takes; how much that is."""
        sent = 0
        while (room := min(self.h2.local_flow_control_window(stream), 16_384, len(data) - sent)) > 0:
            self.h2.send_data(stream, data[sent : sent + room])
            sent += room
        if end and sent == len(data):
            self.h2.end_stream(stream)
        self.flush()
        return sent

    def ask(self, method: str, message: bytes, *more: tuple[str, str]) -> int:
        stream = self.begin(method, *more)
        self.send(stream, encode_frame(message), end=True)
        return stream

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    async def run(self) -> None:
        """Read until the server closes."""
        while data := await self.reader.read(65_536):
            for event in self.h2.receive_data(data):
                match event:
                    case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                        found = {bytes(name): bytes(value) for name, value in event.headers}
                        if b"grpc-status" in found:
                            text = found.get(b"grpc-message", b"").decode()
                            self.ended[event.stream_id] = int(found[b"grpc-status"]), text
                    case h2.events.StreamReset():
                        self.reset[event.stream_id] = int(event.error_code)
            self.flush()
        self.gone = True


@contextlib.asynccontextmanager
async def raw(served: Served, host: str = "127.0.0.1", window: int = 65_535) -> AsyncIterator[Raw]:
    """A connection from the address `host`, whose streams take `window` bytes each."""
    client = Raw(*await asyncio.open_connection("127.0.0.1", served.port, local_addr=(host, 0)))
    client.h2.initiate_connection()
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    client.flush()
    reading = asyncio.get_running_loop().create_task(client.run())
    try:
        await eventually(lambda: client.h2.remote_settings.initial_window_size > 65_535, what="the server's settings")
        yield client
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        client.writer.close()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(400) as found:
        yield found


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_link, "MESSAGE_TIMEOUT", 0.1)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_link, "MESSAGE_TIMEOUT", 60.0)


def half(size: int) -> bytes:
    """A message of this size without its last byte."""
    return encode_frame(bytes(size))[:-1]


# --- Memory ---


@pytest.mark.parametrize(("method", "size"), [("Echo", MAX_QUESTION), ("Count", MAX_MESSAGE)])
async def test_one_connection_has_one_window_for_all_that_is_not_whole(
    served: Served, patient: None, method: str, size: int
) -> None:
    async with raw(served) as client:
        sent = 0
        for _ in range(CONNECTION_WINDOW // size + 4):
            sent += client.send(client.begin(method), half(size))
        assert sent == CONNECTION_WINDOW
        await eventually(lambda: held(served) > CONNECTION_WINDOW * 9 // 10)
        assert not client.ended


def held(served: Served) -> int:
    return sum(link.connection.held for link in served.server.links)


async def test_a_window_that_is_full_of_halves_opens_again(served: Served, hurried: None) -> None:
    """They have had their time; nothing is stuck for good."""
    async with raw(served) as client:
        halves = [client.begin("Echo") for _ in range(CONNECTION_WINDOW // MAX_QUESTION + 1)]
        for stream in halves:
            client.send(stream, half(MAX_QUESTION))
        await eventually(lambda: len(client.ended) == len(halves))
        assert set(client.ended.values()) == {(DEADLINE_EXCEEDED, TOO_LONG)}
        asked = client.ask("Echo", b"x" * 60_000)
        await eventually(lambda: asked in client.ended)
        assert client.ended[asked] == (OK, "")
        assert held(served) == 0


async def test_what_one_address_makes_us_hold_is_bounded_over_all_its_connections(
    served: Served, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_callers, "MAX_HELD", 250_000)
    async with raw(served) as first, raw(served) as second, raw(served, "127.0.0.2") as other:
        for client, size in ((first, 100_000), (first, 50_000), (other, 200_000)):
            client.send(client.begin("Echo"), half(size))
        await eventually(lambda: held(served) > 340_000)
        small, large = second.begin("Echo"), second.begin("Echo")
        second.send(small, half(20_000))
        second.send(large, half(90_000))
        await eventually(lambda: second.ended)
        code, text = second.ended.pop(large)
        assert code == RESOURCE_EXHAUSTED
        assert text.startswith("ipv4:127.0.0.1 has ")
        assert text.endswith(" bytes of messages here: 250000 are the most of one address")
        assert [client.ended for client in (first, second, other)] == [{}, {}, {}]
        second.send(small, b"\0", end=True)
        await eventually(lambda: second.ended == {small: (OK, "")})


async def test_a_question_counts_until_it_is_answered(served: Served) -> None:
    async with raw(served) as client:
        asked = client.ask("Slow", bytes(50_000))
        await eventually(lambda: served.begun == 1)
        assert held(served) > 50_000
        served.release.set()
        await eventually(lambda: client.ended == {asked: (OK, "")})
        assert held(served) == 0


async def test_a_window_opens_again_when_the_handler_reads_on(served: Served) -> None:
    """At once, though the client has nothing to say meanwhile."""
    async with raw(served) as client:
        stream = client.begin("Late")
        sent = client.send(stream, encode_frame(bytes(1000)) * 3000)
        assert sent < 3_000_000, "the window is closed"
        await eventually(lambda: held(served) == sent)
        served.release.set()
        await eventually(lambda: client.h2.local_flow_control_window(stream) > 0)


async def test_a_question_is_smaller_than_what_is_streamed(served: Served) -> None:
    async with raw(served) as client:
        too_large, stream = client.begin("Echo"), client.begin("Count")
        client.send(too_large, half(MAX_QUESTION + 1))
        client.send(stream, encode_frame(bytes(MAX_MESSAGE)), end=True)
        await eventually(lambda: len(client.ended) == 2)
        sizes = f"a message of {MAX_QUESTION + 1} bytes is larger than the limit of {MAX_QUESTION}"
        assert client.ended == {too_large: (RESOURCE_EXHAUSTED, sizes), stream: (OK, "")}


async def test_metadata_is_bounded_before_settings_are_agreed_on(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    client = Raw(reader, writer)
    client.h2.initiate_connection()
    client.begin("Echo", *((f"x-{number}", "v" * 2000) for number in range(10)))
    async with asyncio.timeout(5):
        await reader.read()
    writer.close()
    await eventually(lambda: not served.server.links)


async def test_a_handler_waits_for_who_does_not_take_what_it_writes(served: Served) -> None:
    """The connection is read all the while, only this stream's window is closed."""
    async with raw(served, window=0) as client:
        stream = client.begin("Flood")
        await eventually(lambda: served.written >= MAX_UNSENT)
        asked = client.ask("Hang", b"")
        await eventually(lambda: served.begun == 1)
        assert served.written <= MAX_UNSENT + 16_384
        client.h2.increment_flow_control_window(40_000, stream)
        client.flush()
        await eventually(lambda: served.written > MAX_UNSENT + 16_384)
        for each in (stream, asked):
            client.h2.reset_stream(each)
        client.flush()
        await eventually(lambda: served.left == 1)


async def test_an_answer_that_is_not_taken_counts_and_has_its_time(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_link, "MESSAGE_TIMEOUT", 0.5)
    async with raw(served, window=0) as client:
        late, taken = client.ask("Echo", b"a"), client.ask("Slow", b"b")
        served.release.set()
        await eventually(lambda: served.left == 1)
        assert served.server.callers.calls == 2
        client.h2.increment_flow_control_window(1000, taken)
        client.flush()
        await eventually(lambda: late in client.reset)
        assert client.reset[late] == h2.errors.ErrorCodes.CANCEL
        assert client.ended == {taken: (OK, "")}
        await eventually(lambda: served.server.callers.calls == 0)


async def test_who_takes_nothing_does_not_keep_the_connection(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is more to be said than fits between, and nobody waits until it is taken."""
    monkeypatch.setattr(grpc_link, "PING_AFTER", 0.2)
    monkeypatch.setattr(grpc_link, "PING_TIMEOUT", 0.1)
    client = Raw(*await asyncio.open_connection("127.0.0.1", served.port))  # whose transport reads 128 KiB ahead
    client.h2.initiate_connection()
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
    client.h2.increment_flow_control_window(2**30)
    client.begin("Flood")
    await eventually(lambda: served.written)
    await eventually(lambda: not served.server.links)

    def cut() -> bool:
        client.writer.write(b"\0")
        return client.writer.transport.is_closing()

    await eventually(cut)


# --- Calls ---


async def test_no_more_calls_than_there_may_be() -> None:
    """And no more of one address than a quarter of them."""
    async with serving(8) as served, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(raw(served, f"127.0.0.{number}")) for number in range(1, 6)]
        first = [client.ask("Hang", b"") for client in clients[:4] for _ in range(2)]
        await eventually(lambda: served.begun == 8)
        refused = clients[4].ask("Echo", b"")
        await eventually(lambda: clients[4].ended == {refused: (RESOURCE_EXHAUSTED, "too many calls at once")})
        clients[0].h2.reset_stream(first[0])
        clients[0].flush()
        await eventually(lambda: served.server.callers.calls == 7)
        refused = clients[1].ask("Echo", b"")
        text = "too many calls of ipv4:127.0.0.2: 2 at once are the most of one address"
        await eventually(lambda: clients[1].ended == {refused: (RESOURCE_EXHAUSTED, text)})
        for client in (clients[4], clients[0]):
            asked = client.ask("Echo", b"now")
            await eventually(lambda: client.ended.get(asked) == (OK, ""))  # noqa: B023  asked at once


async def test_nine_silent_connections_keep_nobody_out(served: Served, patient: None) -> None:
    """A quarter of all calls is theirs, for as long as they like."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(raw(served)) for _ in range(9)]
        for client in clients:
            for _ in range(50):
                client.begin("Echo")
        await eventually(lambda: sum(len(client.ended) for client in clients) == 9 * 50 - 100)
        refused = {status for client in clients for status in client.ended.values()}
        text = "too many calls of ipv4:127.0.0.1: 100 at once are the most of one address"
        assert refused == {(RESOURCE_EXHAUSTED, text)}
        other = await stack.enter_async_context(raw(served, "127.0.0.2"))
        asked = other.ask("Echo", b"x")
        await eventually(lambda: other.ended == {asked: (OK, "")})


# --- Time ---


async def test_a_call_that_says_nothing_is_over_in_time(served: Served, hurried: None) -> None:
    """Nothing, half a message, a whole one without an end; what was asked well is not hurried."""
    async with raw(served) as client:
        silent, part, endless = client.begin("Echo"), client.begin("Echo"), client.begin("Echo")
        client.send(part, half(100))
        client.send(endless, encode_frame(b"x"))
        asked = client.ask("Slow", b"")
        await eventually(lambda: len(client.ended) == 3)
        assert client.ended == dict.fromkeys((silent, part, endless), (DEADLINE_EXCEEDED, TOO_LONG))
        assert served.server.callers.calls == 1
        served.release.set()
        await eventually(lambda: client.ended.get(asked) == (OK, ""))


async def test_a_stream_may_be_silent_and_its_messages_not_half(served: Served, hurried: None) -> None:
    async with raw(served) as client:
        idle, ignored, stuck = client.begin("Repeat"), client.begin("Ignore"), client.begin("Repeat")
        client.send(ignored, encode_frame(b"x") + half(100))  # it is us who do not read on
        client.send(stuck, encode_frame(b"whole") + half(100))
        await eventually(lambda: client.ended)
        assert client.ended == {stuck: (DEADLINE_EXCEEDED, TOO_LONG)}
        client.send(idle, encode_frame(b"x"), end=True)
        await eventually(lambda: client.ended.get(idle) == (OK, ""))
        assert ignored not in client.ended


@pytest.mark.parametrize(("method", "finish"), [("Hang", True), ("Repeat", False), ("Echo", False)])
async def test_nothing_is_done_for_a_client_that_does_not_want_it_any_more(
    served: Served, patient: None, method: str, finish: bool
) -> None:
    """By its grpc-timeout; it does not say so once more."""
    async with raw(served) as client:
        asked = client.begin(method, ("grpc-timeout", "50m"))
        if finish:
            client.send(asked, encode_frame(b""), end=True)
        longer = client.ask("Slow", b"", ("grpc-timeout", "99999999H"))
        await eventually(lambda: asked in client.ended)
        assert client.ended == {asked: (DEADLINE_EXCEEDED, "the call has taken longer than its client wants to wait")}
        await eventually(lambda: served.server.callers.calls == 1)
        served.release.set()
        await eventually(lambda: client.ended.get(longer) == (OK, ""))
