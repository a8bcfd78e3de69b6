"""A client that others have written: curl, with nghttp2. Layers above are tested with grpcio both ways, and Envoy."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pymesh.http2.connection import Connection
from pymesh.http2.errors import ConnectionBrokenError
from pymesh.http2.events import DataReceived, HeadersReceived
from tests.pymesh.http2.wire import OK


class Echo(asyncio.Protocol):
    """Answers with what it was sent, credit by credit, and a trailer."""

    def __init__(self, errors: list[str]) -> None:
        self._connection = Connection(client=False, window=20_000)
        self._errors = errors

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._connection.bytes_to_send())

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        try:
            events = connection.receive(data)
        except ConnectionBrokenError as error:
            self._errors.append(str(error))
            events = []
        for event in events:
            match event:
                case HeadersReceived(stream_id, headers, end):
                    path = dict(headers)[b":path"]
                    connection.send_headers(stream_id, (*OK, (b"x-path", path), (b"set-cookie", b"a=b")), end=False)
                    if end:
                        connection.send_end(stream_id, ((b"x-last", b"1"),))
                case DataReceived(stream_id, body, end, padding):
                    connection.acknowledge(stream_id, len(body) + padding)
                    connection.send_data(stream_id, body)
                    if end:
                        connection.send_end(stream_id, ((b"x-last", b"1"),))
        self._transport.write(connection.bytes_to_send())


@pytest.fixture
async def echo() -> AsyncIterator[tuple[str, list[str]]]:
    errors: list[str] = []
    server = await asyncio.get_running_loop().create_server(lambda: Echo(errors), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", errors


async def curl(*arguments: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--show-error", "--http2-prior-knowledge", "--max-time", "10", *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    said, complaints = await process.communicate()
    assert not complaints
    return said


async def test_curl_asks(echo: tuple[str, list[str]]) -> None:
    url, errors = echo
    said = await curl("--include", f"{url}/b?c=d", "--cookie", "secret=1", "--header", "X-Long: " + "x" * 9000)
    assert b"HTTP/2 200 \r\nx-path: /b?c=d\r\nset-cookie: a=b\r\n\r\nx-last: 1" in said
    assert not errors


async def test_curl_sends_more_than_all_windows_hold(echo: tuple[str, list[str]], tmp_path: Path) -> None:
    url, errors = echo
    body = bytes(range(256)) * 12_000
    file = tmp_path / "body"
    file.write_bytes(body)
    assert await curl("--data-binary", f"@{file}", url) == body
    assert not errors
