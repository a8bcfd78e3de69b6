"""One question of gRPC's health protocol over a socket that may live in another network namespace.

grpcio makes its own sockets, where it is; so the mesh's own framing is driven here.
"""

import asyncio
import contextlib
import socket
from typing import Final

from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from pymesh.grpc.client import ClientConnection
from pymesh.grpc.events import Ended, Message
from pymesh.grpc.status import Code
from pymesh.http2.errors import ConnectionBrokenError

METHOD: Final = "/grpc.health.v1.Health/Check"
SERVING: Final = 1


async def check(sock: socket.socket, address: tuple[str, int], service: str) -> str:
    """Why `service` at `address` is not SERVING; empty if it is. The socket is closed in any case.

    Raises:
        OSError: no connection, or it broke.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
        reader, writer = await asyncio.open_connection(sock=sock)
        return await _ask(reader, writer, f"{address[0]}:{address[1]}", service)
    except ConnectionBrokenError as error:
        return f"not HTTP/2: {error}"
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        sock.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str, service: str) -> str:
    connection = ClientConnection(authority)
    stream = connection.open(METHOD)
    # The two messages of the protocol have one field each, number 1, as these of protobuf's own have.
    connection.send(stream, StringValue(value=service).SerializeToString())
    connection.finish(stream)
    status = 0
    while True:
        writer.write(connection.bytes_to_send())
        data = await reader.read(65536)
        if not data:
            return "closed before the answer"
        for event in connection.receive(data):
            if isinstance(event, Message):
                status = Int32Value.FromString(event.data).value
            elif isinstance(event, Ended):
                if event.status.code is not Code.OK:
                    return f"gRPC: {event.status}"
                return "" if status == SERVING else f"gRPC: status {status}, not SERVING"
