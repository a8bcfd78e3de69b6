"""One side of an opaque connection: what it says goes to the other, and when it ends its half, so does the other's."""

import asyncio
from typing import Protocol, cast


class Owner(Protocol):
    """Who has two halves, and joins them."""

    def half_open(self, half: "Half") -> None:
        """A side is connected."""

    def half_lost(self, half: "Half", exc: Exception | None) -> None:
        """A side is gone; `exc` if it did not end in order."""

    def upstream_spoke(self) -> None:
        """A side said something, or ended, before it was joined to the other."""


class Half(asyncio.Protocol):
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

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
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
        """Read no more from this side for now."""
        if self.transport is not None and not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read from this side again."""
        if self.transport is not None and self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()
