"""Port 15017: HTTPS for the API server, which asks about pods (/inject) and resources of the mesh (/validate).

What cannot be answered (no review, no world yet, too much at once, too late, a mistake of ours) is an HTTP error with a
`Status`: the API server then does what the webhook's failurePolicy says, and shows why.
"""

import asyncio
import json
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, NamedTuple

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from pymesh import names
from pymesh.resources.fields import seconds
from pymesh_controlplane.citadel import serving
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.debug import BoundedProtocol, HttpServer
from pymesh_controlplane.galley.webhook import Judge
from pymesh_controlplane.injector import webhook as injector
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.sources.base import Source
from pymesh_controlplane.webhooks import admission
from pymesh_controlplane.webhooks.admission import Answer, Request, ReviewError
from pymesh_controlplane.webhooks.bounds import MAX_BODIES, MAX_WAITING, BusyError, Desk, Room
from pymesh_controlplane.webhooks.metrics import Outcome, WebhookMetrics

log = logging.getLogger("pymesh.webhooks")

# The names of the two Services, as an API server calls them and as a person may.
DNS_NAMES: Final = tuple(
    f"{service}.{names.SYSTEM_NAMESPACE}.svc{domain}"
    for service in ("injector", "galley")
    for domain in ("", f".{names.CLUSTER_DOMAIN}")
)
# Seconds. A handshake takes milliseconds of work and two round trips; who needs longer is stuck or hostile.
HANDSHAKE_TIMEOUT: Final = 5.0
# Connections at once: an API server opens one for each question that waits, over HTTP/1.1. Each has a buffer of 256 KiB
# for TLS, which asyncio gives it, and up to 64 KiB that uvicorn has read ahead.
MAX_CONNECTIONS: Final = 2 * MAX_WAITING
# Seconds an idle connection is kept. Go's client gives one up after 90: the end that asks should be the one to close,
# or a question may cross the end of its connection.
KEEP_ALIVE: Final = 120
# Seconds until the API server stops to wait, if it does not say; timeoutSeconds of a webhook is at most MAX_TIMEOUT ...
TIMEOUT: Final = 10.0
MAX_TIMEOUT: Final = 30.0
# ... and how much earlier it is told that there will be no answer.
HEADROOM: Final = 0.5
# Seconds that a new world is waited for when an object names what is not in this one: what was stored just before, by
# the same `kubectl apply`, is seen a moment later.
PATIENCE: Final = 1.0


class _Reply(NamedTuple):
    """HTTP status and body of an answer, how it is to be counted, and whether the connection ends with it."""

    code: int
    body: bytes
    outcome: Outcome
    close: bool = False


class Webhooks:
    """The server of both webhooks, or of one.

    Args:
        listener: bound and listening; it is closed at the end.
        trust: of the certificate that is shown, and of the `caBundle` that API servers know.
        injection: what is the same for all pods as of now; without it there is no /inject.
        source: the world in force, for galley; without it there is no /validate.
        clock: the time of day.
    """

    def __init__(
        self,
        listener: socket.socket,
        trust: Trust,
        *,
        injection: Callable[[], InjectionConfig] | None,
        source: Source | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._listener = listener
        self._trust = trust
        self._clock = clock
        self._room = Room(MAX_BODIES)
        self._galley = None if source is None else _Galley(source, clock)
        self._webhooks: dict[str, _Injector | _Galley] = {}
        if injection is not None:
            self._webhooks["inject"] = _Injector(injection)
        if self._galley is not None:
            self._webhooks["validate"] = self._galley
        self.metrics = WebhookMetrics(tuple(self._webhooks))

    def waiting(self) -> str:
        """Why no question could be answered yet; empty if they can."""
        return self._galley.waiting() if self._galley is not None else ""

    async def run(self) -> None:
        """Serve until cancelled; then what is under way is answered.

        Raises:
            CsrError: the authority has expired.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        due = serving.renew(self._trust.authority, context, now=self._clock(), dns_names=DNS_NAMES)
        app = Starlette(routes=[Route(f"/{name}", self._endpoint(name), methods=["POST"]) for name in self._webhooks])
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._galley is not None:
                    tasks.create_task(self._galley.follow())
                tasks.create_task(serving.keep_fresh(self._trust, context, due, clock=self._clock, dns_names=DNS_NAMES))
                tasks.create_task(_Server(app, self._listener, context).run_until_cancelled())
        finally:
            for webhook in self._webhooks.values():
                webhook.desk.close()

    def _endpoint(self, name: str) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def endpoint(http: HttpRequest) -> Response:
            began = time.monotonic()
            reply = await self._answered(name, http)
            self.metrics.answered(name, reply.outcome, time.monotonic() - began)
            headers = {"connection": "close"} if reply.close else None
            return Response(reply.body, reply.code, headers, "application/json")

        return endpoint

    async def _answered(self, name: str, http: HttpRequest) -> _Reply:
        webhook = self._webhooks[name]
        patience = _patience(http)
        due = asyncio.get_running_loop().time() + patience
        try:
            async with asyncio.timeout_at(due):
                with self._room.enter() as take:
                    request = await webhook.desk.ask(due, admission.read, await _body(http, take))
                    answer = await webhook.answer(request, due)
        except BusyError as error:
            self.metrics.turned_away(name, error.what)
            return _failed(name, error.status, str(error), close=error.what == "bytes")
        except ReviewError as error:
            return _failed(name, error.status, str(error))
        except TimeoutError:
            return _failed(name, 504, f"pymesh had no answer within {patience:g} s: is its control plane overloaded?")
        except ClientDisconnect:
            return _failed(name, 400, "the caller has gone")
        except Exception:  # whatever is wrong with one question must not end the others
            log.exception("/%s: a mistake in pymesh", name)
            return _failed(name, 500, "a mistake in pymesh, which its control plane's log tells of: please report it")
        if answer.refused:
            log.info("/%s refused: %s", name, admission.refusal(request, answer.refused).replace("\n", "; "))
        outcome: Outcome = "refused" if answer.refused else "patched" if answer.patch else "allowed"
        return _Reply(200, admission.write(request, answer), outcome)


class _Injector:
    def __init__(self, config: Callable[[], InjectionConfig]) -> None:
        self.desk = Desk("injector")
        self._config = config

    async def answer(self, request: Request, due: float) -> Answer:
        return await self.desk.ask(due, injector.answer, request, self._config())


class _Galley:
    def __init__(self, source: Source, clock: Callable[[], datetime]) -> None:
        self.desk = Desk("galley")
        self._source = source
        self._clock = clock
        self._judge = Judge()
        self._world: World | None = None
        self._changed = asyncio.Condition()

    def waiting(self) -> str:
        return "" if self._world is not None else "galley waits for the configuration to be read"

    async def follow(self) -> None:
        """Keep up with the world, until cancelled."""
        async for world in self._source.watch():
            async with self._changed:
                self._world = world
                self._changed.notify_all()

    async def answer(self, request: Request, due: float) -> Answer:
        """The judge's answer, before `due`; where that is about what may be on its way, a moment later."""
        loop = asyncio.get_running_loop()
        world = self._world
        if world is None:
            raise ReviewError(f"{self.waiting()}: try again", 503)
        deadline = loop.time() + min(PATIENCE, (due - loop.time()) / 2)
        answer = await self.desk.ask(due, self._judge.answer, request, world, self._clock())
        # Nothing is waited for in a dry run: what would have come just before was not stored either.
        while answer.dangling and not request.dry_run and loop.time() < deadline:
            newer = await self._after(world, deadline)
            if newer is None:
                break
            world = newer
            try:
                answer = await self.desk.ask(due, self._judge.answer, request, world, self._clock())
            except BusyError:
                break  # there is an answer: it is of a moment ago
        return answer

    async def _after(self, world: World, deadline: float) -> World | None:
        """The world after `world`; None if there is none until `deadline`, of the loop's clock."""
        try:
            async with asyncio.timeout_at(deadline), self._changed:
                await self._changed.wait_for(lambda: self._world is not world)
        except TimeoutError:
            return None
        return self._world


class _Protocol(BoundedProtocol):
    max_connections = MAX_CONNECTIONS


class _Server(HttpServer):
    """HttpServer over TLS, with a bound on handshakes that uvicorn has no setting for."""

    def __init__(self, app: Starlette, listener: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(app, listener, protocol=_Protocol, keep_alive=KEEP_ALIVE)
        self._context = context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port; the loop calls what this makes for each connection."""
        await self.lifespan.startup()
        server = await asyncio.get_running_loop().create_server(
            lambda: _Protocol(self.config, self.server_state, self.lifespan.state),
            sock=self._listener,
            ssl=self._context,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
        )
        self.servers = [server]
        self.started = True


async def _body(http: HttpRequest, take: Callable[[int], None]) -> bytes:
    """The request's body, for which room is taken as it comes.

    Raises:
        BusyError: there is no room for it.
        ReviewError: it is not JSON, or too long.
    """
    media_type = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ReviewError("send an AdmissionReview as application/json", 415)
    body = bytearray()
    async for chunk in http.stream():
        take(len(chunk))
        body += chunk
        if len(body) > admission.MAX_BODY:
            raise ReviewError(f"the review has more than {admission.MAX_BODY} bytes", 413)
    return bytes(body)


def _patience(http: HttpRequest) -> float:
    """Seconds to answer in. An API server says in the URL how long it waits: `/inject?timeout=10s`."""
    try:
        asked = seconds(http.query_params.get("timeout", ""))
    except ValueError:
        asked = TIMEOUT
    return min(max(asked - HEADROOM, HEADROOM), MAX_TIMEOUT)


def _failed(name: str, code: int, message: str, *, close: bool = False) -> _Reply:
    log.warning("/%s could not be answered (%d): %s", name, code, message)
    return _Reply(code, json.dumps(admission.status(message, code)).encode(), "failed", close)
