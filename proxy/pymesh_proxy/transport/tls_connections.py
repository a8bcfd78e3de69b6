"""Connections with TLS: a socket that was accepted, or one to somewhere, until the handshake is through."""

import asyncio
import socket
from collections.abc import Callable

from pymesh_proxy.transport.accept import attach
from pymesh_proxy.transport.tls_stream import Context, TlsStream


async def accept_tls(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    context: Context,
    factory: Callable[[], asyncio.BaseProtocol],
    timeout: float,  # noqa: ASYNC109 - seconds of the handshake alone, which only we see the beginning of
) -> None:
    """Serve an accepted socket with `factory`'s protocol once the handshake is through.

    Raises:
        OSError: the handshake failed (ssl.SSLError), took too long, or the connection broke. The socket is closed.
    """
    stream = TlsStream(loop, context, factory, server=True)
    attach(loop, sock, lambda: stream)
    late = loop.call_later(timeout, stream.give_up)  # (asyncio.timeout costs a connection five times as much)
    try:
        await _handshake(stream)
    finally:
        late.cancel()


async def connect_tls(
    loop: asyncio.AbstractEventLoop,
    context: Context,
    factory: Callable[[], asyncio.BaseProtocol],
    address: tuple[str, int],
    local_address: tuple[str, int] | None = None,
) -> TlsStream:
    """A connection to `address` with `factory`'s protocol on it, after the handshake. The caller limits the time.

    Raises:
        OSError: no connection, or the handshake failed (ssl.SSLError).
    """
    stream = TlsStream(loop, context, factory, server=False)
    await loop.create_connection(lambda: stream, *address, local_addr=local_address)
    await _handshake(stream)
    return stream


async def _handshake(stream: TlsStream) -> None:
    try:
        await stream.handshake()
    except BaseException:
        stream.abort()
        raise
