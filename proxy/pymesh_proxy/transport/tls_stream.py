"""TLS between a TCP transport and a protocol: a protocol to what is below it, a transport to what is above.

The event loops' own TLS cannot end one half of a connection, and takes a cut connection for one that ended in order.
Here OpenSSL works on two buffers in memory, and the rest is passing on:

- **Back-pressure**: nothing is queued here. What the protocol writes is encrypted at once and queued by the transport
  below, whose limits and whose `pause_writing` are the protocol's; while the protocol does not read, the transport
  below does not.
- **Half-close** (RFC 8446 6.1): `write_eof` sends close_notify and reading goes on; the peer's close_notify is
  `eof_received` and writing goes on. TCP itself stays open in both directions meanwhile, as Envoy leaves it.
- **Truncation**: a peer that ends TCP without close_notify has not ended its stream. The protocol is lost with
  `Truncated`, so that what was cut is not taken for complete (RFC 9112 9.8).
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeAlias, cast

from pymesh_proxy.transport.tls_records import HEADER, Records, TooManyRecords

log = logging.getLogger("pymesh.tls")

# Plaintext of one record at most (RFC 8446 5.1). Whoever asks for this many bytes gets every record whole, so OpenSSL
# never keeps some that it could give.
RECORD: Final = 16 * 1024
# Bytes that pass through OpenSSL's buffers at a time: they never give back what they once grew to (4/3 of this).
STEP: Final = 32 * 1024
# Bytes read from a socket at a time.
READ_SIZE: Final = 256 * 1024
# A read of up to so many bytes (75 key updates, 1 ms), or of one whole record, is decrypted at once.
SMALL: Final = 2 * 1024
# Records decrypted in one turn of the loop, or a few more; then it is others' turn. A full read of whole ones has 16.
TURN_RECORDS: Final = 128

_AFTER_END: Final = "cannot write after write_eof"

Bytes: TypeAlias = "bytes | bytearray | memoryview[Any]"

# All connections of the process read through these two: what is in them is used before anybody reads again. The second
# takes what a full first one decrypts to, and the rest of a record that had begun before.
_ciphertext: Final = memoryview(bytearray(READ_SIZE))
_plaintext: Final = memoryview(bytearray(READ_SIZE + 2 * RECORD))


class Truncated(ConnectionResetError):  # noqa: N818 - says what happened to the stream
    """The peer ended the connection without close_notify: what came last need not be the last that it had to say."""

    def __init__(self) -> None:
        super().__init__("the connection ended without TLS's close_notify")


class _Unconnected(asyncio.Transport):
    """Stands for the transport below until there is one."""

    def abort(self) -> None:
        """See asyncio.WriteTransport."""


_UNCONNECTED: Final = _Unconnected()


class Context(Protocol):
    """What makes the TLS machine of a connection: an ssl.SSLContext, or what stands for one."""

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool = False) -> ssl.SSLObject:
        """See ssl.SSLContext.wrap_bio."""


class TlsStream(asyncio.Transport, asyncio.BufferedProtocol):
    """One TLS connection. `factory` makes the protocol above when the handshake is through: await `handshake`.

    Data is handed on by `data_received`, which that protocol must have.

    Extra information is that of the transport below, and `ssl_object`.
    """

    __slots__ = (
        "_app", "_closing", "_cut", "_ended", "_error", "_factory", "_going_on", "_handshaken", "_incoming", "_loop",
        "_may_wait", "_outgoing", "_paused", "_read", "_records", "_rest", "_ssl", "_take", "_torn", "_transport",
        "_unread", "_unread_end", "_write",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        server: bool,
    ) -> None:
        super().__init__()
        self._handshaken: asyncio.Future[None] | None = loop.create_future()
        self._loop = loop
        self._transport: asyncio.Transport = _UNCONNECTED
        self._factory: Callable[[], asyncio.BaseProtocol] | None = factory
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._read = self._ssl.read
        self._write = self._ssl.write
        self._app: asyncio.Protocol | None = None
        self._take: Callable[[bytes], None] = _drop  # the protocol's data_received
        self._paused = False  # the protocol does not read
        self._unread = b""  # what came with the end of the handshake for a protocol that did not read yet
        self._unread_end = False  # the peer's half ended while the protocol did not read
        self._records = Records()
        self._torn = False  # `_records` may be within one
        self._rest = b""  # ciphertext that waits for the loop's next turn
        self._going_on = False  # in the loop's next turn
        self._ended = False  # the peer's half is over: what still comes is dropped (RFC 8446 6.1)
        self._cut = False  # our half is over
        self._closing = False
        self._may_wait = 0  # bytes of TLS's own that need not be sent before something of the protocol's is
        self._error: Exception | None = None  # why the connection is lost

    # --- asyncio.BufferedProtocol, for the transport below ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol."""
        self._transport = cast("asyncio.Transport", transport)
        if self._closing:  # whoever accepted it has given up meanwhile
            self._transport.abort()
        elif not self._ssl.server_side:  # the client begins
            self._shake_hands()

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio.BufferedProtocol."""
        return _ciphertext

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        one = nbytes <= SMALL or (not self._torn and nbytes == HEADER + (_ciphertext[3] << 8 | _ciphertext[4]))
        if not one or self._app is None or self._ended:
            self._receive(_ciphertext[:nbytes])
            return
        self._incoming.write(_ciphertext[:nbytes])
        try:
            data = self._read(RECORD if self._torn else nbytes)  # room for 16 KiB costs more than it takes to look
        except ssl.SSLWantReadError:
            self._look(nbytes, data=False)
            self._deliver(0)
        except ssl.SSLZeroReturnError:  # the peer's close_notify, after ours
            self._ended = True
            self._end()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            if data and not self._incoming.pending:  # one record, and all of it: most often
                if self._torn:
                    self._torn = False
                    self._records.aligned()
                self._take(data)
                return
            _plaintext[: len(data)] = data
            self._ended = not data
            self._look(nbytes, data=True)
            self._deliver(self._decrypt(len(data)))

    def eof_received(self) -> bool:
        """See asyncio.BaseProtocol: TCP has ended, in order only if TLS had ended before."""
        if not self._ended:
            self._fail(Truncated() if self._app is not None else _handshake_cut())
        return not self._closing

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BaseProtocol."""
        app, error, handshaken = self._app, self._error or exc, self._handshaken
        self._let_go()
        self._app = self._error = self._factory = None  # all of them lead back here
        if app is not None:
            app.connection_lost(error)
        elif handshaken is not None and not handshaken.done():
            handshaken.set_exception(error or _handshake_cut())

    def pause_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        if self._app is not None:
            self._app.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        if self._app is not None:
            self._app.resume_writing()

    # --- Handshake ---

    async def handshake(self) -> None:
        """Wait until it is through; to be called once.

        Raises:
            OSError: it failed (ssl.SSLError), or the connection broke.
        """
        assert self._handshaken is not None
        try:
            await self._handshaken
        finally:
            self._handshaken = None  # an error has its frames, and those have us

    def give_up(self) -> None:
        """End the connection if its handshake is not through yet: it takes too long."""
        if self._app is None:
            self._error = self._error or TimeoutError("the TLS handshake took too long")
            self.abort()

    def _shake_hands(self) -> None:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except (ssl.SSLError, OSError) as error:
            self._fail(error)
            return
        if self._ssl.server_side and self._ssl.version() == "TLSv1.3":
            self._may_wait = self._outgoing.pending  # session tickets, which go with what the protocol says first
        else:
            self._flush()
        assert self._factory is not None
        app, self._factory = self._factory(), None
        self.set_protocol(app)
        app.connection_made(self)
        if self._handshaken is not None and not self._handshaken.done():
            self._handshaken.set_result(None)

    # --- Reading ---

    def _receive(self, data: "memoryview[Any]") -> None:
        """Take `data`, or of very many records the first: of the handshake, perhaps with data behind it, or of data."""
        if self._ended:
            return
        at = filled = records = 0
        self._torn = True
        while at < len(data) and not (self._closing or self._ended or self._error):
            if records >= TURN_RECORDS:
                self._rest = bytes(data[at:])
                self._transport.pause_reading()
                self._go_on_soon()
                break
            end, count = self._records.take(data, at, STEP)
            self._incoming.write(data[at:end])
            at, records, before = end, records + count, filled
            if self._app is None:
                self._shake_hands()
                count = 0
            if self._app is not None:
                filled = self._decrypt(filled)
                self._passed(count, data=filled > before)
        self._torn = not self._records.between()
        if self._app is not None:
            self._deliver(filled)

    def _look(self, count: int, *, data: bool) -> None:
        """Find the borders of the records in what OpenSSL was given at once."""
        at = records = 0
        self._torn = True
        while at < count:
            at, more = self._records.take(_ciphertext[:count], at, count)
            records += more
        self._passed(records, data=data)

    def _passed(self, records: int, *, data: bool) -> None:
        try:
            self._records.passed(records, data=data)
        except TooManyRecords as error:
            log.warning("%s: %s; cut", self._transport.get_extra_info("peername"), error)
            self._error = self._error or error

    def _decrypt(self, filled: int) -> int:
        """Decrypt what OpenSSL was given into `_plaintext`, behind its first `filled` bytes; how many it then has."""
        incoming = self._incoming
        read = cast("Callable[[int, memoryview], int]", self._read)  # which typeshed does not know
        try:
            while incoming.pending and not self._ended:
                count = read(RECORD, _plaintext[filled:])
                self._ended = not count
                filled += count
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # the peer's close_notify, after ours
            self._ended = True
        except ssl.SSLError as error:
            self._error = error
        return filled

    def _deliver(self, filled: int) -> None:
        """Hand on what was decrypted, and what came after it: the end, or an error."""
        self._answer()
        ended, error = self._ended, self._error
        if self._paused:  # only when it comes with the end of the handshake
            self._unread = bytes(_plaintext[:filled])
        elif filled:
            self._take(bytes(_plaintext[:filled]))
        if error is not None:
            self._fail(error)
        elif ended:
            self._end()

    def _go_on_soon(self) -> None:
        if not self._going_on:
            self._going_on = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Hand on and decrypt what has waited, unless the protocol does not read: then `resume_reading` goes on."""
        self._going_on = False
        if self._paused or self._closing:
            return
        data, self._unread = self._unread, b""
        if data:
            self._take(data)
        if self._unread_end:
            self._end()
        if self._rest and not self._paused:
            rest, self._rest = self._rest, b""
            self._receive(memoryview(rest))
        if not self._rest and not self._paused and not self._closing:
            self._transport.resume_reading()

    def _end(self) -> None:
        """The peer's half is over: close_notify has come."""
        self._unread_end = self._paused
        if self._paused or self._closing or self._app is None:
            return
        if not self._app.eof_received():
            self.close()

    # --- Ending ---

    def _fail(self, error: Exception) -> None:
        """TLS is broken: say so to the peer, as far as it listens, and to the protocol."""
        if not self._closing:
            self._flush()
            self._error = error
            self.abort()

    def _let_go(self) -> None:
        self._closing = True
        self._take = _drop
        self._unread = self._rest = b""

    def _answer(self) -> None:
        """Send what TLS itself has to say, an alert or answers to key updates, unless it is little enough to wait."""
        if self._outgoing.pending > self._may_wait:
            self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._closing:
            self._transport.write(self._outgoing.read())

    # --- asyncio.Transport, for the protocol above ---

    def write(self, data: Bytes) -> None:
        """See asyncio.WriteTransport."""
        if len(data) > STEP:
            self.writelines((data,))
        elif data and not self._closing:
            if self._cut:
                raise RuntimeError(_AFTER_END)
            try:
                self._write(data)
            except ssl.SSLError as error:
                self._fail(error)
                return
            self._transport.write(self._outgoing.read())

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        """See asyncio.WriteTransport."""
        if self._closing:
            return
        if self._cut:
            raise RuntimeError(_AFTER_END)
        records = []
        try:
            for data in list_of_data:
                with memoryview(data) as view:
                    for start in range(0, len(view), STEP):
                        self._write(view[start : start + STEP])
                        records.append(self._outgoing.read())
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._transport.writelines(records)

    def can_write_eof(self) -> bool:
        """See asyncio.WriteTransport: TLS can (the event loops' cannot)."""
        return True

    def write_eof(self) -> None:
        """End our half by close_notify; the peer's goes on."""
        if self._cut or self._closing:
            return
        self._cut = True
        # OpenSSL looks for the peer's close_notify at once, and would take data that it finds instead for an error.
        unread = self._incoming.read()
        with contextlib.suppress(ssl.SSLError):  # "want read", as the peer has not ended; others the next read tells
            self._ssl.unwrap()
        if unread:
            self._incoming.write(unread)
        self._flush()

    def close(self) -> None:
        """End our half, and the connection once everything is written. What the peer still says is not read."""
        if not self._closing:
            if self._app is not None:
                self.write_eof()
            self._let_go()
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once, without close_notify: the peer sees that it was cut."""
        self._let_go()
        self._transport.abort()

    def is_closing(self) -> bool:
        """See asyncio.BaseTransport."""
        return self._closing

    def is_reading(self) -> bool:
        """See asyncio.ReadTransport."""
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        """See asyncio.ReadTransport."""
        if not self._paused and not self._closing:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio.ReadTransport."""
        if self._paused and not self._closing:
            self._paused = False
            if self._unread or self._unread_end or self._rest:
                self._go_on_soon()
            else:
                self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio.WriteTransport: of ciphertext, which is all that is ever queued."""
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """See asyncio.WriteTransport."""
        return self._transport.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        """See asyncio.WriteTransport."""
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.BaseTransport."""
        return self._ssl if name == "ssl_object" else self._transport.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See asyncio.BaseTransport."""
        return self if self._app is None else self._app

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See asyncio.BaseTransport."""
        app = cast("asyncio.Protocol", protocol)  # or what has its methods, as `half.Half`
        self._app, self._take = app, app.data_received


def _drop(data: bytes) -> None:
    """What comes after the protocol has closed is for nobody."""


def _handshake_cut() -> ConnectionResetError:
    return ConnectionResetError("the connection ended during the TLS handshake")
