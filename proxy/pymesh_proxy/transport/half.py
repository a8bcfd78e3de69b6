"""One side of an opaque connection: what it says goes to the other, and when it ends its half, so does the other's."""

import asyncio
from typing import Final, Protocol, cast


class Owner(Protocol):
    """Who has two halves, and joins them."""

    def half_open(self, half: "Half") -> None:
        """A side is connected."""

    def half_lost(self, half: "Half", exc: Exception | None) -> None:
        """A side is gone; `exc` if it did not end in order."""

    def upstream_spoke(self) -> None:
        """A side said something, or ended, before it was joined to the other."""


# Bytes read from a socket at a time.
READ_SIZE: Final = 256 * 1024
# A transport that does not write all of a read at once keeps the buffer. Smaller reads are copied instead, so that one
# that waits holds no more than four times what is in it.
SMALL_READ: Final = 64 * 1024

# What all halves read into. What is in it is written before anybody reads again, or the buffer is given away.
_spare = memoryview(bytearray(READ_SIZE))


class Half(asyncio.BufferedProtocol):
    """See the module. `peer` is the other side, once they are joined; `bytes` is how many this one has sent.

    It knows its owner and its peer, who know it, from when it is connected until it is lost: what is over is no cycle.
    """

    __slots__ = ("_eof", "_held", "_owner", "_paused", "bytes", "peer", "transport")

    def __init__(self) -> None:
        self._owner: Owner | None = None
        self._held: list[bytes] = []
        self._eof = self._paused = False
        self.bytes = 0
        self.peer: Half | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast("asyncio.Transport", transport)
        assert self._owner is not None
        self._owner.half_open(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio.BufferedProtocol."""
        return _spare

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        global _spare  # noqa: PLW0603 - one for all: what a core's cache holds is written for half of what memory costs
        peer = self.peer
        if nbytes <= SMALL_READ or peer is None or peer.transport is None:
            self.data_received(bytes(_spare[:nbytes]))
            return
        self.bytes += nbytes
        peer.transport.write(_spare[:nbytes])
        if peer.transport.get_write_buffer_size():
            _spare = memoryview(bytearray(READ_SIZE))

    def data_received(self, data: bytes) -> None:
        """Take what a transport has read by itself, as that of a TLS connection does."""
        self.bytes += len(data)
        peer = self.peer
        if peer is None or peer.transport is None:
            self._held.append(data)
            self.pause()
            self._spoke()
        else:
            peer.transport.write(data)

    def eof_received(self) -> bool:
        """See asyncio.Protocol: this side has said its last; the other may not have."""
        self._eof = True
        peer = self.peer
        if peer is None:
            self._spoke()
        else:
            peer.half_close()
            if peer.over:
                return False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._eof = True
        owner, self._owner = self._owner, None
        assert owner is not None
        owner.half_lost(self, exc)
        self.peer = None

    def pause_writing(self) -> None:
        """See asyncio.Protocol: this side does not take more, so the other is not read."""
        if self.peer is not None:
            self.peer.pause()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self.peer is not None:
            self.peer.resume()

    def _spoke(self) -> None:
        if self._owner is not None:
            self._owner.upstream_spoke()

    # --- For the owner and the other half ---

    def owned(self, owner: Owner) -> "Half":
        """Itself, about to be connected: `owner` is told what becomes of it."""
        self._owner = owner
        return self

    @property
    def over(self) -> bool:
        """This side has ended its half, or is gone."""
        return self._eof

    def join(self, peer: "Half") -> None:
        """From now on bytes go to `peer`; what was read before goes first."""
        self.peer = peer
        if self._held and peer.transport is not None:
            peer.transport.writelines(self._held)
            self._held.clear()
            self.resume()
        if self._eof:
            peer.half_close()

    def half_close(self) -> None:
        """The other side will send no more: pass that on once everything before it is written."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._eof:
            transport.close()
        else:
            transport.write_eof()

    def pause(self) -> None:
        """Read no more from this side for now.

        It is told again if bytes come nevertheless: uvloop's transports begin to read after `connection_made`, and
        forget that they were paused in it.
        """
        if self.transport is not None and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read from this side again."""
        if self.transport is not None and self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()
