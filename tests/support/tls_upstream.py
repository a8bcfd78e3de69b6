"""An upstream that speaks TLS, and what a proxy's bootstrap says of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.certificates import Authority, Issued
from tests.support.inprocess import Json
from tests.support.peers import Address

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."


def files(folder: Path, issued: Issued) -> tuple[Path, Path]:
    """Chain and key in files."""
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(issued.chain)
    key.write_bytes(issued.key)
    return chain, key


def socket_of(kind: str, **context: object) -> Json:
    """A transport socket."""
    return {"transport_socket": {"name": "tls", "typed_config": {"@type": _TLS + kind, **context}}}


def trusting(authority: Authority) -> Json:
    """A validation context."""
    return {"validation_context": {"trusted_ca": {"inline_string": authority.root.decode()}}}


class TlsUpstream:
    """Answers every request, and counts the connections that resumed a session."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.resumed: list[bool] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = writer.get_extra_info("ssl_object")
        self.resumed.append(found.session_reused)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self.answer)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()

    @asynccontextmanager
    async def listening(self, folder: Path, issued: Issued, version: ssl.TLSVersion) -> AsyncIterator[Address]:
        """Its address, for as long as the block lasts; its certificate is the one `issued`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = version
        context.load_cert_chain(*files(folder, issued))
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        try:
            yield server.sockets[0].getsockname()
        finally:
            server.close()
            await asyncio.sleep(0)
