"""Probes: what is counted, and what is asked."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from pymesh_controlplane.local import probes
from pymesh_controlplane.local.grpc_health import METHOD
from pymesh_controlplane.local.podspec import (
    Container,
    ContainerPort,
    Exec,
    GrpcAction,
    HttpGet,
    HttpHeader,
    Probe,
    TcpSocket,
)
from pymesh_controlplane.local.probes import Counter, Outcome, Target
from tests.support.certificates import Authority

GOOD, BAD = Outcome(True), Outcome(False, "no")


@pytest.mark.parametrize(
    ("outcomes", "passing", "failed"),
    [
        ([GOOD], False, False),
        ([GOOD, GOOD], True, False),
        ([GOOD, BAD, GOOD], False, False),
        ([GOOD, GOOD, BAD, BAD], True, False),
        ([GOOD, GOOD, BAD, BAD, BAD], False, True),
        ([GOOD, GOOD, BAD, BAD, BAD, GOOD], False, True),
        ([GOOD, GOOD, BAD, BAD, BAD, GOOD, GOOD], True, False),
    ],
)
def test_a_threshold_is_a_number_of_answers_in_a_row(outcomes: list[Outcome], passing: bool, failed: bool) -> None:
    counter = Counter(success_threshold=2, failure_threshold=3)
    for outcome in outcomes:
        counter.add(outcome)
    assert (counter.passing, counter.failed) == (passing, failed)


def test_a_counter_says_when_there_is_news() -> None:
    counter = Counter(1, 2)
    assert [counter.add(outcome) for outcome in (BAD, BAD, BAD, GOOD, GOOD)] == [True, True, False, True, False]


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server that answers /ok, /gone and /slow, and is no HTTP server to everyone else."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read(4096)
        path = head.split()[1] if head else b""
        if path == b"/slow":
            await reader.read()
        replies = {
            b"/ok": b"HTTP/1.1 204 OK\r\n\r\n" if b"x-check: 1" in head else b"HTTP/1.1 500 no header\r\n\r\n",
            b"/moved": b"HTTP/1.1 302 x\r\nlocation: /gone\r\ncontent-length: 0\r\n\r\n",
            b"/away": b"HTTP/1.1 302 x\r\nlocation: http://example.com/\r\ncontent-length: 0\r\n\r\n",
            b"/round": b"HTTP/1.1 302 x\r\nlocation: /round\r\ncontent-length: 0\r\n\r\n",
            b"/gone": b"HTTP/1.1 503 x\r\ncontent-length: 20\r\n\r\nwaiting for\nthe moon",
        }
        writer.write(replies.get(path, b"SSH-2.0-x\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def ask(probe: Probe, port: int) -> Outcome:
    def connect() -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        return sock

    async def run(command: Sequence[str]) -> Outcome:
        return Outcome(list(command) == ["check"], "not that command")

    container = Container(name="c", ports=[ContainerPort(container_port=port, name="web")])
    return await probes.ask(probe, container, Target("127.0.0.1", connect), run)


async def test_http(port: int) -> None:
    headers = [HttpHeader(name="x-check", value="1")]
    assert await ask(Probe(http_get=HttpGet(port=port, path="/ok", http_headers=headers)), port) == GOOD
    assert await ask(Probe(http_get=HttpGet(port="web", path="/gone")), port) == Outcome(False, "waiting for the moon")
    assert "not an HTTP response" in (await ask(Probe(http_get=HttpGet(port=port)), port)).message
    slow = await ask(Probe(http_get=HttpGet(port=port, path="/slow"), timeout_seconds=1), port)
    assert slow == Outcome(False, "no answer within 1 s")


async def test_redirects_are_followed_on_the_same_host(port: int) -> None:
    assert await ask(Probe(http_get=HttpGet(port=port, path="/moved")), port) == Outcome(False, "waiting for the moon")
    assert await ask(Probe(http_get=HttpGet(port=port, path="/away")), port) == GOOD
    assert "more than 10" in (await ask(Probe(http_get=HttpGet(port=port, path="/round")), port)).message


async def test_https_whatever_the_certificate(tmp_path: Path) -> None:
    issued = Authority().issue(dns=("other.example",))
    (tmp_path / "pair.pem").write_bytes(issued.key + issued.chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        secure = server.sockets[0].getsockname()[1]
        assert await ask(Probe(http_get=HttpGet(port=secure, scheme="HTTPS")), secure) == GOOD


async def test_grpc_asks_the_health_service(port: int) -> None:
    async def check(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        service = StringValue.FromString(request).value
        if service == "unknown":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return Int32Value(value=1 if service == "books" else 2).SerializeToString()

    class Health(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]  # stubs
            return grpc.unary_unary_rpc_method_handler(check) if details.method == METHOD else None

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Health()])
    own = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        assert await ask(Probe(grpc=GrpcAction(port=own, service="books")), own) == GOOD
        assert "status 2" in (await ask(Probe(grpc=GrpcAction(port=own)), own)).message
        assert "no such service" in (await ask(Probe(grpc=GrpcAction(port=own, service="unknown")), own)).message
    finally:
        await server.stop(None)
    assert "refused" in (await ask(Probe(grpc=GrpcAction(port=own)), own)).message.lower()
    assert not (await ask(Probe(grpc=GrpcAction(port=port)), port)).success


async def test_tcp_and_exec(port: int) -> None:
    assert (await ask(Probe(tcp_socket=TcpSocket(port=port)), port)).success
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free = closed.getsockname()[1]
    assert "refused" in (await ask(Probe(tcp_socket=TcpSocket(port=free)), port)).message.lower()
    assert (await ask(Probe(exec=Exec(command=["check"])), port)).success
    assert await ask(Probe(exec=Exec(command=["other"])), port) == Outcome(False, "not that command")
