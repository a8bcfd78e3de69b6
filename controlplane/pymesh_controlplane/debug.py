"""Port 15014: whether the control plane is ready, what it counts, and what can be asked of it."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeAlias

import h11
import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.pilot import status
from pymesh_controlplane.pilot.server import DiscoveryServer
from pymesh_controlplane.pilot.status import Json, TimeOf

# Connections at once: scrapers, probes and people. One more takes the place of the one that has been without an answer
# for longest, so that those who only hold connections cannot keep a readiness probe out.
MAX_CONNECTIONS = 128
# Seconds that a request, and at first a connection, has until all of the request is there.
REQUEST_TIMEOUT = 5.0
# Seconds an idle connection is kept; a Prometheus that scrapes every 15 s keeps its own.
KEEP_ALIVE = 30
# Bytes of a request's head.
MAX_HEAD = 16 * 1024
# Seconds that requests under way have to end when the process does.
GRACE = 2

# What any pod may read: probes and scrapers come from other places, without a certificate. That is not little, since
# telemetry's /metrics has the series of all workloads: who calls whom, how often (docs/kubernetes.md). The other pages
# tell of single requests, configuration and proxies; whoever may enter this pod (`pymesh`, `kubectl port-forward`) may
# read them.
OPEN = frozenset({"/livez", "/metrics", "/ready"})
_READS = frozenset({"GET", "HEAD"})

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


def application(
    pilot: DiscoveryServer | None,
    metrics: Metrics,
    time_of: TimeOf,
    *,
    waiting: Sequence[Callable[[], str]] = (),
    more: Sequence[BaseRoute] = (),
    collectors: Sequence[Collector] = (),
    texts: Sequence[Callable[[], str]] = (),
) -> Starlette:
    """The pages. Without `pilot` those that only it can fill are not there.

    Args:
        waiting: what else has to be ready: each says what it waits for, "" when it is.
        more: pages of other components.
        collectors: what else is shown at /metrics.
        texts: what is shown there as it is. Made in a thread, since it may be megabytes.
    """
    registry = CollectorRegistry()
    for collector in (metrics, *collectors):
        registry.register(collector)
    ProcessCollector(registry=registry)

    async def ready(_: Request) -> Response:
        unread = pilot is not None and pilot.world is None
        reasons = ["waiting for the configuration to be read"] if unread else []
        reasons += [reason for tell in waiting if (reason := tell()) and reason not in reasons]
        return PlainTextResponse("\n".join(reasons or ["ready"]) + "\n", 503 if reasons else 200)

    async def live(_: Request) -> Response:
        return PlainTextResponse("live\n")  # a process that answers; what it waits for is no reason to start it anew

    async def scrape(_: Request) -> Response:
        more = [await asyncio.to_thread(text) for text in texts]
        body = b"".join([generate_latest(registry), *(text.encode() for text in more)])
        return PlainTextResponse(body, media_type="text/plain; version=0.0.4")

    routes: list[BaseRoute] = [Route("/ready", ready), Route("/livez", live), Route("/metrics", scrape), *more]
    if pilot is not None:
        pages: dict[str, Callable[[], Json]] = {
            "syncz": lambda: status.syncz(pilot.connections.values(), time_of),
            "connections": lambda: status.connections_of(pilot.connections.values(), time_of),
            "configz": lambda: {**status.configz(pilot.world), "away": status.awayz(pilot.away, time_of)},
            "registryz": lambda: status.registryz(pilot.world),
        }
        routes += [Route(f"/debug/{name}", _json(page)) for name, page in pages.items()]
    return Starlette(routes=routes, middleware=[Middleware(FromHere)])


class FromHere:
    """Refuses what is not OPEN to callers from outside the pod, and changes to a page that a browser here shows.

    Browsers let any site send a POST to a port that somebody has forwarded to this one, and name the site with it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        host = str((scope.get("client") or ("", 0))[0])
        if scope["type"] == "http" and scope["path"] not in OPEN and not _is_loopback(host):
            sentence = f"{scope['path']} is shown to callers in this pod only, on 127.0.0.1\n"
            await PlainTextResponse(sentence, 403)(scope, receive, send)
            return
        if scope["type"] == "http" and scope["method"] not in _READS and "origin" in Headers(scope=scope):
            await PlainTextResponse("nothing is changed here from a page in a browser\n", 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP, with two bounds that it has no setting for: `max_connections` and REQUEST_TIMEOUT."""

    max_connections = MAX_CONNECTIONS
    answered = 0.0  # when it last had a response, or began: seconds on the loop's clock
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Take the connection in; the oldest of too many goes."""
        super().connection_made(transport)
        self.answered = self.loop.time()
        self._watch(waiting=True)
        if len(self.connections) > self.max_connections:
            others = (other for other in self.connections if isinstance(other, BoundedProtocol) and other is not self)
            oldest = min(others, key=lambda other: other.answered)
            self.connections.discard(oldest)
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        self._watch(waiting=self._unfinished())

    def on_response_complete(self) -> None:
        """Go to the back of the queue of those to drop."""
        self.answered = self.loop.time()
        super().on_response_complete()
        self._watch(waiting=self._unfinished())

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timer."""
        super().connection_lost(exc)
        self._watch(waiting=False)

    def _unfinished(self) -> bool:
        """Whether a part of a request is there."""
        state = self.conn.their_state
        return state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))

    def _watch(self, *, waiting: bool) -> None:
        if not waiting and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        elif waiting and self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_TIMEOUT, self.transport.abort)


class HttpServer(uvicorn.Server):
    """uvicorn on a socket of ours; signals stay with the control plane."""

    def __init__(
        self,
        app: Starlette,
        listener: socket.socket,
        *,
        protocol: type[BoundedProtocol] = BoundedProtocol,
        keep_alive: int = KEEP_ALIVE,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,  # x-forwarded-for does not say who is at the other end; uvicorn would take it
                timeout_keep_alive=keep_alive,
                timeout_graceful_shutdown=GRACE,
                h11_max_incomplete_event_size=MAX_HEAD,
            )
        )
        self._listener = listener

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none: the composition root does."""
        yield

    async def run_until_cancelled(self) -> None:
        """Serve; when cancelled, end what is under way within GRACE seconds."""
        serving = asyncio.get_running_loop().create_task(self.serve(sockets=[self._listener]))
        try:
            await asyncio.shield(serving)
        finally:
            self.should_exit = True
            await serving


def _json(page: Callable[[], Json]) -> Endpoint:
    async def answer(_: Request) -> Response:
        return JSONResponse(page())

    return answer
