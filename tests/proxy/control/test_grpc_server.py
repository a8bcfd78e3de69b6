"""Our gRPC server under a real grpcio client."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from pymesh.grpc.status import Code, RpcError, Status
from pymesh_proxy.control.call import Call
from pymesh_proxy.control.grpc_server import MAX_CONNECTIONS, GrpcServer

LIMIT = 4 * 1024 * 1024
cancelled: list[str] = []


async def echo(call: Call) -> None:
    while (message := await call.receive()) is not None:
        await call.send(message)


async def burst(call: Call) -> None:
    await call.receive()
    for number in range(200):
        await call.send(bytes([number]) * 300_000)


async def refuse(call: Call) -> None:
    raise RpcError(Status(Code.PERMISSION_DENIED, "no: 100% of ü", [("x-trace-bin", b"\0\xff")]))


async def fail(call: Call) -> None:
    raise ZeroDivisionError


async def hang(call: Call) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        cancelled.append("hang")


HANDLERS = {"/t/Echo": echo, "/t/Burst": burst, "/t/Refuse": refuse, "/t/Fail": fail, "/t/Hang": hang}


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[None]:
    server = GrpcServer(HANDLERS, path, mode=0o600, limit=LIMIT)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.run())
        await server.listening.wait()
        yield
        task.cancel()


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{tmp_path}/s", options=[("grpc.max_receive_message_length", -1)]) as channel:
        yield channel


async def test_messages_of_many_sizes(channel: grpc.Channel, tmp_path: Path) -> None:
    call = channel.unary_unary("/t/Echo")
    async with serving(tmp_path / "s"):
        for size in (0, 1, 65_536, 2_000_000, LIMIT):
            assert await asyncio.to_thread(call, b"x" * size, timeout=10) == b"x" * size


async def test_both_ways_at_once(channel: grpc.Channel, tmp_path: Path) -> None:
    sent = [bytes([number]) * (number * 30_000) for number in range(60)]

    def converse() -> list[bytes]:
        return list(channel.stream_stream("/t/Echo")(iter(sent), timeout=20))

    async with serving(tmp_path / "s"):
        assert await asyncio.to_thread(converse) == sent


async def test_a_client_that_reads_slowly_holds_the_sender_back(channel: grpc.Channel, tmp_path: Path) -> None:
    def read() -> list[int]:
        return [message[0] for message in channel.unary_stream("/t/Burst")(b"", timeout=30)]

    async with serving(tmp_path / "s"):
        assert await asyncio.to_thread(read) == list(range(200))  # 60 MB


@pytest.mark.parametrize(
    ("method", "code", "text"),
    [
        ("/t/Refuse", grpc.StatusCode.PERMISSION_DENIED, "no: 100% of ü"),
        ("/t/Fail", grpc.StatusCode.INTERNAL, "the handler failed; the agent's log says why"),
        ("/t/None", grpc.StatusCode.UNIMPLEMENTED, "/t/None is not served here"),
    ],
)
async def test_errors(channel: grpc.Channel, tmp_path: Path, method: str, code: grpc.StatusCode, text: str) -> None:
    async with serving(tmp_path / "s"):
        with pytest.raises(grpc.RpcError) as error:
            await asyncio.to_thread(channel.unary_unary(method), b"", timeout=10)
    assert (error.value.code(), error.value.details()) == (code, text)
    if method == "/t/Refuse":
        assert ("x-trace-bin", b"\0\xff") in [tuple(pair) for pair in error.value.trailing_metadata()]


async def test_too_large_and_compressed_are_refused_clearly(channel: grpc.Channel, tmp_path: Path) -> None:
    call = channel.unary_unary("/t/Echo")
    async with serving(tmp_path / "s"):
        with pytest.raises(grpc.RpcError) as error:
            await asyncio.to_thread(call, b"x" * (LIMIT + 1), timeout=10)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as error:
            await asyncio.to_thread(call, b"x" * 5000, timeout=10, compression=grpc.Compression.Gzip)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "identity" in error.value.details()
        assert await asyncio.to_thread(call, b"fine", timeout=10) == b"fine"


async def test_a_client_that_gives_up_takes_the_handler_along(channel: grpc.Channel, tmp_path: Path) -> None:
    cancelled.clear()
    async with serving(tmp_path / "s"):
        with pytest.raises(grpc.RpcError) as error:
            await asyncio.to_thread(channel.unary_unary("/t/Hang"), b"", timeout=0.2)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        while not cancelled:
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(channel.unary_unary("/t/Echo"), b"next", timeout=10) == b"next"


async def test_stopping_ends_the_calls(channel: grpc.Channel, tmp_path: Path) -> None:
    cancelled.clear()
    async with serving(tmp_path / "s"):
        await asyncio.to_thread(channel.unary_unary("/t/Echo"), b"", timeout=10)
        pending = asyncio.get_running_loop().run_in_executor(
            None, lambda: channel.unary_unary("/t/Hang").with_call(b"", timeout=10)
        )
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(pending), 0.2)
    assert cancelled == ["hang"]
    with pytest.raises(grpc.RpcError):
        await pending


async def test_connections_are_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        writers = [(await asyncio.open_unix_connection(str(tmp_path / "s"))) for _ in range(MAX_CONNECTIONS + 1)]
        reader, _ = writers[-1]
        assert b"\x07" in await asyncio.wait_for(reader.read(), 10)  # a GOAWAY, then the end
        for _, writer in writers:
            writer.close()
            await writer.wait_closed()
