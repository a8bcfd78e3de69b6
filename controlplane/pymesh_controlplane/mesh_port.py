"""Port 9091: gRPC over the mesh's mutual TLS, for whoever has a certificate of this mesh and for nobody else.

It opens when there is a certificate to show, and stays open with the last one while a new one cannot be had.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

import grpc
from starlette.applications import Starlette

from pymesh.identity import Identity
from pymesh_controlplane.callers import proved
from pymesh_controlplane.citadel.attestation import Authenticator, UnauthenticatedError
from pymesh_controlplane.citadel.client import Certificate, Credentials
from pymesh_controlplane.citadel.frontend import TlsFrontend, load_certificate, server_context
from pymesh_controlplane.citadel.gate import Gate
from pymesh_controlplane.debug import HttpServer
from pymesh_controlplane.grpc_server import GrpcServer
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.pilot.server import Authenticate, StreamError
from pymesh_controlplane.tasks import until_first_ends

# Of the listening socket; all sidecars come at once when a mesh starts or this service does.
BACKLOG: Final = 1024
# Calls at once, over all connections: a stream for each sidecar of a service with a limit, and their questions.
MAX_CALLS: Final = 8192
# Seconds for the last bytes of connections that are closed.
FLUSH: Final = 0.1

# The services of a component, for the callers that it is given a way to tell.
Handlers: TypeAlias = Callable[[Authenticate], Iterable[grpc.GenericRpcHandler]]
# What is served over HTTP/1.1, given what tells who is at the other end of a connection.
Http: TypeAlias = Callable[[Callable[[str], Awaitable[Identity]]], Starlette]


class MeshPort:
    """The port, on `listener`, a socket that is bound and not yet listening."""

    def __init__(self, listener: socket.socket, certificate: Certificate, trust_domain: str, metrics: Metrics) -> None:
        self.certificate = certificate
        self._listener = listener
        self._trust_domain = trust_domain
        self._metrics = metrics
        self._frontend: TlsFrontend | None = None
        self._open = asyncio.Event()
        self._http_port = 0

    def waiting(self) -> str:
        """Why it is not open, or should not be trusted to stay so; "" if all is well."""
        return self.certificate.waiting

    async def run(self, services: Iterable[Handlers], http: Http | None = None) -> None:
        """Serve `services`, and over HTTP/1.1 what `http` makes, until cancelled."""
        pages = socket.create_server(("127.0.0.1", 0)) if http is not None else None
        try:
            parts = [self.certificate.run(self._use), self._serve(services)]
            if http is not None and pages is not None:
                self._http_port = pages.getsockname()[1]
                parts.append(HttpServer(http(self._who), pages).run_until_cancelled())
            await until_first_ends(*parts)
        finally:
            if pages is not None:
                pages.close()

    async def _serve(self, services: Iterable[Handlers]) -> None:
        await self._open.wait()
        frontend = self._frontend
        assert frontend is not None
        gate = Gate(frontend.peer_of, Authenticator(None, self._trust_domain))
        origin = proved(gate, lambda: self._metrics.count("controlplane_tls_refused", "identity"))
        served = [each for handlers in services for each in handlers(origin)]
        server = GrpcServer(served, MAX_CALLS, frontend.address_of)
        self._listener.listen(BACKLOG)
        async with asyncio.TaskGroup() as tasks:
            connections = tasks.create_task(frontend.serve(server.link))
            try:
                await server.serve()
            finally:  # what it says at the end passes here
                await asyncio.wait([tasks.create_task(frontend.drain(FLUSH))])  # see GrpcServer.serve
                connections.cancel()

    async def _who(self, inner: str) -> Identity:
        """Who is at the other end of the connection with this inner address."""
        peer = self._frontend.peer_of(inner) if self._frontend is not None else None
        try:
            if peer is None:
                raise UnauthenticatedError("this port takes calls from the TLS port only")
            caller = await Authenticator(None, self._trust_domain).authenticate([], peer)
        except UnauthenticatedError as error:
            self._metrics.count("controlplane_tls_refused", "identity")
            raise StreamError(grpc.StatusCode.UNAUTHENTICATED, str(error), "unauthenticated") from error
        return caller.identity

    def _use(self, credentials: Credentials) -> None:
        context = server_context(credentials.roots, demand=True, http=bool(self._http_port))
        load_certificate(context, credentials.chain, credentials.key)
        if self._frontend is None:
            self._frontend = TlsFrontend(self._listener, context, 0, self._metrics, http_port=self._http_port)
            self._open.set()
        self._frontend.use(context)
        self._metrics.set("controlplane_certificate_expiry_timestamp", credentials.expires.timestamp())
