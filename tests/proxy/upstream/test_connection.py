"""One upstream connection, in memory, at every split of its responses: what reaches the sink does not depend on it."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import MAX_HEAD_BYTES, MessageError, parse_response
from pymesh_proxy.upstream.connection import MAX_INFORMATIONAL, UpstreamConnection
from pymesh_proxy.upstream.endpoint import Endpoint
from tests.support.memory import MemoryTransport, turn


@dataclass
class Sink:
    """A response, as it came."""

    wanted: bool = True
    status: int = 0
    interim: list[int] = field(default_factory=list)
    body: bytes = b""
    ends: int = 0
    error: Exception | None = None
    pauses: list[str] = field(default_factory=list)

    def response_head(self, head: Head, framing: int | None, body: bytes) -> bool:
        """See connection.ResponseSink."""
        self.status = head.status
        self.body += body
        return self.wanted

    def informational(self, head: Head) -> None:
        """See connection.ResponseSink."""
        self.interim.append(head.status)

    def response_body(self, data: bytes) -> None:
        """See connection.ResponseSink."""
        assert data
        self.body += data

    def response_end(self) -> None:
        """See connection.ResponseSink."""
        self.ends += 1

    def upstream_failed(self, error: Exception) -> None:
        """See connection.ResponseSink."""
        self.error = error

    def upstream_pause(self) -> None:
        """See connection.ResponseSink."""
        self.pauses.append("pause")

    def upstream_resume(self) -> None:
        """See connection.ResponseSink."""
        self.pauses.append("resume")


def connected(sink: Sink | None, method: bytes = b"GET") -> tuple[UpstreamConnection, MemoryTransport, list[object]]:
    """A connection that has sent a request for `sink`, its transport, and whom it told that it was lost."""
    lost: list[object] = []
    connection = UpstreamConnection(Endpoint("192.0.2.1", 80), None, lost.append)
    transport = MemoryTransport(connection)
    transport.connect()
    if sink is not None:
        connection.begin(sink, method, b"request")
    return connection, transport, lost


CHUNKED = b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nt: 1\r\n\r\n"
RESPONSES = {
    "length": (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde", 200, b"abcde", [], True),
    "empty": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b"", [], True),
    "chunked": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED, 200, CHUNKED, [], True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", [], True),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\na: b\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
        200, b"a", [100, 103], True,
    ),
    "close": (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\na", 200, b"a", [], False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", 200, b"a", [], False),
}  # fmt: skip


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("step", [0, 1, 2, 3])
async def test_a_response_is_the_same_wherever_it_is_cut(name: str, step: int) -> None:
    data, status, body, interim, persistent = RESPONSES[name]
    cuts = range(1, len(data)) if step == 0 else [0]
    for cut in cuts:
        sink = Sink()
        connection, transport, _ = connected(sink)
        parts = [data[:cut], data[cut:]] if step == 0 else [data[i : i + step] for i in range(0, len(data), step)]
        for part in parts:
            transport.receive(part)
        assert (sink.status, sink.body, sink.interim, sink.ends, sink.error) == (status, body, interim, 1, None)
        connection.detach()
        assert connection.reusable is persistent


@pytest.mark.parametrize("data", [RESPONSES["length"][0], RESPONSES["chunked"][0]], ids=["length", "chunked"])
@pytest.mark.parametrize("error", [None, ConnectionResetError("reset")], ids=["eof", "reset"])
async def test_a_response_cut_short_is_a_failure_at_every_point(data: bytes, error: Exception | None) -> None:
    for cut in range(len(data)):
        sink = Sink()
        _, transport, lost = connected(sink)
        if cut:
            transport.receive(data[:cut])
        if error is None:
            transport.receive_eof()
        else:
            transport.reset()
        await turn(1)
        assert isinstance(sink.error, ConnectionResetError)
        assert sink.ends == 0
        assert len(lost) == 1


async def test_a_body_without_framing_ends_with_the_connection() -> None:
    sink = Sink()
    connection, transport, _ = connected(sink)
    transport.receive(b"HTTP/1.1 200 OK\r\n\r\nab")
    transport.receive(b"cd")
    assert sink.ends == 0
    transport.receive_eof()
    assert (sink.body, sink.ends) == (b"abcd", 1)
    assert not connection.reusable


async def test_a_response_that_is_not_wanted_is_not_continued() -> None:
    sink = Sink(wanted=False)
    connection, transport, _ = connected(sink)
    transport.receive(b"HTTP/1.1 503 No\r\ncontent-length: 5\r\n\r\nab")
    connection.close()  # as an exchange does that tries again
    await turn(1)
    transport.receive(b"cde")
    assert (sink.ends, sink.body, sink.error) == (0, b"ab", None)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 102 P\r\n\r\n" * (MAX_INFORMATIONAL + 1),
    ],
)
async def test_what_is_no_response_fails_once_and_closes(data: bytes) -> None:
    sink = Sink()
    connection, transport, lost = connected(sink)
    transport.receive(data)
    assert isinstance(sink.error, MessageError)
    assert transport.aborted
    assert not connection.reusable
    await turn(1)
    assert len(lost) == 1


async def test_interim_responses_are_counted_for_each_request_anew() -> None:
    sink = Sink()
    connection, transport, _ = connected(sink)
    for _ in range(3):
        transport.receive(b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INFORMATIONAL - 1) + RESPONSES["length"][0])
        connection.detach()
        connection.begin(sink, b"GET", b"request")
    assert sink.ends == 3
    assert sink.error is None


async def test_a_head_that_comes_byte_by_byte_is_not_looked_at_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def parse(data: bytes, *more: Any) -> Any:
        looks.append(len(data))
        return parse_response(data, *more)

    monkeypatch.setattr("pymesh_proxy.upstream.connection.parse_response", parse)
    sink = Sink()
    _, transport, _ = connected(sink)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: " + b"a" * 1000 + b"\r\n\r\n"
    for byte in head:
        transport.receive(bytes([byte]))
    assert (sink.status, sink.ends, len(looks)) == (200, 1, 1 + head.count(b"\n"))
    endless = Sink()
    _, transport, _ = connected(endless)
    transport.receive(b"HTTP/1.1 200 OK\r\nx: ")
    for _ in range(MAX_HEAD_BYTES // 1000 + 1):
        if not transport.is_closing():
            transport.receive(b"a" * 1000)
    assert isinstance(endless.error, MessageError)


async def test_what_comes_unasked_closes_an_idle_connection() -> None:
    connection, transport, _ = connected(None)
    transport.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert transport.aborted
    assert not connection.reusable


async def test_the_method_decides_whether_there_is_a_body() -> None:
    sink = Sink()
    connection, transport, _ = connected(sink, b"HEAD")
    transport.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
    assert (sink.ends, sink.body) == (1, b"")
    connection.detach()
    assert connection.reusable


async def test_a_full_peer_pauses_whoever_sends_and_is_not_used_again_before_it_took_everything() -> None:
    sink = Sink()
    connection, transport, _ = connected(sink)
    transport.fill()
    transport.receive(RESPONSES["length"][0])
    connection.detach()
    assert sink.pauses == ["pause"]
    assert not connection.reusable
    transport.drain()
    assert connection.reusable


async def test_an_upgraded_connection_carries_anything_and_is_never_used_again() -> None:
    sink = Sink()
    connection, transport, _ = connected(sink)
    transport.receive(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n\x00\x01")
    transport.receive(b"HTTP/1.1 200 OK\r\n\r\n")
    assert sink.body == b"\x00\x01HTTP/1.1 200 OK\r\n\r\n"
    connection.send_eof()
    assert transport.ended
    transport.receive_eof()
    assert sink.ends == 1
    assert not transport.is_closing()
    connection.detach()
    assert not connection.reusable
    await asyncio.sleep(0)
