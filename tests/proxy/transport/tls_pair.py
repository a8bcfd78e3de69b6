"""A TlsStream between an app and a network that tests play, and Python's own TLS at the other end."""

import asyncio
import contextlib
import ssl
from typing import Any

import pytest

from pymesh_proxy.transport.tls_stream import READ_SIZE, RECORD, TlsStream

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


class App(asyncio.Protocol):
    """Writes down what happens to it."""

    def __init__(self) -> None:
        self.data = b""
        self.events: list[str] = []
        self.lost: Exception | None = None
        self.keep = True
        self.read = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # it is one
        self.events.append("made")
        if not self.read:
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        assert "end" not in self.events
        self.data += data

    def eof_received(self) -> bool:
        self.events.append("end")
        return self.keep

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost = exc

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


class Below(asyncio.Transport):
    """What a TCP transport would send, for a test that carries the bytes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = ""
        self.reading = True

    def write(self, data: Any) -> None:
        self.sent += data

    def writelines(self, list_of_data: Any) -> None:
        self.sent += b"".join(list_of_data)

    def close(self) -> None:
        self.closed = self.closed or "close"

    def abort(self) -> None:
        self.closed = self.closed or "abort"

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Pair:
    """A TlsStream, and the other end of it: Python's own TLS machine, whose bytes the test carries."""

    def __init__(self, contexts: Contexts, *, server: bool) -> None:
        ours, theirs = contexts if server else reversed(contexts)
        self.app, self.below = App(), Below()
        self.stream = TlsStream(asyncio.get_running_loop(), ours, lambda: self.app, server=server)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.peer = theirs.wrap_bio(self._in, self._out, server_side=not server)
        self.stream.connection_made(self.below)

    def feed(self, data: bytes) -> None:
        """Bytes from the network."""
        while data:
            part = data[:READ_SIZE]
            self.stream.get_buffer(-1)[: len(part)] = part
            self.stream.buffer_updated(len(part))
            data = data[READ_SIZE:]

    def shake(self) -> None:
        """Bring the handshake to its end on both sides."""
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.peer.do_handshake()
            self.feed(self._out.read())
            self._in.write(self.take())
        assert self.app.events == ["made"]
        self.said()

    def take(self) -> bytes:
        """What our side has sent."""
        sent, self.below.sent = self.below.sent, b""
        return sent

    def says(self, *parts: bytes, end: bool = False) -> bytes:
        """The peer's ciphertext for `parts`."""
        for part in parts:
            self.peer.write(part)
        if end:
            with pytest.raises(ssl.SSLWantReadError):
                self.peer.unwrap()
        return self._out.read()

    def said(self) -> bytes | None:
        """What our side has said, decrypted; None in place of the last bytes where it ended its half."""
        self._in.write(self.take())
        found = b""
        try:
            while data := self.peer.read(RECORD):
                found += data
        except ssl.SSLWantReadError:
            return found
        except ssl.SSLZeroReturnError:  # as an empty read, when the peer has ended its own half as well
            pass
        assert not found
        return None

    def lose(self) -> None:
        """TCP is gone, as the transport below tells it after `close` or `abort`."""
        self.stream.connection_lost(None)
