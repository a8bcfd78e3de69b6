"""One connection with one request on it: what the connection generators are made of."""

import asyncio
import ssl
from typing import cast

from benchmarks.load.answers import Answer, AnswerReader, BadAnswerError
from benchmarks.load.failures import FailedError, failure
from benchmarks.load.target import Request, Target, Trust


class Exchange(asyncio.Protocol):
    """Sends its request as soon as it is connected.

    Attributes:
        answer: the answer, or a `FailedError`.
        lost: set when the connection has ended.
        transport: of the connection.
    """

    def __init__(self, request: bytes, *, answer_to_head: bool) -> None:
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Answer] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport
        self._request = request
        self._reader = AnswerReader(answer_to_head=answer_to_head)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._found(self._reader.feed(data))
        except BadAnswerError as error:
            self._failed(FailedError("protocol", str(error)))

    def eof_received(self) -> bool:
        try:
            self._found(self._reader.end())
        except BadAnswerError as error:
            self._failed(FailedError("closed", str(error)))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._failed(failure(exc) if exc else FailedError("closed", "the connection was closed before an answer"))
        self.lost.set_result(None)

    def _found(self, answer: Answer | None) -> None:
        if answer is not None and not self.answer.done():
            self.answer.set_result(answer)

    def _failed(self, error: FailedError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Dialler:
    """Makes connections, each for one exchange."""

    def __init__(self, target: Target, request: Request, trust: Trust, *, close: bool, resume: bool = False) -> None:
        """With `close` each request says that it is the last; with `resume` TLS sessions are taken up again.

        Raises:
            MeshError: the request cannot be sent as it is, or TLS cannot use a file.
        """
        self._target = target
        self._request = request.encode(target, close=close)
        self._answer_to_head = request.method == "HEAD"
        self._tls = _Context(trust.context(), resume=resume) if target.tls else None
        self._name = (trust.name or target.host) if target.tls else None

    async def dial(self) -> Exchange:
        """Connect; the request goes out at once.

        Raises:
            FailedError: the connection cannot be had.
        """
        try:
            _, exchange = await asyncio.get_running_loop().create_connection(
                lambda: Exchange(self._request, answer_to_head=self._answer_to_head),
                self._target.host,
                self._target.port,
                ssl=cast("ssl.SSLContext | None", self._tls),
                server_hostname=self._name,
            )
        except OSError as error:
            raise failure(error) from error
        return exchange

    def answered(self, exchange: Exchange) -> bool:
        """After an answer: remember the session if that is wanted; whether this connection had resumed one."""
        if self._tls is None:
            return False
        machine = cast("ssl.SSLObject", exchange.transport.get_extra_info("ssl_object"))
        self._tls.session = machine.session
        return bool(machine.session_reused)


class _Context:
    """What an event loop needs of an SSL context; it has no parameter for the session, so that is put in here."""

    def __init__(self, context: ssl.SSLContext, *, resume: bool) -> None:
        self.session: ssl.SSLSession | None = None
        self._context = context
        self._resume = resume

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> ssl.SSLObject:
        """The loop calls this, and nothing else."""
        session = self.session if self._resume else None
        return self._context.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
