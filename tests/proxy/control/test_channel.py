"""Our gRPC client against a real grpcio server, and against servers that are none."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymesh.grpc.status import Code, RpcError
from pymesh_proxy.control.channel import Channel
from pymesh_proxy.control.target import ServerTls, Target, bearer_token
from tests.support.certificates import Authority
from tests.support.grpc_peers import BURST, CHAT, ECHO, FAIL, HANG, WHO, grpcio_server
from tests.support.waiting import eventually

NAME = "pilot.pymesh-system.svc"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with grpcio_server() as (_, port):
        yield port


@pytest.fixture
async def channel(port: int) -> Channel:
    return Channel(Target("127.0.0.1", port))


async def test_unary_calls_of_many_sizes(channel: Channel) -> None:
    for size in (0, 1, 65_535, 2_000_000):
        assert await channel.unary(ECHO, b"x" * size, within=10) == b"x" * size
    await channel.close()


async def test_a_conversation(channel: Channel) -> None:
    async with channel.stream(CHAT) as stream:
        for number in range(50):
            await stream.send(b"%d" % number)
            assert await stream.receive() == b"%d" % number
        stream.finish()
        assert await stream.receive() is None
        with pytest.raises(RpcError):
            await stream.send(b"late")
    await channel.close()


async def test_large_messages_both_ways_at_once(channel: Channel) -> None:
    message = bytes(range(256)) * 8192  # 2 MiB
    async with channel.stream(CHAT) as stream, asyncio.TaskGroup() as group:

        async def send() -> None:
            for _ in range(8):
                await stream.send(message)
            stream.finish()

        group.create_task(send())
        received = 0
        while (answer := await stream.receive()) is not None:
            assert answer == message
            received += 1
        assert received == 8
    await channel.close()


async def test_a_burst_larger_than_the_window(channel: Channel) -> None:
    async with channel.stream(BURST) as stream:
        await stream.send(b"40x1500000")  # 60 MB through a window of 32 MiB
        stream.finish()
        for number in range(40):
            message = await stream.receive()
            assert message is not None
            assert (len(message), message[0]) == (1_500_000, number)
        assert await stream.receive() is None
    await channel.close()


async def test_an_error_has_its_text_and_metadata(channel: Channel) -> None:
    with pytest.raises(RpcError, match="PERMISSION_DENIED: no: 100% of ü") as refused:
        await channel.unary(FAIL, b"", within=5)
    assert ("x-trace-bin", b"\x00\xff") in refused.value.status.metadata
    with pytest.raises(RpcError, match="UNIMPLEMENTED"):
        await channel.unary("/test.Echo/Nothing", b"", within=5)
    await channel.close()


async def test_a_deadline_ends_the_call_alone(channel: Channel) -> None:
    async with channel.stream(CHAT) as other:
        with pytest.raises(RpcError, match="DEADLINE_EXCEEDED"):
            await channel.unary(HANG, b"", within=0.2)
        await other.send(b"still here")
        assert await other.receive() == b"still here"
    await channel.close()


async def test_cancelling_a_caller_cancels_the_call(channel: Channel) -> None:
    waiting = asyncio.get_running_loop().create_task(channel.unary(HANG, b"", within=60))
    assert await channel.unary(ECHO, b"1", within=5) == b"1"
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await channel.unary(ECHO, b"2", within=5) == b"2"
    await channel.close()


async def test_nothing_is_left_behind(port: int) -> None:
    channel = Channel(Target("127.0.0.1", port))
    await channel.unary(ECHO, b"x", within=5)
    await channel.close()
    await channel.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_server_that_comes_back_is_found_again(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/grpc"
    channel = Channel(Target(unix_path=f"{tmp_path}/grpc"))
    with pytest.raises(RpcError, match=r"UNAVAILABLE: unix:.*no such file"):
        await channel.unary(ECHO, b"x", within=5)
    with grpcio_server(address):
        async with channel.stream(CHAT) as stream:
            await stream.send(b"x")
            assert await stream.receive() == b"x"

    async def again() -> bool:
        try:
            return await channel.unary(ECHO, b"again", within=5) == b"again"
        except RpcError as error:  # the loss of the old connection may only show when it is written to
            if error.status.code is not Code.UNAVAILABLE:
                raise
            return False

    with grpcio_server(address):
        assert await eventually(again)
    await channel.close()


async def test_a_server_that_stops_ends_the_stream_with_its_reason(tmp_path: Path) -> None:
    channel = Channel(Target(unix_path=f"{tmp_path}/grpc"))
    with grpcio_server(f"unix:{tmp_path}/grpc") as (server, _):
        async with channel.stream(CHAT) as stream:
            await stream.send(b"x")
            assert await stream.receive() == b"x"
            stopped = server.stop(grace=None)
            with pytest.raises(RpcError) as ended:
                await stream.receive()
            assert ended.value.status.code in {Code.UNAVAILABLE, Code.CANCELLED}
            stopped.wait()
    await channel.close()


async def test_a_graceful_stop_lets_the_call_finish(tmp_path: Path) -> None:
    channel = Channel(Target(unix_path=f"{tmp_path}/grpc"))

    async def refused() -> bool:
        try:
            await channel.unary(ECHO, b"new", within=5)
        except RpcError:
            return True
        return False

    with grpcio_server(f"unix:{tmp_path}/grpc") as (server, _):
        async with channel.stream(CHAT) as stream:
            await stream.send(b"x")
            assert await stream.receive() == b"x"
            stopped = server.stop(grace=30)  # GOAWAY, and then the call may go on
            await eventually(refused, what="a refusal of new calls")
            await stream.send(b"y")
            assert await stream.receive() == b"y"
            stream.finish()
            assert await stream.receive() is None
        await asyncio.to_thread(stopped.wait, 5)
    await channel.close()


async def test_refused(unused: int) -> None:
    channel = Channel(Target("127.0.0.1", unused))
    with pytest.raises(RpcError, match=rf"UNAVAILABLE: 127.0.0.1:{unused}: connection refused"):
        await channel.unary(ECHO, b"x", within=5)


@pytest.fixture
def unused() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 64, b"\0" * 64, b"\x15\x03\x01\0\x02\x02\x16" * 9, b""]
)
async def test_a_peer_that_is_no_grpc_server(greeting: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        if not greeting:
            writer.close()
        await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        done.set()

    done = asyncio.Event()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    channel = Channel(Target("127.0.0.1", server.sockets[0].getsockname()[1]))
    with pytest.raises(RpcError) as error:
        await channel.unary(ECHO, b"x", within=5)
    assert error.value.status.code is Code.UNAVAILABLE
    assert "127.0.0.1" in error.value.status.message
    await channel.close()
    await done.wait()
    server.close()
    await server.wait_closed()


# --- TLS and tokens -------------------------------------------------------------------------------------------------


async def test_tls_knows_the_server_by_root_and_name_and_sends_the_token_of_the_moment(tmp_path: Path) -> None:
    authority = Authority()
    roots, token = tmp_path / "roots.pem", tmp_path / "token"
    roots.write_bytes(authority.root)
    token.write_text("first\n")
    with grpcio_server(certificate=authority.issue(dns=(NAME,))) as (_, port):
        target = Target("127.0.0.1", port, tls=ServerTls(roots, NAME))
        channel = Channel(target, metadata=bearer_token(token))
        assert b"('authorization', 'Bearer first')" in await channel.unary(WHO, b"", within=5)
        token.write_text("second")
        assert b"('authorization', 'Bearer second')" in await channel.unary(WHO, b"", within=5)
        token.unlink()
        with pytest.raises(RpcError, match=r"UNAUTHENTICATED: cannot say who we are: .*token"):
            await channel.unary(WHO, b"", within=5)
        token.write_text("")
        with pytest.raises(RpcError, match="is empty"):
            await channel.unary(WHO, b"", within=5)
        await channel.close()

        # The roots are read at each connect.
        token.write_text("third")
        roots.write_bytes(Authority("other").root)
        with pytest.raises(RpcError, match="certificate is not accepted"):
            await channel.unary(WHO, b"", within=5)
        roots.write_bytes(b"no certificate")
        with pytest.raises(RpcError, match="holds no certificates"):
            await channel.unary(WHO, b"", within=5)
        roots.write_bytes(authority.root)
        assert b"third" in await channel.unary(WHO, b"", within=5)
        await channel.close()


async def test_a_server_of_another_name_is_refused(tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "roots.pem").write_bytes(authority.root)
    with grpcio_server(certificate=authority.issue(dns=("other.svc",))) as (_, port):
        channel = Channel(Target("127.0.0.1", port, tls=ServerTls(tmp_path / "roots.pem", NAME)))
        with pytest.raises(RpcError, match=f"certificate is not accepted: Hostname mismatch.*{NAME}"):
            await channel.unary(ECHO, b"", within=5)


async def test_a_token_is_never_sent_in_clear(port: int, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    channel = Channel(Target("127.0.0.1", port), metadata=bearer_token(tmp_path / "token"))
    assert b"secret" not in await channel.unary(WHO, b"", within=5)
    await channel.close()
