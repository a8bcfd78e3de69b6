"""One small HTTP request over a socket that may live in another network namespace."""

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import Final

import h11

# Bytes of a body that are kept by default, as the kubelet does for probes; the rest is not read.
MAX_BODY: Final = 10 * 1024


class HttpError(OSError):
    """The other side does not speak HTTP."""


async def get(
    sock: socket.socket,
    address: tuple[str, int],
    path: str,
    headers: Mapping[str, str] | None = None,
    limit: int = MAX_BODY,
) -> tuple[int, bytes]:
    """Status and at most `limit` bytes of the body of GET `path`. The socket is closed in any case.

    Raises:
        OSError: no connection, or it broke; HttpError if the answer is not HTTP.
    """
    loop = asyncio.get_running_loop()
    writer: asyncio.StreamWriter | None = None
    try:
        await loop.sock_connect(sock, address)
        reader, writer = await asyncio.open_connection(sock=sock)
        connection = h11.Connection(h11.CLIENT)
        fields = {"Host": f"{address[0]}:{address[1]}", "User-Agent": "pymesh-probe", "Connection": "close"}
        fields |= headers or {}
        request = h11.Request(method="GET", target=path, headers=list(fields.items()))
        writer.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        return await _response(connection, reader, limit)
    except h11.RemoteProtocolError as error:
        raise HttpError(f"not an HTTP response: {error}") from None
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        sock.close()


async def _response(connection: h11.Connection, reader: asyncio.StreamReader, limit: int) -> tuple[int, bytes]:
    status, body = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data[: limit - len(body)]
            if len(body) >= limit:
                return status, bytes(body)
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)
        elif isinstance(event, h11.ConnectionClosed):
            raise HttpError("closed before the response ended")
