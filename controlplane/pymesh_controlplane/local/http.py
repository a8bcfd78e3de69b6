"""One small HTTP request over a socket that may live in another network namespace."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import h11

# Bytes of a body that are kept by default, as the kubelet does for probes; the rest is not read.
MAX_BODY: Final = 10 * 1024


class HttpError(OSError):
    """The other side does not speak HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, `location` of a redirect, and as much of the body as was asked for."""

    status: int
    location: str
    body: bytes


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
    answer = await fetch(sock, address, path, headers, limit=limit)
    return answer.status, answer.body


async def fetch(
    sock: socket.socket,
    address: tuple[str, int],
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    limit: int = MAX_BODY,
    secure: bool = False,
    method: str = "GET",
) -> Answer:
    """The answer to `method` `path`, without a body; `secure` over TLS, whatever the certificate.

    The socket is closed in any case.

    Raises:
        OSError: no connection, or it broke; HttpError if the answer is not HTTP.
    """
    loop = asyncio.get_running_loop()
    writer: asyncio.StreamWriter | None = None
    try:
        await loop.sock_connect(sock, address)
        tls = _unverified() if secure else None
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=tls, server_hostname=address[0] if secure else None
        )
        connection = h11.Connection(h11.CLIENT)
        fields = {"host": f"{address[0]}:{address[1]}", "user-agent": "pymesh-probe", "connection": "close"}
        fields |= {name.lower(): value for name, value in (headers or {}).items()}
        request = h11.Request(method=method, target=path, headers=list(fields.items()))
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


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _response(connection: h11.Connection, reader: asyncio.StreamReader, limit: int) -> Answer:
    status, location, body = 0, "", bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
            location = next((v.decode("latin-1") for name, v in event.headers if name == b"location"), "")
        elif isinstance(event, h11.Data):
            body += event.data[: limit - len(body)]
            if len(body) >= limit:
                return Answer(status, location, bytes(body))
        elif isinstance(event, h11.EndOfMessage):
            return Answer(status, location, bytes(body))
        elif isinstance(event, h11.ConnectionClosed):
            raise HttpError("closed before the response ended")
