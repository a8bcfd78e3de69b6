"""The ports for people, probes and Prometheus: admin (15000, loopback), metrics (15090), readiness (15021), status.

Small answers over h11, one task a connection; nothing here is on the path of a request.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import h11

from pymesh.steps import Steps

log = logging.getLogger("pymesh.admin")

# Bytes: an admin request has no business being larger.
MAX_REQUEST_BYTES: Final = 64 * 1024
# Seconds from the start of a connection until its first request is complete: a probe sends it at once.
FIRST_REQUEST_TIMEOUT: Final = 5.0
# Seconds that a connection lasts in all, where no page takes longer.
CONNECTION_TIMEOUT: Final = 30.0
# Nobody needs more at once. One more takes the place of the one that has been without an answer for longest, so that
# those who only hold connections cannot keep a readiness probe out.
MAX_CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint says."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"


def text(body: str, status: int = 200) -> Answer:
    """Lines for people."""
    return Answer(body.encode() if body.endswith("\n") or not body else f"{body}\n".encode(), status)


def as_json(value: object) -> Answer:
    """A value for programs."""
    return Answer(json.dumps(value, indent=1).encode() + b"\n", content_type="application/json")


# Pieces of JSON, a few bytes each, that are put together in one step.
_PIECES: Final = 200


def as_json_in_steps(value: object) -> Steps[Answer]:
    """The same for what may be large."""
    parts: list[bytes] = []
    pieces = json.JSONEncoder(indent=1).iterencode(value)
    while some := "".join(islice(pieces, _PIECES)):
        parts.append(some.encode())
        yield
    return Answer(b"".join((*parts, b"\n")), content_type="application/json")


Query = Mapping[str, str]
Endpoint = Callable[[Query], Answer | Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Page:
    """One admin endpoint. What changes something needs POST, as in Envoy."""

    answer: Endpoint
    help: str
    changes: bool = False


class HttpPort:
    """Serves `pages` on listening sockets; a connection lasts at most `patience` seconds."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pages: Mapping[str, Page], patience: float = CONNECTION_TIMEOUT
    ) -> None:
        self._loop = loop
        self._pages = pages
        self._patience = patience
        self._servers: list[asyncio.Server] = []
        # Those open, the one whose last answer (or start) is longest ago first.
        self._open: dict[asyncio.StreamWriter, None] = {}

    async def listen(self, sock: socket.socket) -> None:
        """Serve what connects to `sock` until `close`."""
        self._servers.append(await asyncio.start_server(self._serve, sock=sock))

    def close(self) -> None:
        """Accept no more."""
        for server in self._servers:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            self._drop_oldest()
        self._open[writer] = None
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
        try:
            async with asyncio.timeout(self._patience):
                async with asyncio.timeout(FIRST_REQUEST_TIMEOUT):
                    request = await _request(connection, reader)
                while request is not None and await self._respond(request, connection, writer):
                    connection.start_next_cycle()
                    request = await _request(connection, reader)
        except h11.RemoteProtocolError as error:
            log.debug("admin request refused: %s", error)
            _refuse(connection, writer, error)
        except (OSError, TimeoutError) as error:
            log.debug("admin connection ended: %s", error)
        finally:
            self._open.pop(writer, None)
            writer.close()

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._open))
        del self._open[oldest]
        log.debug("admin connection dropped: %d are open and another one came", MAX_CONNECTIONS)
        oldest.transport.abort()

    async def _respond(self, request: h11.Request, connection: h11.Connection, writer: asyncio.StreamWriter) -> bool:
        """Answer `request`; whether another may follow on this connection."""
        answer = await self._answer(request.method.decode(), request.target.decode("latin-1"))
        headers = [("content-type", answer.content_type), ("content-length", str(len(answer.body)))]
        out = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
        if request.method != b"HEAD":
            out += connection.send(h11.Data(data=answer.body)) or b""
        writer.write(out + (connection.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        if writer in self._open:
            self._open[writer] = self._open.pop(writer)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _answer(self, method: str, target: str) -> Answer:
        parts = urlsplit(target)
        page = self._pages.get(parts.path)
        if page is None:
            return text(f"no {parts.path} here; the list is at /help", 404)
        if page.changes and method != "POST":
            return text(f"{parts.path} changes something: use POST", 405)
        if method not in {"GET", "HEAD", "POST"}:
            return text(f"{method} is not answered here", 405)
        try:
            found = page.answer(dict(parse_qsl(parts.query, keep_blank_values=True)))
            return found if isinstance(found, Answer) else await found
        except ValueError as error:
            return text(str(error), 400)
        except Exception:
            log.exception("%s failed", parts.path)
            return text(f"{parts.path} failed; the proxy's log has the reason", 500)


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The head of the next request, once all of it is there; None if the peer is done or sends too much.

    Raises:
        h11.RemoteProtocolError: it is not HTTP.
    """
    request: h11.Request | None = None
    received = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(8192)
            received += len(data)
            if received > MAX_REQUEST_BYTES:
                return None
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed):
            return None


def _refuse(connection: h11.Connection, writer: asyncio.StreamWriter, error: h11.RemoteProtocolError) -> None:
    """Say what is wrong with a request, if it can still be answered."""
    if connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
        return
    body = f"{error}\n".encode()
    headers = [("content-length", str(len(body))), ("connection", "close")]
    response = h11.Response(status_code=error.error_status_hint, headers=headers)
    data = (connection.send(response) or b"") + (connection.send(h11.Data(data=body)) or b"")
    writer.write(data + (connection.send(h11.EndOfMessage()) or b""))


def help_page(pages: Mapping[str, Page]) -> Page:
    """`/help`: every endpoint with one line."""

    def answer(_: Query) -> Answer:
        width = max(len(path) for path in pages)
        lines = [f"  {path:{width}}  {page.help}{' (POST)' if page.changes else ''}" for path, page in pages.items()]
        return text("\n".join(lines))

    return Page(answer, "this list")
