"""Opaque bytes both ways at once, as many as go through: every byte comes back, and each is looked at."""

import asyncio
import random
import resource
import time
from typing import Final, cast

from benchmarks.load.failures import FailedError, Failures, failure
from benchmarks.load.plans import Stream
from benchmarks.load.results import Streamed
from pymesh.errors import MeshError

# Bytes of the block that is sent over and over: a prime, so that no power of two that something might lose, double or
# exchange goes unnoticed; random, so that nothing compresses it.
BLOCK_BYTES: Final = 65_521
_READ_BYTES: Final = 1 << 20  # more than any event loop hands over at once
# Bytes that may wait to be sent: enough that the socket never runs dry between two turns of the loop.
HIGH_WATER: Final = 4 * BLOCK_BYTES

BLOCK: Final = random.Random(1).randbytes(BLOCK_BYTES)
_PATTERN: Final = BLOCK * (_READ_BYTES // BLOCK_BYTES + 2)


class Echo(asyncio.Protocol):
    """Sends back what it is sent, and no faster than that is taken; ends its half when the other half has ended."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()


class _Client(asyncio.Protocol):
    """Sends until told to stop, and checks what comes back. `ended` is set when it is all there, or has failed."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent = self.received = 0
        self._sending = True
        self._room = True
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._send()

    def stop(self) -> None:
        """Send no more, and say so to the other side."""
        self._sending = False
        if not self._transport.is_closing():
            self._transport.write_eof()

    def abort(self) -> None:
        """End it at once."""
        self._transport.abort()

    def pause_writing(self) -> None:
        self._room = False

    def resume_writing(self) -> None:
        self._room = True
        self._send()

    def data_received(self, data: bytes) -> None:
        at = self.received % BLOCK_BYTES
        if data != _PATTERN[at : at + len(data)]:
            self._fail(FailedError("corrupted", f"other bytes than were sent, after {self.received:,} that were right"))
        self.received += len(data)

    def eof_received(self) -> bool:
        if self.received == self.sent and not self._sending:
            self._finish()
        else:
            self._fail(FailedError("closed", f"the end came after {self.received:,} of {self.sent:,} bytes"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(failure(exc) if exc else FailedError("closed", f"closed after {self.received:,} bytes"))

    def _send(self) -> None:
        while self._sending and self._room and not self._transport.is_closing():
            self.sent += BLOCK_BYTES
            self._transport.write(BLOCK)

    def _finish(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _fail(self, error: FailedError) -> None:
        if not self.ended.done():
            self._sending = False
            self.ended.set_exception(error)
            self._transport.abort()


async def measure(plan: Stream) -> Streamed:
    """Send for the time of the plan, then wait until everything is back.

    Raises:
        MeshError: a connection cannot be had.
    """
    loop = asyncio.get_running_loop()
    clients = []
    began = time.monotonic()
    for _ in range(plan.connections):
        try:
            async with asyncio.timeout(plan.timeout):
                _, client = await loop.create_connection(_Client, plan.host, plan.port)
        except OSError as error:
            raise MeshError(f"cannot connect to {plan.host}:{plan.port}: {failure(error)}") from error
        clients.append(client)
    await asyncio.wait([client.ended for client in clients], timeout=plan.seconds, return_when=asyncio.FIRST_EXCEPTION)
    for client in clients:
        client.stop()
    await asyncio.wait([client.ended for client in clients], timeout=plan.timeout)
    failures = _failures(plan, clients)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Streamed(
        target=f"{plan.host}:{plan.port}",
        connections=plan.connections,
        seconds=time.monotonic() - began,
        sent=sum(client.sent for client in clients),
        received=sum(client.received for client in clients),
        errors=dict(failures.counts),
        examples=failures.examples,
        cpu_seconds=used.ru_utime + used.ru_stime,
    )


def _failures(plan: Stream, clients: list[_Client]) -> Failures:
    failures = Failures()
    for client in clients:
        if not client.ended.done():
            client.abort()
            words = f"{client.received:,} of {client.sent:,} bytes are back {plan.timeout:g} s after the last was sent"
            failures.add(FailedError("timeout", words))
        elif isinstance(error := client.ended.exception(), FailedError):
            failures.add(error)
    return failures


async def serve(host: str, port: int) -> None:
    """Echo on a port until cancelled."""
    server = await asyncio.get_running_loop().create_server(Echo, host, port)
    async with server:
        await server.serve_forever()
